"""Masked language modelling: which tokens are hidden, what they become, and what is measured."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from dlreview.data.tokenizer import MASK, SPECIALS
from dlreview.learners.learner import TRAIN, VALIDATE
from dlreview.learners.masked_lm import IGNORE, MaskedLM, MostFrequent, corrupt
from dlreview.messages import UserError
from dlreview.nn.bert import BERT, MaskedTokenHead
from dlreview.randomness import RowRandom
from dlreview.running import trial
from tests.learners import bare_trainer

WORDS, LONGEST = 23, 16
SGD = partial(torch.optim.SGD, lr=0.1)


def net(**change):
    options = {"dropout": 0.0, "head": MaskedTokenHead(WORDS, 12)} | change
    return BERT(WORDS, 12, 2, 3, LONGEST, **options)


def texts(rows=6, length=LONGEST, seed=0):
    """Return texts with <bos> and <eos>, every third of them shorter than the others."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(len(SPECIALS), WORDS, (rows, length), generator=generator)
    ids[:, 0], ids[:, -1] = 2, 3
    mask = torch.ones_like(ids)
    for row in range(0, rows, 3):
        mask[row, length // 2 :] = 0
    return {"ids": ids.masked_fill(mask == 0, 0), "mask": mask}


def numbers_for(rows, length, seed=1):
    return torch.rand(rows, 3, length, generator=torch.Generator().manual_seed(seed))


def changed(batch, share=0.5, seed=1, vocabulary_size=WORDS):
    ids, mask = batch["ids"], batch["mask"].bool()
    return corrupt(ids, mask, numbers_for(*ids.shape, seed), share, vocabulary_size)


@pytest.mark.parametrize("share", [0.01, 0.15, 0.5, 1.0])
def test_a_share_of_the_words_of_each_text_is_chosen(share):
    batch = texts()
    text = changed(batch, share)
    for row in range(len(batch["ids"])):
        ids = batch["ids"][row]
        chosen = text.words[row] != IGNORE
        places = text.places[row][chosen]
        words = int((ids >= len(SPECIALS)).sum())
        assert len(places) == len(set(places.tolist())) == max(1, round(share * words))
        assert (ids[places] >= len(SPECIALS)).all(), "neither special tokens nor padding"
        assert torch.equal(text.words[row][chosen], ids[places])
        others = torch.ones_like(ids, dtype=torch.bool)
        others[places] = False
        assert torch.equal(text.ids[row][others], ids[others])


def test_a_text_without_words_has_no_chosen_token():
    ids = torch.tensor([[2, 3, 0, 0], [2, 7, 3, 0]])
    text = changed({"ids": ids, "mask": ids > 0})
    assert (text.words[0] == IGNORE).all() and torch.equal(text.ids[0], ids[0])
    assert sorted(text.words[1].tolist()) == [IGNORE, 7]


def test_of_the_chosen_tokens_most_are_hidden_some_replaced_some_kept():
    count, words = 400, 10_000
    ids = torch.randint(len(SPECIALS), words, (count, 100))
    text = changed({"ids": ids, "mask": torch.ones_like(ids)}, 0.5, vocabulary_size=words)
    now = text.ids.gather(1, text.places)
    hidden, kept = now == MASK, now == text.words
    replaced = ~hidden & ~kept
    share = (0.8, 0.1, 0.1)
    for part, expected in zip((hidden, replaced, kept), share, strict=True):
        assert part.float().mean().item() == pytest.approx(expected, abs=0.01)
    drawn = now[replaced]
    assert drawn.min() >= len(SPECIALS) and drawn.max() < words
    assert drawn.float().mean().item() == pytest.approx(words / 2, rel=0.05), "drawn evenly"
    uniform = torch.bincount(text.places.flatten(), minlength=100) / (count * 50)
    assert uniform.min() > 0.005 and uniform.max() < 0.02, "every place is chosen alike"


@pytest.mark.parametrize("processes", [2, 3])
def test_a_text_meets_the_same_masks_in_any_number_of_processes(processes):
    """Its padding does not matter, which depends on the texts beside it."""
    batch = texts(6)
    batch["mask"][4:, 9:] = 0  # the last texts are short: their process cuts the padding off
    learner, share, found = MaskedLM(net()), 6 // processes, []
    whole, _, words = learner.corrupt(batch, RowRandom(6, torch.device("cpu"), (TRAIN, 1, 2)))
    for rank in range(processes):
        part = {name: x[rank * share : (rank + 1) * share] for name, x in batch.items()}
        longest = int(part["mask"].sum(1).max())
        part = {name: x[:, :longest] for name, x in part.items()}
        random = RowRandom(share, torch.device("cpu"), (TRAIN, 1, 2), rank, processes)
        ids, _, own = learner.corrupt(part, random)
        found += [row[row != IGNORE].tolist() for row in own]
        rows = slice(rank * share, (rank + 1) * share)
        kept = part["mask"].bool()
        assert torch.equal(ids[kept], whole[rows, :longest][kept])
    assert found == [row[row != IGNORE].tolist() for row in words]


def test_the_loss_is_that_of_the_chosen_tokens_only():
    learner, batch = MaskedLM(net(), share=0.3), texts()
    random = learner.random(batch, TRAIN, 0, 0)
    losses, weights = learner.loss(batch, random)
    loss = losses[weights.bool()]
    numbers = learner.random(batch, TRAIN, 0, 0).uniform(3, LONGEST)
    text = corrupt(batch["ids"], batch["mask"].bool(), numbers, 0.3, WORDS)
    targets = torch.full_like(batch["ids"], -100)
    targets.scatter_(1, text.places, text.words)
    logits = learner.net(text.ids, batch["mask"])
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(loss.mean(), expected)
    assert len(loss) == (targets != -100).sum() and loss.dtype == torch.float32
    ours, theirs = (torch.autograd.grad(x, learner.net.embedding.weight, retain_graph=True)[0]
                    for x in (loss.mean(), expected))  # fmt: skip
    torch.testing.assert_close(ours, theirs)


def test_a_batch_may_say_that_it_has_no_padding():
    learner, batch = MaskedLM(net()), texts(4)
    whole = {"ids": batch["ids"].clamp(min=len(SPECIALS)), "mask": torch.ones(4, LONGEST)}
    losses = [learner.loss(b, learner.random(b, 0)) for b in (whole, whole | {"mask": None})]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_validation_measures_the_same_tokens_each_time(tmp_path, precision):
    learner = MaskedLM(net(), SGD, share=0.4)
    rows = [{name: x[n] for name, x in texts(7).items()} for n in range(7)]
    run = bare_trainer.trainer(tmp_path, precision=precision)
    run.fit(learner, DataLoader(rows, 4), DataLoader(rows, 4))
    first = {name: float(x) for name, x in run.callback_metrics.items()}
    run.validate(learner, DataLoader(rows, 4), verbose=False)
    names = ("val/loss", "val/accuracy", "val/most_frequent")
    assert {n: float(run.callback_metrics[n]) for n in names} == {n: first[n] for n in names}
    if precision != "32-true":
        return
    losses, right, words, model = [], [], [], learner.net.eval()
    for number, batch in enumerate(DataLoader(rows, 4)):
        random = RowRandom(len(batch["ids"]), torch.device("cpu"), (VALIDATE, number))
        numbers = random.uniform(3, LONGEST)
        text = corrupt(batch["ids"], batch["mask"].bool(), numbers, 0.4, WORDS)
        for ids, mask, places, own in zip(text.ids, batch["mask"], *text[1:], strict=True):
            logits = model(ids[None], mask[None])[0].detach()
            for place, word in zip(places[own >= 0], own[own >= 0], strict=True):
                losses.append(float(F.cross_entropy(logits[place], word)))
                right.append(int(logits[place].argmax()) == word)
                words.append(int(word))
    mean = sum(losses) / len(losses)
    assert first["val/loss"] == pytest.approx(mean, rel=1e-5)
    assert first["val/accuracy"] == pytest.approx(sum(right) / len(right))
    most = max(words.count(word) for word in words) / len(words)
    assert first["val/most_frequent"] == pytest.approx(most)


def test_the_most_frequent_token_over_batches():
    metric = MostFrequent(9)
    for words in ([1, 2, 2], [3], [], [1, 1]):
        metric.update(torch.tensor(words, dtype=torch.long))
    assert float(metric.compute()) == pytest.approx(3 / 6)
    metric.reset()
    metric.update(torch.zeros(0, dtype=torch.long))
    assert metric.compute() == 0


def test_it_learns_texts_by_heart():
    torch.manual_seed(0)
    made = BERT(WORDS, 32, 2, 4, LONGEST, dropout=0.0, head=MaskedTokenHead(WORDS, 32))
    learner = MaskedLM(made, partial(torch.optim.AdamW, lr=3e-3))
    batch, optimizer = texts(8), learner.configure_optimizers()
    losses = []
    for step in range(300):
        measured, weights = learner.loss(batch, learner.random(batch, TRAIN, 0, step))
        losses.append((measured * weights).sum() / weights.sum())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[0] > 2.5 and torch.stack(losses[-20:]).mean() < 0.6


def test_biases_and_norms_do_not_decay():
    learner = MaskedLM(net())
    decayed, spared = learner.configure_optimizers().param_groups
    assert decayed["weight_decay"] > 0 and spared["weight_decay"] == 0
    assert all(p.ndim == 2 for p in decayed["params"])
    assert all(p.ndim == 1 for p in spared["params"])
    both = [id(p) for group in (decayed, spared) for p in group["params"]]
    assert sorted(both) == sorted(map(id, learner.net.parameters()))


def test_the_head_scores_chosen_tokens_only():
    learner, batch, seen = MaskedLM(net(), share=0.25), texts(), []
    learner.net.head.register_forward_hook(lambda _, args, logits: seen.append(len(logits)))
    _, weights = learner.loss(batch, learner.random(batch, 0))
    assert seen == [6 * LONGEST // 4] and 0 < weights.sum() <= seen[0]


@pytest.mark.parametrize("longest", [LONGEST, LONGEST - 1])
def test_data_and_network_are_tried_before_training(monkeypatch, longest):
    """The trial reaches a verdict: no shape depends on the numbers."""
    monkeypatch.setattr(trial, "UNDECIDED", ())
    rows = [{name: x[n] for name, x in texts(4).items()} for n in range(4)]
    data = SimpleNamespace(
        train_dataloader=lambda: DataLoader(rows, 2), on_after_batch_transfer=lambda batch, _: batch
    )
    made = BERT(WORDS, 12, 2, 3, longest, head=MaskedTokenHead(WORDS, 12))
    if longest == LONGEST:
        trial.try_loss(MaskedLM(made), data)
    else:
        with pytest.raises(UserError, match="length must be at most max_length 15, got 16"):
            trial.try_loss(MaskedLM(made), data)


def test_refuses():
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match=rf"share must be in \(0, 1\], got {share}"):
            MaskedLM(net(), share=share)
    with pytest.raises(ValueError, match="net must have a head that scores words, BERT has none"):
        MaskedLM(net(head=None))
    with pytest.raises(ValueError, match="vocabulary_size must be at least 6, got 5"):
        MaskedLM(BERT(5, 12, 1, 3, 4, head=MaskedTokenHead(5, 12)))
    assert MaskedLM(net()).usage() == {"task": "fill_mask"}
