"""The DDPM learner: its objective is row 79, it learns, draws, averages and saves plain values."""

from functools import partial

import pytest
import torch
from torch import nn

from dlreview.data.images import Images
from dlreview.learners.ddpm import DDPM, ddpm_loss, target
from dlreview.nn.diffusion_unet import DiffusionUNet
from dlreview.samplers import Schedule
from tests.learners import bare_trainer

NET = {"image_channels": 1, "widths": [8, 16], "attention": [False, True], "groups": 4}


class Linear(nn.Module):
    """A network whose answer is known: a x_t + b t."""

    def forward(self, x, t, label=None):
        return 0.5 * x + 0.001 * t.view(-1, 1, 1, 1) + (0 if label is None else label.sum())


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
    learner = DDPM(
        DiffusionUNet(**NET, num_classes=11), num_classes=10, grid=10, sample_steps=2,
        guidance=2.0, consistency_samples=10,
    )  # fmt: skip
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
    learner = DDPM(DiffusionUNet(**NET), lambda p: torch.optim.Adam(p, lr=3e-3), timesteps=50)
    net, s, x0 = learner.net, learner.noise_schedule, torch.rand(4, 1, 8, 8) * 2 - 1
    noise, t = torch.randn_like(x0), torch.randint(0, 50, (4,))
    optimizer = learner.configure_optimizers()
    first = None
    for _ in range(80):
        loss = ddpm_loss(net, s, x0, noise, t).mean()
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * first


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"class_dropout": 1.0}, "class_dropout"),
        ({"sample_steps": 0}, "sample_steps"),
        ({"sample_steps": 5000}, "sample_steps"),
        ({"timesteps": 0}, "timesteps"),
        ({"grid": -1}, "grid"),
        ({"num_classes": 20}, "num_classes 20"),
        ({"num_classes": None}, "set num_classes"),
        ({"guidance": -1.0}, "guidance"),
        ({"guidance": 2.0, "class_dropout": 0.0}, "needs class_dropout"),
    ],
)
def test_what_does_not_fit_is_refused(change, told):
    net = DiffusionUNet(**NET, num_classes=11)
    with pytest.raises(ValueError, match=told):
        DDPM(net, **({"num_classes": 10} | change))
