"""Learning rates: their schedule, and how they and weight decay differ between parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


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
    if schedule is not None:
        schedule.base_lrs = [
            rate * factor for rate, factor in zip(schedule.base_lrs, factors, strict=True)
        ]


def with_schedule(
    optimizer: Optimizer,
    lr_schedule: Callable[[Optimizer], Any] | None,
    layer_decay: float = 1.0,
) -> Any:
    """Return what `configure_optimizers` is to return; the schedule is stepped every step."""
    schedule = None if lr_schedule is None else lr_schedule(optimizer)
    scale_rates(optimizer, schedule, layer_decay)
    if schedule is None:
        return optimizer
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": schedule, "interval": "step"},
    }
