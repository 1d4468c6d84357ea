"""The tagger: a mean over words, accuracies by kind of word, vectors of an ambiguous word."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from dlreview.data.tagged import Tagged
from dlreview.learners.tagger import Tagger, agreement, tag_counts, tagging_loss
from dlreview.nn.lstm import BiLSTM
from dlreview.nn.tagger import RecurrentTagger, Spelling
from tests.learners import bare_trainer

WORDS = 300


def net():
    return RecurrentTagger(WORDS, 16, 12, Spelling(200, 6, 4), BiLSTM(20, 16))


def data(**options):
    return Tagged("python-source", **{"batch_size": 32, "vocabulary_size": WORDS} | options)


@pytest.fixture(scope="module")
def source():
    made = data()
    made.setup()
    return made


trainer = partial(bare_trainer.trainer, limit_train_batches=40)


def test_vectors_agree_where_kinds_lie_apart():
    torch.manual_seed(0)
    kind = torch.arange(40) % 2
    apart = torch.randn(40, 6) * 0.1 + torch.where(kind == 0, 1.0, -1.0)[:, None]
    assert agreement(apart, kind) == 1.0
    mixed = agreement(torch.randn(400, 6), torch.arange(400) % 2)
    assert 0.3 < mixed < 0.7
    assert agreement(apart[:1], kind[:1]) == 0.0


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_it_learns_and_measures_every_kind_of_word(tmp_path, source, precision):
    learner = Tagger(net(), lambda p: torch.optim.Adam(p, lr=0.01), shown="name")
    run = trainer(tmp_path, precision=precision)
    run.fit(learner, datamodule=source)
    metrics = run.callback_metrics
    assert metrics["val/accuracy"] > 0.7, "46 in 100 are operators"
    assert [p.name[:7] for p in (tmp_path / "pictures").iterdir()] == ["vectors"]
    assert 0 <= metrics["val/vectors_agree"] <= 1
    if precision == "32-true":
        net_ = learner.net.eval()
        right, known, losses = [], [], []
        with torch.no_grad():
            for batch in source.val_dataloader():
                logits = net_(*(batch[k] for k in ("words", "spellings", "form", "lengths")))
                for row, length in enumerate(batch["lengths"].tolist()):
                    for t in range(length):
                        tag = batch["tags"][row, t]
                        right.append(bool(logits[row, t].argmax() == tag))
                        known.append(int(batch["known"][batch["form"][row, t]]))
                        losses.append(logits[row, t].log_softmax(0)[tag].neg())
                if len(right) > 3000:
                    break
        assert len(right) > 3000
        right, known = torch.tensor(right).float(), torch.tensor(known)
        expected = (right.mean(), right[known > 1].mean(), right[known == 0].mean())
        run = trainer(tmp_path, limit_val_batches=(len(right) > 0) * count_batches(source, right))
        run.validate(learner, datamodule=source, verbose=False)
        names = ("val/accuracy", "val/accuracy_ambiguous", "val/accuracy_unseen")
        for name, value in zip(names, expected, strict=True):
            torch.testing.assert_close(run.callback_metrics[name], value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(run.callback_metrics["val/loss"], torch.stack(losses).mean())


def count_batches(source, right):
    """Return how many batches hold the first len(right) words of the test split."""
    total = 0
    for number, batch in enumerate(source.val_dataloader()):
        total += int(batch["lengths"].sum())
        if total == len(right):
            return number + 1
    raise AssertionError


def test_the_loss_is_the_mean_over_words_not_over_sentences(source):
    learner = Tagger(net())
    batch = source.train_set[[1, 5, 40, 41]]
    loss = learner.loss(batch, learner.random(batch))
    assert len(loss) == batch["lengths"].sum()
    logits = learner.net(*(batch[k] for k in ("words", "spellings", "form", "lengths")))
    expected = F.cross_entropy(logits.flatten(0, 1), batch["tags"].flatten(), ignore_index=-1)
    torch.testing.assert_close(loss.mean(), expected)
    torch.testing.assert_close(
        tagging_loss(logits[0, :1], batch["tags"][0, :1]),
        F.cross_entropy(logits[0, :1], batch["tags"][0, :1], reduction="none"),
    )


def test_it_overfits_one_batch(source):
    torch.manual_seed(0)
    learner = Tagger(net(), partial(torch.optim.Adam, lr=0.02))
    batch = source.train_set[list(range(100, 116))]
    optimizer = learner.configure_optimizers()
    for _ in range(100):
        loss = learner.loss(batch, learner.random(batch)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.02


def test_the_word_that_is_shown(tmp_path, source):
    chosen = Tagger(net(), shown="Name")  # words count without capitals
    chosen._trainer = type("T", (), {"datamodule": source})()
    chosen.setup("fit")
    assert chosen.shown_word == "name"
    counts = tag_counts(source)
    own = counts[source.words.index["name"]]
    assert own[source.tags.index["attribute"]] > 5 and own[source.tags.index["parameter"]] > 5
    free = Tagger(net())
    free._trainer = chosen._trainer
    free.setup("fit")
    second = counts.sort(dim=1, descending=True).values[:, 1]
    assert second[free.shown_number] == second.max() > 0


@pytest.mark.parametrize("word", ["nosuchword", "<unk>"])
def test_a_word_that_the_test_split_lacks_is_refused(source, word):
    with pytest.raises(ValueError, match=f"shown '{word}': the test split has no such word"):
        Tagger(net(), shown=word).accept(source, None)
