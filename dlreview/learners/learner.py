"""What all learners share: optimizer and rates, randomness of a step, means over processes, logs.

A learner states its networks, what it reads from a batch and its loss. `Learner` does the rest, so
that one training step is

    L = 1/N sum_n loss_n(batch, random)

over all N rows (or words, or pairs) of the global batch, whatever the number of processes.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from dlreview.learners.rates import Rate, scheduled, without_totals
from dlreview.randomness import RowRandom

TRAIN, VALIDATE, DRAW = 0, 1, 2  # what random numbers are for
Batch = dict[str, Any]


class Weighted(NamedTuple):
    """Losses with weights: 1 for an example, 0 for padding, which does not count.

    To leave padding out instead, a GPU would have to tell the number of examples at each step.
    """

    losses: Float[Tensor, "*examples"]
    weights: Float[Tensor, "*examples"]


Losses = Float[Tensor, " examples"] | Weighted


class Learner(LightningModule):
    """Train networks by the mean of a loss.

    A subclass keeps each of its `networks` as an attribute of that name and has
    `loss(batch, random)`; it may have `usage()` (see `dlreview.usage`) and `accept(data, trainer)`.
    One with several optimizers overrides `training_step` and `configure_optimizers`.

    Args:
        optimizer: makes the optimizer from the parameters.
        lr_schedule: how the rate changes: a `Rate` of `learners.rates`, or one of torch's
            schedulers; stepped every optimizer step. Null for a constant rate.
        compile: let torch.compile fuse the networks; worth its minute of compilation on a GPU.
    """

    networks: ClassVar[tuple[str, ...]] = ("net",)
    """Attributes that are saved by their names; the first is the main one."""
    reads: ClassVar[tuple[str, ...]] = ()
    """What a batch must hold; the first entry has one row for each row of the batch."""
    monitor: ClassVar[tuple[str, str]] = ("val/loss", "min")
    """Metric of the best checkpoint, and whether "min" or "max" is best."""

    def __init__(
        self,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_schedule: Rate | LRSchedulerCallable | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.optimizer, self.lr_schedule, self.compiles = optimizer, lr_schedule, compile
        self.val_loss = MeanMetric()
        self.earlier_steps = 0
        """Steps of a resumed run beyond those that its batches are now worth."""
        self.examples: int | None = None
        """Examples of the present epoch in this process; None before the first batch."""

    def loss(self, batch: Batch, random: RowRandom) -> Losses:
        """Measure each example of a batch: a pure function of the networks and its arguments."""
        raise NotImplementedError(f"{type(self).__name__} has no loss(batch, random)")

    def accept(self, data: Any, trainer: Any) -> None:
        """Refuse data or devices that the learner cannot work with, by a ValueError."""

    def usage(self) -> dict[str, Any]:
        """Tell how the main network is called: see `dlreview.usage`. By default not at all."""
        return {}

    def random(self, batch: Batch, *key: int) -> RowRandom:
        """Return the random numbers of a batch, and seed what networks draw by themselves."""
        rows = len(batch[self.reads[0]]) if self.reads else 0
        trainer = self._trainer
        if trainer is None:
            random = RowRandom(rows, self.device, key)
        else:
            ranks = trainer.global_rank, trainer.world_size
            share = batch.get("share") if isinstance(batch, dict) else None
            share = share or getattr(getattr(trainer, "datamodule", None), "batch_size", None)
            random = RowRandom(rows, self.device, key, *ranks, share)
        torch.manual_seed(random.own_seed)  # for dropout inside the networks
        return random

    def mean(self, losses: Losses) -> Float[Tensor, ""]:
        """Average over the examples of all processes, which may have unequal numbers of them.

        DDP averages the processes' gradients, so that each weighs its sum by processes / examples.
        Without any example the mean is 0.
        """
        processes = self.trainer.world_size
        seen = losses.losses if isinstance(losses, Weighted) else losses
        self.examples = (self.examples or 0) + seen.numel()  # padding too: it is not waited for
        if isinstance(losses, Weighted):
            count = losses.weights.sum()
            losses = losses.losses * losses.weights
        elif processes == 1:
            return losses.mean() if len(losses) else losses.sum()
        else:
            count = torch.full((), float(len(losses)), device=losses.device)
        if processes > 1:
            counts: Any = self.all_gather(count.float())
            count = counts.sum()
        return losses.sum() * (processes / count.clamp(min=1))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Return the mean loss of the global batch."""
        random = self.random(batch, TRAIN, self.current_epoch, batch_idx)
        loss = self.mean(self.loss(batch, random))
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        self.log("train/lr", self.rate())
        return loss

    def on_train_epoch_end(self) -> None:
        """Refuse to go on where a whole epoch had no example.

        Raises:
            ValueError: nothing was learnt from.
        """
        examples, self.examples = self.examples, None
        if examples is not None and self.trainer.world_size > 1:
            every: Any = self.all_gather(torch.tensor(examples, device=self.device))
            examples = int(every.sum())
        if examples == 0:
            raise ValueError(f"{type(self).__name__} had no example to learn from in this epoch")

    def rate(self) -> float:
        """Return the optimizer's present learning rate, of several groups the largest."""
        optimizer: Any = self.optimizers()
        return max(group["lr"] for group in optimizer.param_groups)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure the loss of the test split, with the same random numbers at each validation."""
        if not self.reads or len(batch[self.reads[0]]):  # a process may have no rows at the end
            losses = self.loss(batch, self.random(batch, VALIDATE, batch_idx))
            self.val_loss.update(*losses if isinstance(losses, Weighted) else (losses,))
        self.log("val/loss", self.val_loss, prog_bar=True)

    def setup(self, stage: str) -> None:
        """Compile the networks, if wanted."""
        for name in self.networks if self.compiles else ():
            network: nn.Module = getattr(self, name)
            network.compile()

    def parameter_groups(self) -> Any:
        """Return what the optimizer trains."""
        return [p for name in self.networks for p in getattr(self, name).parameters()]

    def configure_optimizers(self) -> Any:
        """Make the optimizer and the schedule that the recipe names."""
        optimizer = self.optimizer(self.parameter_groups())
        return scheduled(optimizer, self.lr_schedule, self)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients; in bf16-mixed also those of a fused optimizer.

        Lightning's plugin for both mixed precisions refuses a fused optimizer, because its step
        divides the gradients by the loss scale. Only float16 has such a scale.
        """
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            kind = GradClipAlgorithmType(gradient_clip_algorithm or GradClipAlgorithmType.NORM)
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val or 0.0, kind)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the schedules go by this training's number of steps, not by the earlier one's."""
        states = checkpoint.get("lr_schedulers", [])
        checkpoint["lr_schedulers"] = [without_totals(state) for state in states]
