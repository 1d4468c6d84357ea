"""Learning rates: how they change in training, and how they and weight decay differ by parameter.

A `Rate` is a function of the share of training that is done, 0 at the first step and 1 at the end.
It gives the factor by which the optimizer's own rate is multiplied, so that no number of steps
stands in a recipe, and the optimizer's `lr` always has its effect.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from dlreview.messages import check_at_least, check_share

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

TOTALS = ("total_steps", "_schedule_phases", "T_max")  # in the state of torch's schedulers


class Rate(ABC):
    """A factor of the learning rate by the share of training that is done.

    Args:
        warmup: share of training in which the factor grows from `first` to 1, linearly.
        first: factor of the very first step, where there is a warm-up.

    Raises:
        ValueError: `warmup` or `first` is not in [0, 1).
    """

    def __init__(self, warmup: float = 0.0, first: float = 0.04) -> None:
        check_share(warmup=warmup, first=first)
        self.warmup, self.first = warmup, first

    def __call__(self, share: float) -> float:
        """Return the factor after this `share` of training, in [0, 1]."""
        if share < self.warmup:
            return self.first + (1 - self.first) * share / self.warmup
        return self.after((share - self.warmup) / (1 - self.warmup))

    @abstractmethod
    def after(self, share: float) -> float:
        """Return the factor after this share of what follows the warm-up."""


class Warmup(Rate):
    """A constant rate after the warm-up (Ho et al. 2020, arXiv:2006.11239)."""

    def after(self, share: float) -> float:
        """Return 1."""
        return 1.0


class Linear(Rate):
    """A straight line from 1 to `last`: f(s) = 1 + (last - 1) s (Devlin et al. 2019).

    Raises:
        ValueError: `warmup` or `first` is not in [0, 1), or `last` is negative.
    """

    def __init__(self, last: float = 0.0, warmup: float = 0.0, first: float = 0.04) -> None:
        super().__init__(warmup, first)
        check_at_least(0, last=last)
        self.last = last

    def after(self, share: float) -> float:
        """Return the point of the line."""
        return 1 + (self.last - 1) * share


class Steps(Rate):
    """A rate that falls by `factor` at each of `falls`, shares of training (He et al. 2015).

    Raises:
        ValueError: `warmup`, `first` or one of `falls` is not in [0, 1), or `factor` is negative.
    """

    def __init__(
        self, falls: list[float], factor: float = 0.1, warmup: float = 0.0, first: float = 0.04
    ) -> None:
        super().__init__(warmup, first)
        check_at_least(0, factor=factor)
        for share in falls:
            check_share(falls=share)
        self.falls, self.factor = falls, factor

    def after(self, share: float) -> float:
        """Return the factor to the power of the number of falls so far."""
        return self.factor ** sum(share >= fall for fall in self.falls)


class WarmupCosine(Rate):
    """Half a cosine from 1 to `last`: f(s) = last + (1 - last) (1 + cos(pi s)) / 2.

    Loshchilov & Hutter 2017, arXiv:1608.03983, with a warm-up before it.

    Raises:
        ValueError: `warmup` or `first` is not in [0, 1), or `last` is negative.
    """

    def __init__(self, warmup: float = 0.1, last: float = 0.0, first: float = 0.04) -> None:
        super().__init__(warmup, first)
        check_at_least(0, last=last)
        self.last = last

    def after(self, share: float) -> float:
        """Return the point of the cosine."""
        return self.last + (1 - self.last) * (1 + math.cos(math.pi * min(1.0, share))) / 2


def share_done(learner: LightningModule, step: int) -> float:
    """Return which share of a learner's training is done after `step` optimizer steps.

    Raises:
        ValueError: the trainer does not know how many steps there will be.
    """
    if step == 0:
        return 0.0  # asked when the schedule is made, before the trainer has its data
    total = learner.trainer.estimated_stepping_batches
    if math.isinf(total) or total < 0:  # -1: data of unknown length, without max_steps
        raise ValueError(
            "lr_schedule needs a number of steps: set trainer.max_steps, "
            "or trainer.max_epochs where the data has a length"
        )
    total += getattr(learner, "earlier_steps", 0)  # of a run that has another global batch now
    limit = learner.trainer.max_steps
    return min(1.0, step / (total if limit == -1 else min(total, limit)))


def scheduled(
    optimizer: Optimizer,
    lr_schedule: Rate | Callable[[Optimizer], Any] | None,
    learner: LightningModule,
    layer_decay: float = 1.0,
) -> Any:
    """Return what `configure_optimizers` is to return; the schedule is stepped every step."""
    if lr_schedule is None:
        scale_rates(optimizer, None, layer_decay)
        return optimizer
    if isinstance(lr_schedule, Rate):
        rate = lr_schedule
        schedule: Any = LambdaLR(optimizer, lambda step: rate(share_done(learner, step)))
    else:
        schedule = lr_schedule(optimizer)
    scale_rates(optimizer, schedule, layer_decay)
    entry: dict[str, Any] = {"scheduler": schedule, "interval": "step"}
    if isinstance(schedule, ReduceLROnPlateau):
        every = getattr(learner._trainer, "check_val_every_n_epoch", None) or 1
        metric = watched_metric(schedule, learner)
        entry |= {"interval": "epoch", "frequency": every, "monitor": metric}
    return {"optimizer": optimizer, "lr_scheduler": entry}


def watched_metric(schedule: ReduceLROnPlateau, learner: Any) -> str:
    """Name the metric that a schedule watches: its own, or the learner's that has its mode.

    Raises:
        ValueError: the schedule waits for the learner's metric to grow, which should fall.
    """
    name, mode = learner.monitor
    metrics = {"min": "val/loss", mode: name}
    own: str | None = getattr(schedule, "monitor", None)  # Lightning's class has one
    if own is None and schedule.mode not in metrics:
        raise ValueError(f"lr_schedule.mode is {schedule.mode!r}, {name} is best at its minimum")
    return own or metrics[schedule.mode]


def without_totals(state: dict[str, Any]) -> dict[str, Any]:
    """Drop the number of steps from the saved state of a schedule: the trainer knows it."""
    return {name: value for name, value in state.items() if name not in TOTALS}


def layers(names: list[str]) -> list[int]:
    """Number the layers that parameters belong to, from the input on, by their names in order.

    A layer is one item of an outermost list (`blocks.3.attention...` and all that begins with
    `blocks.3.`), or a run of parameters outside of lists: embeddings 0, blocks 1..D, head D + 1.
    Holds for every network that makes its parts in the order in which it uses them.
    """
    numbers, layer, previous = [], -1, None
    for name in names:
        parts = name.split(".")
        digit = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        place = "" if digit is None else ".".join(parts[: digit + 1])
        layer += place != previous
        previous = place
        numbers.append(layer)
    return numbers


def parameter_groups(net: nn.Module, by_layer: bool, decay_vectors: bool) -> list[dict[str, Any]]:
    """Group the trained parameters for an optimizer, by layer and by whether weights decay.

    A vector is what has at most one axis longer than 1: a bias, a norm's scale, a class token.
    """
    named = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    numbers = layers([name for name, _ in named])
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for (_, p), number in zip(named, numbers, strict=True):
        spared = not decay_vectors and sum(size > 1 for size in p.shape) <= 1
        below = numbers[-1] - number if by_layer else 0
        group = groups.setdefault((below, spared), {"params": [], "layers_above": below})
        group["params"].append(p)
        if spared:
            group["weight_decay"] = 0.0
    return list(groups.values())


def scale_rates(optimizer: Optimizer, schedule: LRScheduler | None, decay: float) -> None:
    """Multiply the learning rates of a group by `decay` for each layer above it.

    The schedule is there already: some, OneCycleLR say, give all groups the same rates when made.
    """
    if decay == 1:
        return
    factors = [decay ** group["layers_above"] for group in optimizer.param_groups]
    for group, factor in zip(optimizer.param_groups, factors, strict=True):
        for name in ("lr", "initial_lr", "max_lr", "min_lr"):
            if name in group:
                group[name] *= factor
    for part in getattr(schedule, "_schedulers", [schedule]):  # those of a chain or a sequence
        if hasattr(part, "base_lrs"):  # ReduceLROnPlateau has none
            part.base_lrs = [
                rate * factor for rate, factor in zip(part.base_lrs, factors, strict=True)
            ]
