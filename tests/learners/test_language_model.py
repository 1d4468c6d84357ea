"""The language model: nats per word, a state that goes on, the reach of gradients."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from dlreview.data.stream import Stream
from dlreview.data.tokenizer import BPE, Characters, Words
from dlreview.learners.language_model import LanguageModel, next_word_loss
from dlreview.nn.gpt import GPT
from dlreview.nn.lstm import LSTM
from dlreview.nn.recurrent_language_model import RecurrentLanguageModel
from dlreview.nn.rnn import RNN
from tests.learners import bare_trainer

WORDS = 80


def net(core=None, words=WORDS, **options):
    return RecurrentLanguageModel(words, core or LSTM(12, 16), **options)


trainer = partial(bare_trainer.trainer, limit_train_batches=6)


def stream(**options):
    return Stream(**{"batch_size": 16, "length": 12, "vocabulary_size": WORDS} | options)


def test_the_loss_is_what_is_written_in_nats():
    logits, word = torch.randn(3, 4, 9).double().requires_grad_(), torch.randint(9, (3, 4))
    p = logits.softmax(-1)
    expected = -p.gather(-1, word[..., None])[..., 0].log()
    loss = next_word_loss(logits, word)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(x.sum(), logits)[0] for x in (loss, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    half = next_word_loss(logits.bfloat16(), word)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, next_word_loss(logits.bfloat16().float(), word))
    assert next_word_loss(logits[0, 0], word[0, 0]).shape == ()


@pytest.mark.parametrize("core", [LSTM(12, 16, 2), RNN(12, 16, biases=1)])
def test_windows_read_the_text_as_a_whole(tmp_path, core):
    """Validation over windows, the state going on, is the loss of each lane read in one go."""
    learner, data = LanguageModel(net(core)), stream()
    run = trainer(tmp_path)
    run.fit(learner, datamodule=data)
    lanes = data._test_lanes()
    text = lanes.text
    logits, _ = learner.net.eval()(text[:, :-1])
    expected = F.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten())
    loss, perplexity = (run.callback_metrics[f"val/{name}"] for name in ("loss", "perplexity"))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(perplexity, loss.exp())


def test_training_carries_the_state_and_cuts_the_gradient(tmp_path):
    learner, data = LanguageModel(net(), lambda p: torch.optim.SGD(p, lr=0.0)), stream()
    data.setup()
    text = data._train_lanes().text
    trainer(tmp_path, limit_val_batches=0).fit(learner, datamodule=data)
    _, expected = learner.net(text[:, : 6 * 12])  # nothing was learned: six windows are one
    torch.testing.assert_close(learner.state, expected)
    assert not any(s.requires_grad for s in learner.state)
    trainer(tmp_path, limit_val_batches=0, limit_train_batches=1).fit(learner, datamodule=data)
    _, expected = learner.net(text[:, :12])
    torch.testing.assert_close(learner.state, expected)  # an epoch begins from nothing


def test_it_learns_a_text_by_heart(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("a b c d\na c b d\n" * 60)  # what follows a depends on the line before
    data = Stream(str(path), batch_size=4, length=10, min_count=1)
    learner = LanguageModel(net(LSTM(12, 24), words=6), lambda p: torch.optim.Adam(p, lr=0.02))
    run = trainer(tmp_path, max_epochs=40, limit_train_batches=None, check_val_every_n_epoch=40)
    run.fit(learner, datamodule=data)
    assert run.callback_metrics["val/perplexity"] < 1.2


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_it_measures_how_far_back_gradients_reach(tmp_path, precision):
    learner = LanguageModel(net(dropout=0.2))
    run = trainer(tmp_path, precision=precision)
    run.fit(learner, datamodule=stream())
    metrics = run.callback_metrics
    assert math.isclose(metrics["val/loss"].exp(), metrics["val/perplexity"], rel_tol=1e-5)
    assert metrics["val/perplexity"] < WORDS
    header, *lines = (tmp_path / "gradient_norms.csv").read_text().splitlines()
    assert header == "steps_back,gradient_norm" and len(lines) == 12
    norms = [float(line.split(",")[1]) for line in lines]
    assert norms[0] > 0 and 1 <= metrics["val/gradient_reach"] <= 12
    names = [p.name for p in (tmp_path / "pictures").iterdir()]
    assert names == ["gradient_norms_000006.png"]


def test_the_state_is_saved_for_any_number_of_processes(tmp_path):
    learner = LanguageModel(net())
    run = trainer(tmp_path, limit_val_batches=0)
    run.fit(learner, datamodule=stream())
    checkpoint = {}
    learner.on_save_checkpoint(checkpoint)
    h, c = checkpoint["recurrent_state"]
    assert h.shape == c.shape == (1, 16, 16)
    other = LanguageModel(net())
    for rank in (0, 1):
        other._trainer = type("Trainer", (), {"global_rank": rank, "world_size": 2})()
        other.on_load_checkpoint(checkpoint)
        assert torch.equal(other.state[0], h[:, 8 * rank : 8 * rank + 8])


def test_the_loss_of_a_window_needs_no_state_and_leaves_none():
    learner, ids = LanguageModel(net()), torch.randint(WORDS, (3, 7))
    for first in (True, False):
        batch = {"ids": ids, "first": first}
        loss = learner.loss(batch, learner.random(batch))
        logits, _ = learner.net(ids[:, :-1])
        torch.testing.assert_close(loss, next_word_loss(logits, ids[:, 1:]).flatten())
    assert learner.state is None


def decoder(words=300, **change):
    options = {"width": 16, "depth": 2, "heads": 2, "max_length": 12, "initial_std": 0.2}
    return GPT(words, **options | change)


@pytest.fixture(scope="module")
def characters():
    made = stream(vocabulary_size=None, tokenizer=Characters(), shift=True)
    made.setup()
    return made


def test_the_loss_of_a_decoder_is_what_is_written_in_nats():
    learner, ids = LanguageModel(decoder(31).double()), torch.randint(31, (3, 13))
    batch = {"ids": ids, "first": False}
    loss = learner.loss(batch, learner.random(batch))
    p = learner.net(ids[:, :-1]).softmax(-1)
    expected = -p.gather(2, ids[:, 1:, None])[..., 0].log()
    torch.testing.assert_close(loss, expected.flatten(), rtol=1e-10, atol=1e-10)
    loss.mean().backward()
    assert all(p.grad is not None for p in learner.parameters())
    assert learner.state is None


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_decoder_trains_and_is_measured_window_by_window(tmp_path, characters, precision):
    learner = LanguageModel(decoder(characters.sizes["vocabulary_size"]))
    run = trainer(tmp_path, precision=precision, limit_val_batches=4)
    run.fit(learner, datamodule=characters)
    metrics = run.callback_metrics
    assert not (tmp_path / "pictures").exists() and "val/gradient_reach" not in metrics
    torch.testing.assert_close(metrics["val/perplexity"], metrics["val/loss"].exp())
    checkpoint = {}
    learner.on_save_checkpoint(checkpoint)
    assert checkpoint == {"recurrent_state": None}
    learner.on_load_checkpoint(checkpoint)
    assert learner.state is None
    if precision == "32-true":
        losses = []
        for batch, _ in zip(characters.val_dataloader(), range(4), strict=False):
            for ids in batch["ids"]:  # a window is read alone, and nothing before it
                logits = learner.net.eval()(ids[None, :-1])[0].detach()
                losses.append(F.cross_entropy(logits, ids[1:], reduction="none"))
        torch.testing.assert_close(metrics["val/loss"], torch.cat(losses).mean())


def test_a_decoder_learns_a_text_by_heart(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("abcd\nacbd\n" * 60)  # what follows a depends on the line before
    data = Stream(str(path), batch_size=4, length=12, tokenizer=Characters(), shift=True)
    made = decoder(10, width=32, max_length=12)
    learner = LanguageModel(made, lambda p: torch.optim.AdamW(p, lr=0.01))
    run = trainer(tmp_path, max_epochs=40, limit_train_batches=None, check_val_every_n_epoch=40)
    run.fit(learner, datamodule=data)
    assert run.callback_metrics["val/perplexity"] < 1.4, "the first tokens cannot be known"


@pytest.mark.parametrize("tokenizer", [None, Characters(), Words(), BPE(300)])
def test_the_loss_of_a_character_by_hand(tmp_path, tokenizer):
    """A network that finds all tokens equally likely pays log(vocabulary) for each of them."""
    path = tmp_path / "text.txt"
    path.write_text("ab ba\n" * 8)  # 48 characters and the end
    data = Stream(str(path), 2, 4, test_split="train", tokenizer=tokenizer)
    data.setup()
    made = decoder(data.sizes["vocabulary_size"], max_length=4, initial_std=0.0)
    run = trainer(tmp_path)
    run.validate(LanguageModel(made), datamodule=data, verbose=False)
    tokens = {type(None): 8 * 3, Characters: 49, Words: 8 * 2 + 1}  # words and the ends of lines
    count = tokens.get(type(tokenizer), len(data.test_text))
    assert len(data.test_text) == count
    # Words count with a blank or line end each: "ab ba\n" has 6. An <eos> of a file counts one.
    characters = 8 * 6 if tokenizer is None else 49
    expected = count * math.log(data.sizes["vocabulary_size"]) / characters
    assert float(run.callback_metrics["val/loss_per_character"]) == pytest.approx(expected)


def test_weights_of_norms_and_biases_of_a_decoder_do_not_decay():
    make = partial(torch.optim.AdamW, lr=1e-3)
    decayed, spared = LanguageModel(decoder(), make).configure_optimizers().param_groups
    assert decayed["weight_decay"] > 0 and spared["weight_decay"] == 0
    assert {p.ndim for p in decayed["params"]} == {2} and {p.ndim for p in spared["params"]} == {1}
    (group,) = LanguageModel(net(), make).configure_optimizers().param_groups
    assert group["weight_decay"] > 0
