"""The word2vec learner: both objectives are what is written, all three ways of updating learn."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from dlreview.data.corpus import Corpus, Ragged
from dlreview.fit import main
from dlreview.learners import word2vec
from dlreview.learners.rates import Linear
from dlreview.learners.windows import Examples, draw_negatives, examples
from dlreview.learners.word2vec import (
    WordPrediction,
    full_softmax_loss,
    negative_sampling_loss,
)
from dlreview.nn.word2vec import Word2Vec
from tests.learners import bare_trainer

WORDS, WIDTH = 60, 16


def test_full_softmax_is_cross_entropy():
    """Row 5, gradients too; one-hot rows times the two matrices are the network (row 4)."""
    net = Word2Vec(11, 7).double()
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
    learner = WordPrediction(Word2Vec(11, 7).double(), method, "full_softmax", "autograd")
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
        loss = learner.full_softmax(part)
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
ADAM, SGD = partial(torch.optim.Adam, lr=1e-3), partial(torch.optim.SGD, lr=0.025)


def corpus(**options):
    return Corpus(**{"batch_size": 64, "vocabulary_size": WORDS} | options)


@pytest.mark.parametrize("method", ["skipgram", "cbow"])
@pytest.mark.parametrize("objective", ["negative_sampling", "full_softmax"])
def test_the_loss_of_an_example_is_the_formula(method, objective):
    learner = WordPrediction(
        Word2Vec(WORDS, WIDTH), method, objective, "autograd", window=2, negatives=3
    )
    torch.nn.init.normal_(learner.net.output.weight, std=0.5)
    data = corpus(batch_size=5)
    data.setup()
    learner.count_words(data.vocabulary)
    batch, net = data.train_set[list(range(3, 8))], learner.net
    random = learner.random(batch, 9)
    losses = learner.loss(batch, random)
    place = batch["text"], batch["bounds"], batch["row"]
    how = {"window": 2, "skip_gram": method == "skipgram", "key": random.seed}
    found = examples(*place, learner.keep, **how)
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
    net = Word2Vec(WORDS, WIDTH)
    make = ADAM if update == "autograd" else partial(torch.optim.SGD, lr=0.1)
    falling = None if update == "autograd" else Linear(last=0.001)
    learner = WordPrediction(net, method, update=update, optimizer=make, lr_schedule=falling)
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
    net = Word2Vec(6, WIDTH)
    make = partial(torch.optim.Adam, lr=0.05)
    learner = WordPrediction(net, "skipgram", objective, "autograd", sample=0.0, optimizer=make)
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
        net = Word2Vec(WORDS, WIDTH)
        run = trainer(tmp_path, max_epochs=2, limit_val_batches=0)
        run.fit(WordPrediction(net, update="sequential", optimizer=SGD), datamodule=corpus())
        nets.append(net.input.weight.detach().clone())
    assert torch.equal(nets[0], nets[1]) and not torch.equal(nets[0], nets[2])


def test_the_compiled_loop_follows_the_schedule(tmp_path, monkeypatch):
    from dlreview.learners import word2vec_loop

    rates, real = [], word2vec_loop.train_pass

    def watched(*arrays, **how):
        rates.append(how["rates"])
        return real(*arrays, **how)

    monkeypatch.setattr(word2vec_loop, "train_pass", watched)
    make, falling = partial(torch.optim.SGD, lr=0.4), Linear(last=0.25)
    learner = WordPrediction(
        Word2Vec(WORDS, WIDTH), update="sequential", optimizer=make, lr_schedule=falling
    )
    trainer(tmp_path, max_epochs=2, limit_val_batches=0).fit(learner, datamodule=corpus())
    assert len(rates) == 6
    ends = torch.tensor(rates)
    torch.testing.assert_close(ends[:, 0], torch.linspace(0.4, 0.15, 6))
    torch.testing.assert_close(ends[:, 1], torch.linspace(0.35, 0.1, 6))


def test_bf16_mixed_trains(tmp_path):
    learner = WordPrediction(Word2Vec(WORDS, WIDTH), objective="full_softmax", update="autograd")
    run = trainer(tmp_path, precision="bf16-mixed")
    run.fit(learner, datamodule=corpus())
    assert run.callback_metrics["val/loss"] < 4.2  # ln 60 = 4.09


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 0}, "window must be in 1..1000, got 0"),
        ({"negatives": 0}, "negatives must be in 1..1000, got 0"),
        ({"threads": 0}, "threads must be in 1..1000, got 0"),
        ({"sample": -1.0}, "sample must be at least 0, got -1.0"),
        (
            {"objective": "full_softmax", "update": "sequential"},
            "objective 'full_softmax' needs update 'autograd', got 'sequential'",
        ),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        WordPrediction(Word2Vec(5, 4), **change)


@pytest.mark.parametrize(
    "make",
    [
        ADAM,
        partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        partial(torch.optim.SGD, lr=0.1, weight_decay=0.1),
    ],
)
def test_the_compiled_loop_takes_plain_sgd_only(make):
    for falling in (None, Linear()):
        options = {"optimizer": make, "lr_schedule": falling}
        with pytest.raises(ValueError, match=r"must be torch\.optim\.SGD, got"):
            WordPrediction(Word2Vec(5, 4), update="sequential", **options).configure_optimizers()
        WordPrediction(Word2Vec(5, 4), update="autograd", **options).configure_optimizers()
    plain = WordPrediction(Word2Vec(5, 4), update="sequential", optimizer=SGD)
    assert isinstance(plain.configure_optimizers(), torch.optim.SGD)


@pytest.mark.parametrize("update", ["sequential", "hogwild"])
@pytest.mark.parametrize(
    ("processes", "device", "message"),
    [(2, "cpu", "runs in one process\nset update"), (1, "cuda", "runs on the CPU\nset update")],
)
def test_the_compiled_loop_has_one_process_on_the_cpu(update, processes, device, message):
    strategy = SimpleNamespace(root_device=torch.device(device))
    run = SimpleNamespace(world_size=processes, strategy=strategy)
    vocabulary = SimpleNamespace(words=["a", "b"], counts=[2, 1])
    data = SimpleNamespace(vocabulary=vocabulary, train_set=Ragged([[0, 1, 0]]), batch_size=1)
    with pytest.raises(ValueError, match=f"update '{update}' {message}"):
        WordPrediction(Word2Vec(2, 4), update=update).accept(data, run)
    WordPrediction(Word2Vec(2, 4), update="autograd", sample=0.0).accept(data, run)


def test_another_kind_of_network_is_refused():
    with pytest.raises(ValueError, match="net: Linear is no Word2Vec network"):
        WordPrediction(torch.nn.Linear(2, 3)).accept(None, None)


def test_a_text_of_which_nothing_is_left_is_refused(tmp_path, capsys):
    lines = ["the cat sat", "a dog ran", "the dog sat", "a cat ran", "big red house",
             "the red dog", "a big cat", "on a mat", "to the house"]  # fmt: skip
    (tmp_path / "mine.txt").write_text("\n".join(lines))
    argv = ["recipes/word2vec_skipgram_python.yaml", "--wandb", "off", "--out", f"{tmp_path}/run",
            "--data.path", f"{tmp_path}/mine.txt", "--data.batch_size", "4",
            "--data.min_count", "1", "--trainer.max_epochs", "1"]  # fmt: skip
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert "sample 0.001 drops nearly all words: 24 of them leave" in error
    assert "set model.sample to 0" in error
    assert main([*argv, "--model.sample", "0"]) == 0
