"""The DDPM learner: its objective is row 79, it learns, draws, averages and saves plain values."""

from functools import partial

import pytest
import torch
from torch import nn

from dlreview.data.images import Images
from dlreview.learners.ddpm import DDPM, ddpm_loss, target
from dlreview.nn.diffusion_unet import DiffusionUNet
from dlreview.nn.time_embedding import ClassLabel, VectorLabel
from dlreview.samplers import Schedule
from tests.learners import bare_trainer

NET = {"image_channels": 1, "widths": [8, 16], "attention": [False, True], "groups": 4}


class Linear(nn.Module):
    """A network whose answer is known: a x_t + b t + c label."""

    def __init__(self, num_classes=None, null_class=None):
        super().__init__()
        self.num_classes, self.null_class = num_classes, null_class

    def forward(self, x, t, label=None):
        label = torch.zeros_like(t) if label is None else label
        return 0.5 * x + (0.001 * t + 10 * label).view(-1, 1, 1, 1)


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_the_loss_is_row_79(kind):
    s = Schedule.linear(100, 1e-4, 0.02)
    x0, noise = torch.randn(2, 5, 2, 3, 4).double()
    t = torch.tensor([0, 7, 50, 98, 99])
    abar = s.alpha_bar[t].view(-1, 1, 1, 1)
    x_t = abar.sqrt() * x0 + (1 - abar).sqrt() * noise
    wanted = {"eps": noise, "x0": x0, "v": abar.sqrt() * noise - (1 - abar).sqrt() * x0}[kind]
    torch.testing.assert_close(target(s, x0, noise, t, kind), wanted)
    expected = ((Linear()(x_t, t) - wanted) ** 2).mean((1, 2, 3))
    loss = ddpm_loss(Linear(), s, x0, noise, t, kind=kind)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)  # error in float32


trainer = partial(bare_trainer.trainer, limit_train_batches=2)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_it_trains_and_draws(tmp_path, precision):
    net = DiffusionUNet(**NET, label=ClassLabel(10, null_class=True))
    learner = DDPM(net, grid=10, sample_steps=2, guidance=2.0, consistency_samples=10)
    run = trainer(tmp_path, precision=precision)
    run.fit(learner, datamodule=Images(batch_size=32))
    metrics = run.callback_metrics
    assert 0 <= metrics["val/class_consistency"] <= 1
    assert torch.isfinite(metrics["val/loss"])
    assert len(list((tmp_path / "pictures").glob("samples_*.png"))) == 1
    assert learner.draw(3, torch.tensor([1, 2, 3])).shape == (3, 1, 8, 8)
    assert torch.equal(learner.draw(2, torch.tensor([4, 4])), learner.draw(2, torch.tensor([4, 4])))


def test_it_overfits_one_batch():
    torch.manual_seed(0)
    learner = DDPM(DiffusionUNet(**NET), partial(torch.optim.Adam, lr=3e-3), timesteps=50)
    batch = {"image": torch.rand(4, 1, 8, 8) * 2 - 1}
    optimizer = learner.configure_optimizers()
    first = None
    for _ in range(80):
        loss = learner.loss(batch, learner.random(batch, 0)).mean()  # the same noise in all steps
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * first


def test_a_share_of_the_labels_is_dropped():
    """The answer of `Linear` says which label it was called with."""
    batch = {"image": torch.zeros(400, 1, 1, 1), "label": torch.arange(400) % 3}

    def labels(null_class, share):
        learner = DDPM(Linear(3, null_class), class_dropout=share, prediction="x0")
        loss = learner.loss(batch, learner.random(batch, 0))
        return (loss.sqrt() / 10).round().long()

    label = labels(null_class=3, share=0.25)
    dropped = label != batch["label"]
    assert set(label[dropped].tolist()) == {3}
    assert 0.15 < dropped.float().mean() < 0.35
    assert torch.equal(labels(null_class=3, share=0.0), batch["label"])
    assert torch.equal(labels(null_class=None, share=0.25), batch["label"])


@pytest.mark.parametrize(
    ("label", "reads"),
    [(ClassLabel(10), ("image", "label")), (None, ("image",)), (VectorLabel(), ("image",))],
)
def test_it_reads_labels_where_the_network_has_classes(label, reads):
    assert DDPM(DiffusionUNet(**NET, label=label)).reads == reads
    assert DDPM.reads == ("image",)


def test_the_usage_says_how_to_draw():
    net = DiffusionUNet(**NET, label=ClassLabel(10, null_class=True))
    usage = DDPM(net, schedule="cosine", timesteps=20, sample_steps=5, guidance=3.0).usage()
    assert usage["task"] == "diffusion"
    settings = usage["settings"]
    assert (settings["num_classes"], settings["null_class"]) == (10, 10)
    assert (settings["guidance"], settings["steps"]) == (3.0, 5)
    assert settings["schedule"]["num_train_timesteps"] == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_dropout": 1.0}, r"class_dropout must be in \[0, 1\), got 1.0"),
        ({"sample_steps": 0}, "sample_steps must be in 1..1000, got 0"),
        ({"sample_steps": 5000}, "sample_steps must be in 1..1000, got 5000"),
        ({"timesteps": 0}, "timesteps must be in 1..1000000, got 0"),
        ({"grid": -1}, "grid must be at least 0, got -1"),
        ({"guidance": -1.0}, "guidance must be at least 0, got -1.0"),
        ({"guidance": 2.0, "net": Linear(10)}, "guidance 2.0 needs a network with a null class"),
        ({"consistency_samples": 9, "net": Linear()}, "needs a network with num_classes, got None"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        DDPM(**{"net": Linear(10, null_class=10)} | change)
