"""The word2vec learner: both objectives are what is written, all three ways of updating learn."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from dlreview.data.corpus import Corpus
from dlreview.learners import word2vec
from dlreview.learners.windows import Examples, draw_negatives
from dlreview.learners.word2vec import Word2Vec, full_softmax_loss, negative_sampling_loss
from dlreview.nn.word2vec import Word2Vec as Network
from tests.learners import bare_trainer

WORDS, WIDTH = 60, 16


def test_full_softmax_is_cross_entropy():
    """Row 5, gradients too; one-hot rows times the two matrices are the network (row 4)."""
    net = Network(11, 7).double()
    torch.nn.init.normal_(net.output.weight)
    context, word = torch.tensor([[3], [0], [10]]), torch.tensor([4, 4, 0])
    loss = full_softmax_loss(net(context), word)
    one_hot = F.one_hot(context[:, 0], 11).double()
    logits = one_hot @ net.input.weight @ net.output.weight.T
    expected = torch.nn.CrossEntropyLoss(reduction="none")(logits, word)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    ours = torch.autograd.grad(loss.mean(), list(net.parameters()))
    theirs = torch.autograd.grad(expected.mean(), list(net.parameters()))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["skipgram", "cbow"])
def test_the_softmax_in_parts_is_the_whole(monkeypatch, method):
    """Targets that come often share a row, rows are scored some at a time: the same gradient."""
    learner = Word2Vec(Network(11, 7).double(), method, "full_softmax", "autograd")
    net = learner.net
    torch.nn.init.normal_(net.output.weight)
    context = torch.randint(11, (40, 1 if method == "skipgram" else 4))
    mask = None if method == "skipgram" else torch.rand(40, 4) < 0.6
    if mask is not None:
        mask[:, 0] = True
    part = Examples(context, mask, torch.randint(11, (40,)), torch.arange(40))
    expected = full_softmax_loss(net(part.context, part.mask), part.word)
    wanted = torch.autograd.grad(expected.mean(), list(net.parameters()))
    for at_once in (1000, 3):
        monkeypatch.setattr(word2vec, "AT_ONCE", at_once)
        loss = learner.losses(part)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)  # in float32
        found = torch.autograd.grad(loss.mean(), list(net.parameters()))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


def test_negative_sampling_is_the_sum_that_is_written():
    word, negatives = torch.tensor([0.3, -2.0]), torch.tensor([[1.0, -1.0], [0.5, 40.0]])
    counted = torch.tensor([[True, True], [True, False]])
    sigma = torch.sigmoid
    expected = torch.stack([
        -sigma(word[0]).log() - sigma(-negatives[0, 0]).log() - sigma(-negatives[0, 1]).log(),
        -sigma(word[1]).log() - sigma(-negatives[1, 0]).log(),  # the word itself does not count
    ])  # fmt: skip
    torch.testing.assert_close(negative_sampling_loss(word, negatives, counted), expected)


trainer = partial(bare_trainer.trainer, limit_train_batches=3)


def corpus(**options):
    return Corpus(**{"batch_size": 64, "vocabulary_size": WORDS} | options)


@pytest.mark.parametrize("method", ["skipgram", "cbow"])
@pytest.mark.parametrize("objective", ["negative_sampling", "full_softmax"])
def test_the_loss_of_a_batch_is_the_mean_over_its_examples(tmp_path, method, objective):
    """A step by hand, autograd on the formula of each example, is the learner's step."""
    learner = Word2Vec(Network(WORDS, WIDTH), method, objective, "autograd", window=2, negatives=3)
    torch.nn.init.normal_(learner.net.output.weight, std=0.5)
    run = trainer(tmp_path, limit_train_batches=1, limit_val_batches=0)
    run.fit(learner, datamodule=(data := corpus(batch_size=5)))
    batch = data.train_set[list(range(3, 8))]
    found = learner.examples(batch, key=9)
    losses = learner.losses(found)
    net = learner.net
    for number in (0, len(losses) // 2, len(losses) - 1):
        kept = slice(None) if found.mask is None else found.mask[number]
        h = net.input.weight[found.context[number][kept]].mean(0)
        scores = net.output.weight @ h
        own = found.word[number]
        if objective == "full_softmax":
            expected = -scores.log_softmax(0)[own]
        else:
            alias = (learner.threshold, learner.other)
            drawn = draw_negatives(found.key[number : number + 1], 3, alias)[0]
            expected = -F.logsigmoid(scores[own]) - sum(
                F.logsigmoid(-scores[k]) for k in drawn if k != own
            )
        torch.testing.assert_close(losses[number], expected)


@pytest.mark.parametrize("update", ["sequential", "hogwild", "autograd"])
@pytest.mark.parametrize("method", ["skipgram", "cbow"])
def test_it_learns_measures_and_draws(tmp_path, update, method):
    net = Network(WORDS, WIDTH)
    options = {"rate": 0.1} if update != "autograd" else {}
    learner = Word2Vec(net, method, "negative_sampling", update, threads=None, **options)
    run = trainer(tmp_path, max_epochs=4, limit_train_batches=None, check_val_every_n_epoch=4)
    run.fit(learner, datamodule=corpus())
    # Guessing by frequency alone costs each of six answers ln 2 at first: 4.16 nats.
    assert 0 < run.callback_metrics["val/loss"] < 3.7
    assert run.global_step == 4 * len(run.train_dataloader.sampler)
    assert 0 <= run.callback_metrics["val/wordsim353_covered"] < 0.05
    assert "val/wordsim353" not in run.callback_metrics, "a correlation of a few pairs"
    assert "val/analogies_covered" in run.callback_metrics
    assert [p.name.split("_")[0] for p in (tmp_path / "pictures").iterdir()] == ["words"]


@pytest.mark.parametrize("objective", ["negative_sampling", "full_softmax"])
def test_it_overfits_a_small_text(tmp_path, objective):
    text = tmp_path / "text.txt"  # who stands beside whom is certain
    text.write_text("ab cd\nef gh\nij kl\n" * 20)
    words = Corpus(str(text), batch_size=60, min_count=1, test_split="train")
    net = Network(6, WIDTH)
    make = lambda p: torch.optim.Adam(p, lr=0.05)  # noqa: E731
    learner = Word2Vec(net, "skipgram", objective, "autograd", sample=0.0, optimizer=make)
    run = trainer(tmp_path, max_epochs=200, limit_val_batches=0)
    run.fit(learner, datamodule=words)
    with torch.no_grad():
        answer = net(torch.arange(6)[:, None]).argmax(1)
    index = words.vocabulary.index
    for one, other in (("ab", "cd"), ("ef", "gh"), ("ij", "kl")):
        assert answer[index[one]] == index[other] and answer[index[other]] == index[one]
    if objective == "full_softmax":
        loss = full_softmax_loss(net(torch.arange(6)[:, None]), answer)
        assert loss.max() < 0.02


def test_sequential_repeats_bit_for_bit_and_follows_the_seed(tmp_path, monkeypatch):
    nets = []
    for seed in ("0", "0", "1"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        torch.manual_seed(5)
        net = Network(WORDS, WIDTH)
        run = trainer(tmp_path, max_epochs=2, limit_val_batches=0)
        run.fit(Word2Vec(net, update="sequential"), datamodule=corpus())
        nets.append(net.input.weight.detach().clone())
    assert torch.equal(nets[0], nets[1]) and not torch.equal(nets[0], nets[2])


def test_the_rate_falls_linearly_to_the_last(tmp_path, monkeypatch):
    from dlreview.learners import word2vec_kernel

    rates, real = [], word2vec_kernel.train_pass

    def watched(*vectors, **how):
        rates.append(how["rates"])
        return real(*vectors, **how)

    monkeypatch.setattr(word2vec_kernel, "train_pass", watched)
    learner = Word2Vec(Network(WORDS, WIDTH), rate=0.4, last_rate=0.1)
    trainer(tmp_path, max_epochs=2, limit_val_batches=0).fit(learner, datamodule=corpus())
    assert len(rates) == 6
    ends = torch.tensor(rates)
    torch.testing.assert_close(ends[:, 0], torch.linspace(0.4, 0.15, 6))
    torch.testing.assert_close(ends[:, 1], torch.linspace(0.35, 0.1, 6))


def test_bf16_mixed_trains(tmp_path):
    learner = Word2Vec(Network(WORDS, WIDTH), objective="full_softmax", update="autograd")
    run = trainer(tmp_path, precision="bf16-mixed")
    run.fit(learner, datamodule=corpus())
    assert run.callback_metrics["val/loss"] < 4.2  # ln 60 = 4.09


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"window": 0}, "window must be in 1..1000, got 0"),
        ({"negatives": 0}, "negatives must be in 1..1000, got 0"),
        ({"threads": 0}, "threads must be in 1..1000, got 0"),
        ({"sample": -1.0}, "sample must be at least 0"),
        ({"rate": float("nan")}, "rate must be at least 0"),
        ({"objective": "full_softmax"}, "needs update 'autograd', got 'sequential'"),
    ],
)
def test_what_cannot_be_is_refused(change, told):
    with pytest.raises(ValueError, match=told):
        Word2Vec(Network(5, 4), **change)


def test_a_network_of_another_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"vocabulary_size is 7, the data has 60 words"):
        trainer(tmp_path).fit(Word2Vec(Network(7, 4)), datamodule=corpus())
