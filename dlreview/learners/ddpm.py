"""Denoising diffusion (rows 72-81 and 91; Ho, Jain, Abbeel 2020, arXiv:2006.11239).

Algorithm 1: take an image, a time, some noise; mix; ask the network what the noise was.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from dlreview.learners.classes import check_classes
from dlreview.learners.learner import DRAW, Batch, Learner
from dlreview.learners.pictures import show
from dlreview.learners.rates import Rate
from dlreview.messages import check_at_least, check_share
from dlreview.metrics.class_consistency import ClassConsistency
from dlreview.plots.grid import grid
from dlreview.randomness import RowRandom
from dlreview.samplers import Schedule, ddim, ddpm, guidance

Images = Float[Tensor, "batch channels height width"]


def target(s: Schedule, x0: Images, noise: Images, t: Int[Tensor, " batch"], kind: str) -> Images:
    """Return what the network is to predict: the noise, the image or the velocity (row 93)."""
    return {"eps": noise, "x0": x0}[kind] if kind != "v" else s.velocity(x0, noise, t)


def ddpm_loss(
    net: nn.Module,
    s: Schedule,
    x0: Images,
    noise: Images,
    t: Int[Tensor, " batch"],
    label: Int[Tensor, " batch"] | None = None,
    kind: str = "eps",
) -> Float[Tensor, " batch"]:
    """Row 79, L = ||eps - eps_theta(x_t, t)||^2, as a mean over each sample's pixels.

    Args:
        net: called net(x_t, t) or net(x_t, t, label).
        s: the noise schedule.
        x0: pixels in [-1, 1].
        noise: standard normal, of x0's shape.
        t: 0..T-1.
        label: classes, the null class where the condition is dropped; None for no condition.
        kind: "eps", "x0" or "v".
    """
    x_t = s.add_noise(x0, noise, t)  # row 74
    prediction = net(x_t, t) if label is None else net(x_t, t, label)
    error = prediction.float() - target(s, x0, noise, t, kind).float()
    return error.square().mean((1, 2, 3))


class DDPM(Learner):
    """Train a network to undo noise; draw samples from it, under the averaged weights if any.

    Batches are {"image": pixels in [-1, 1], "label": 0..num_classes-1}. The network says whether it
    is conditioned on classes (`num_classes`), and which row is its null class (`null_class`).

    Args:
        net: predicts from (x_t, t) or (x_t, t, label), `DiffusionUNet` say.
        optimizer: makes the optimizer from the parameters.
        lr_schedule: how the rate changes, see `Learner`.
        schedule: how noise grows.
        timesteps: T.
        beta_range: first and last beta of a linear or scaled linear schedule.
        prediction: what the network predicts.
        class_dropout: share of labels replaced by the null class, where the network has one.
        guidance: w of row 91 in samples; 1 is plain conditional sampling.
        sampler: "ddim" (`sample_steps` steps, eta 0) or "ddpm" (all T steps).
        sample_steps: network calls for a sample.
        grid: images in the picture drawn at each validation; 0 for none.
        consistency_samples: samples for `val/class_consistency` at each validation; 0 for none.
        compile: see `Learner`.

    Raises:
        ValueError: a size or share is out of range, or guidance needs a null class.
    """

    reads: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(  # three of the process, five of sampling: each is set alone on command lines
        self,
        net: nn.Module,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_schedule: Rate | LRSchedulerCallable | None = None,
        schedule: Literal["linear", "scaled_linear", "cosine"] = "linear",
        timesteps: int = 1000,
        beta_range: tuple[float, float] = (1e-4, 0.02),
        prediction: Literal["eps", "x0", "v"] = "eps",
        class_dropout: float = 0.1,
        guidance: float = 1.0,
        sampler: Literal["ddim", "ddpm"] = "ddim",
        sample_steps: int = 50,
        grid: int = 100,
        consistency_samples: int = 0,
        compile: bool = False,
    ) -> None:
        super().__init__(optimizer, lr_schedule, compile)
        if not 1 <= timesteps <= 1_000_000:
            raise ValueError(f"timesteps must be in 1..1000000, got {timesteps}")
        if not 1 <= sample_steps <= timesteps:
            raise ValueError(f"sample_steps must be in 1..{timesteps}, got {sample_steps}")
        check_share(class_dropout=class_dropout)
        check_at_least(0, guidance=guidance, grid=grid, consistency_samples=consistency_samples)
        self.net, self.prediction = net, prediction
        self.noise_schedule = (
            Schedule.cosine(timesteps)
            if schedule == "cosine"
            else getattr(Schedule, schedule)(timesteps, *beta_range)
        )
        self.num_classes: int | None = getattr(net, "num_classes", None)
        self.null_class: int | None = getattr(net, "null_class", None)
        if guidance not in (0, 1) and self.null_class is None:
            raise ValueError(f"guidance {guidance} needs a network with a null class")
        if consistency_samples and self.num_classes is None:
            raise ValueError("consistency_samples needs a network with num_classes, got None")
        if self.num_classes is not None:
            self.reads = ("image", "label")  # type: ignore[misc]
        self.class_dropout, self.guidance = class_dropout, guidance
        self.sampler, self.sample_steps = sampler, sample_steps
        self.grid, self.consistency_samples = grid, consistency_samples
        self.judge: ClassConsistency | None = None

    def accept(self, data: Any, trainer: Any) -> None:
        """Refuse labels outside the network's classes."""
        if self.num_classes is not None:
            check_classes(data, self.num_classes)

    def loss(self, batch: Batch, random: RowRandom) -> Float[Tensor, " batch"]:
        """Rows 79-80: draw a time and a noise for each image, drop some labels, measure."""
        x0, label = batch["image"], None
        t, noise = random.integers(self.noise_schedule.T), random.normal(*x0.shape[1:])
        if self.num_classes is not None:
            label = batch["label"]
            if self.null_class is not None:
                dropped = random.uniform() < self.class_dropout
                label = label.masked_fill(dropped, self.null_class)
        return ddpm_loss(self.net, self.noise_schedule, x0, noise, t, label, self.prediction)

    def on_validation_epoch_start(self) -> None:
        """Draw samples; the averaged weights are in place from here to the validation's end."""
        if not self.trainer.is_global_zero:
            return
        classes, count = self.num_classes, self.grid
        if count:
            label = None if classes is None else torch.arange(count) % classes
            columns = classes if classes and 5 <= classes <= 20 else None
            show(self, "samples", grid(self.draw(count, label), columns))
        if classes and self.consistency_samples:
            label = torch.arange(self.consistency_samples) % classes
            if self.judge is None:
                self.judge = ClassConsistency(*self.trainer.datamodule.train_columns())  # type: ignore[attr-defined]
            share = self.judge(self.draw(self.consistency_samples, label), label)
            self.log("val/class_consistency", share, rank_zero_only=True)

    @torch.no_grad()
    def draw(
        self, count: int, label: Int[Tensor, " count"] | None = None, seed: int = 0
    ) -> Float[Tensor, "count channels height width"]:
        """Sample `count` images, pixels about [-1, 1], of the classes `label`."""
        was_training = self.net.training
        self.net.eval()
        shape = self.trainer.datamodule.image_shape  # type: ignore[attr-defined]
        random = RowRandom(count, self.device, (DRAW, seed))
        net: Any = self.net
        if label is not None:
            null = 0 if self.null_class is None else self.null_class
            net = guidance.classifier_free(self.net, label.to(self.device), null, self.guidance)
        options: dict[str, Any] = {
            "kind": self.prediction,
            "clip": 1.0,
            "generator": random.generator,
        }
        noise = random.normal(*shape)
        if self.sampler == "ddim":
            images = ddim.sample(net, noise, self.noise_schedule, self.sample_steps, **options)
        else:
            images = ddpm.sample(net, noise, self.noise_schedule, **options)
        self.net.train(was_training)
        return images

    def usage(self) -> dict[str, Any]:
        """Tell how to draw from the network: see `dlreview.usage`."""
        settings = {
            "schedule": self.noise_schedule.to_diffusers(),
            "prediction": self.prediction,
            "num_classes": self.num_classes,
            "null_class": self.null_class,
            "guidance": self.guidance,
            "sampler": self.sampler,
            "steps": self.sample_steps,
            "clip": 1.0,
        }
        return {"task": "diffusion", "settings": settings}
