"""Denoising diffusion (rows 72-81 and 91; Ho, Jain, Abbeel 2020, arXiv:2006.11239).

Algorithm 1: take an image, a time, some noise; mix; ask the network what the noise was.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MeanMetric

from dlreview.learners.pictures import show
from dlreview.learners.rates import with_schedule
from dlreview.metrics.class_consistency import ClassConsistency
from dlreview.plots.grid import grid
from dlreview.randomness import RowRandom
from dlreview.samplers import Schedule, ddim, ddpm, guidance

Images = Float[Tensor, "batch channels height width"]
TRAIN, VALIDATE, DRAW = 0, 1, 2  # what random numbers are for


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


class DDPM(LightningModule):
    """Train a network to undo noise; draw samples from it, under the averaged weights if any.

    Batches are {"image": pixels in [-1, 1], "label": 0..num_classes-1}.

    Args:
        net: predicts from (x_t, t) or (x_t, t, label), `DiffusionUNet` say.
        optimizer: makes the optimizer from the parameters.
        lr_schedule: makes the learning-rate schedule, stepped every optimizer step.
        schedule: how noise grows.
        timesteps: T.
        beta_range: first and last beta of a linear or scaled linear schedule.
        prediction: what the network predicts.
        num_classes: classes to condition on; null for none. The network needs one class more, the
            null class `num_classes`, where `class_dropout` is above 0.
        class_dropout: share of labels replaced by the null class, for guidance.
        guidance: w of row 91 in samples; 1 is plain conditional sampling.
        sampler: "ddim" (`sample_steps` steps, eta 0) or "ddpm" (all T steps).
        sample_steps: network calls for a sample.
        grid: images in the picture drawn at each validation; 0 for none.
        consistency_samples: samples for `val/class_consistency` at each validation; 0 for none.
        compile: let torch.compile fuse the network; worth its minute of compilation on a GPU.

    Raises:
        ValueError: a size or share is out of range, or conditioning and network do not fit.
    """

    reads = ("image",)

    monitor = ("val/loss", "min")

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_schedule: LRSchedulerCallable | None = None,
        schedule: Literal["linear", "scaled_linear", "cosine"] = "linear",
        timesteps: int = 1000,
        beta_range: tuple[float, float] = (1e-4, 0.02),
        prediction: Literal["eps", "x0", "v"] = "eps",
        num_classes: int | None = None,
        class_dropout: float = 0.1,
        guidance: float = 1.0,
        sampler: Literal["ddim", "ddpm"] = "ddim",
        sample_steps: int = 50,
        grid: int = 100,
        consistency_samples: int = 0,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.net, self.optimizer, self.lr_schedule = net, optimizer, lr_schedule
        if not 1 <= timesteps <= 1_000_000:
            raise ValueError(f"timesteps must be in 1..1000000, got {timesteps}")
        self.noise_schedule = (
            Schedule.cosine(timesteps)
            if schedule == "cosine"
            else getattr(Schedule, schedule)(timesteps, *beta_range)
        )
        self.prediction, self.num_classes = prediction, num_classes
        self.calls = ("x_t", "t") if num_classes is None else ("x_t", "t", "label")
        self.class_dropout, self.guidance = class_dropout, guidance
        self.sampler, self.sample_steps = sampler, sample_steps
        self.grid, self.consistency_samples = grid, consistency_samples
        self.val_loss = MeanMetric()
        self.judge: ClassConsistency | None = None
        self._check()
        if compile:
            self.net.compile()

    def _check(self) -> None:
        if not 0 <= self.class_dropout < 1:
            raise ValueError(f"class_dropout must be in [0, 1), got {self.class_dropout}")
        if not 1 <= self.sample_steps <= self.noise_schedule.T:
            raise ValueError(
                f"sample_steps must be in 1..{self.noise_schedule.T}, got {self.sample_steps}"
            )
        for name in ("grid", "consistency_samples"):
            if not 0 <= getattr(self, name) <= 100_000:
                raise ValueError(f"{name} must be in 0..100000, got {getattr(self, name)}")
        classes, needed = getattr(self.net, "num_classes", None), self.num_classes
        if needed is not None:
            if needed < 1:
                raise ValueError(f"num_classes must be at least 1, got {needed}")
            needed += 1 if self.class_dropout > 0 else 0
            if hasattr(self.net, "num_classes") and (classes or 0) < needed:
                raise ValueError(
                    f"num_classes {self.num_classes} with class_dropout {self.class_dropout} needs "
                    f"a network with num_classes {needed}, got {classes}"
                )
            if self.guidance < 0:
                raise ValueError(f"guidance must be at least 0, got {self.guidance}")
            if self.guidance not in (0, 1) and self.class_dropout == 0:
                raise ValueError(f"guidance {self.guidance} needs class_dropout above 0, got 0")
        elif classes is not None:
            raise ValueError(f"the network has num_classes {classes}: set num_classes here too")
        elif self.consistency_samples:
            raise ValueError("consistency_samples needs num_classes, got null")

    def loss(self, batch: dict[str, Tensor], key: tuple[int, ...]) -> Float[Tensor, " batch"]:
        """Rows 79-80: draw a time and a noise for each image, drop some labels, measure."""
        x0, trainer = batch["image"], self.trainer
        share = getattr(trainer.datamodule, "batch_size", None)  # type: ignore[attr-defined]
        random = RowRandom(len(x0), x0.device, key, trainer.global_rank, trainer.world_size, share)
        t, noise = random.integers(self.noise_schedule.T), random.normal(*x0.shape[1:])
        label = None
        if self.num_classes is not None:
            dropped = random.uniform() < self.class_dropout
            label = batch["label"].masked_fill(dropped, self.num_classes)
        torch.manual_seed(random.own_seed)  # for dropout inside the network
        return ddpm_loss(self.net, self.noise_schedule, x0, noise, t, label, self.prediction)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of this process's rows."""
        loss = self.loss(batch, (TRAIN, self.current_epoch, batch_idx)).mean()
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        return loss

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

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Measure the loss of the test split, with the same noise at each validation."""
        if len(batch["image"]):
            self.val_loss.update(self.loss(batch, (VALIDATE, batch_idx)))
        self.log("val/loss", self.val_loss, prog_bar=True)

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
            net = guidance.classifier_free(
                self.net, label.to(self.device), self.num_classes or 0, self.guidance
            )
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
            "null_class": self.num_classes if self.class_dropout > 0 else None,
            "guidance": self.guidance,
            "sampler": self.sampler,
            "steps": self.sample_steps,
            "clip": 1.0,
        }
        return {"task": "diffusion", "settings": settings}

    def configure_optimizers(self) -> Any:
        """Make the optimizer and the schedule that the recipe names."""
        return with_schedule(self.optimizer(self.net.parameters()), self.lr_schedule)
