"""Bounds of numbers that no type states, and that libraries take silently and choke on later."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dlreview.messages import UserError
from dlreview.running.signatures import sections

Range = tuple[int | float, int | float]
ZERO, ONE = (0, math.inf), (1, math.inf)
TRAINER: dict[str, Range] = {
    "accumulate_grad_batches": ONE,
    "check_val_every_n_epoch": ONE,
    "gradient_clip_val": ZERO,
    "limit_train_batches": ZERO,
    "limit_val_batches": ZERO,
    "limit_test_batches": ZERO,
    "limit_predict_batches": ZERO,
    "log_every_n_steps": ZERO,
    "max_epochs": (-1, math.inf),
    "max_steps": (-1, math.inf),
    "min_epochs": ZERO,
    "min_steps": ZERO,
    "num_nodes": ONE,
    "num_sanity_val_steps": (-1, math.inf),
    "overfit_batches": ZERO,
    "reload_dataloaders_every_n_epochs": ZERO,
    "val_check_interval": ZERO,
}
NEEDS_TRAINING = ("max_epochs", "max_steps", "limit_train_batches")
CLASSES: dict[str, dict[str, Range]] = {
    "EMAWeightAveraging": {
        "decay": (0, 1),
        "update_every_n_steps": ONE,
        "update_starting_at_step": ZERO,
        "update_starting_at_epoch": ZERO,
    },
}


def check_bounds(trainer: Mapping[str, Any]) -> None:
    """Check the numbers of a recipe's trainer section.

    Raises:
        UserError: the first that is out of range.
    """
    for name, value in trainer.items():
        if name in NEEDS_TRAINING and value == 0 and not isinstance(value, bool):
            raise UserError(f"trainer.{name}", "got 0: there would be nothing to train")
        _check(f"trainer.{name}", value, TRAINER.get(name))
    for key, section, cls in sections(trainer, "trainer"):
        given = section.get("init_args")
        for name, limits in CLASSES.get(cls.__name__ if cls else "", {}).items():
            if isinstance(given, dict):
                _check(f"{key}.{name}", given.get(name), limits)


def _check(key: str, value: Any, limits: Range | None) -> None:
    if limits is None or isinstance(value, bool) or not isinstance(value, int | float):
        return
    least, greatest = limits
    if not least <= value <= greatest:
        upper = "" if math.isinf(greatest) else f", at most {greatest:g}"
        raise UserError(key, f"out of range, got {value!r}", f"valid: at least {least:g}{upper}")
