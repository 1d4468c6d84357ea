"""The language model: nats per word, a state that goes on, the reach of gradients."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from dlreview.data.stream import Stream
from dlreview.learners.language_model import LanguageModel, next_word_loss
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
