"""What a command line or a resumed run changes about the training, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dlreview.running.recipe import as_list

AVERAGING = ("EMAWeightAveraging", "WeightAveraging", "StochasticWeightAveraging")


def averaging_of(trainer: Any) -> list[str]:
    """Return the names of a trainer section's callbacks that average weights."""
    callbacks = as_list(trainer.get("callbacks") if isinstance(trainer, dict) else None)
    paths = [c.get("class_path") if isinstance(c, dict) else c for c in callbacks]
    names = [path.rpartition(".")[2] for path in paths if isinstance(path, str)]
    return [name for name in names if name in AVERAGING]


def dropped_averaging(recipe: Any, changed: Any) -> list[str]:
    """Return a line where the command line dropped the averaging that the recipe has.

    Args:
        recipe: the trainer section of the file.
        changed: that section with the values of the command line.
    """
    before, after = averaging_of(recipe), averaging_of(changed)
    if not before or after:
        return []
    return [
        f"trainer.callbacks drops the recipe's {before[0]}: weights are not averaged "
        "(--trainer.callbacks+= adds to the recipe's)"
    ]


def global_batch(data: Any, trainer: Any) -> dict[str, int]:
    """Return the factors of the number of rows, or of tokens, of an optimizer step."""
    sizes = {name: getattr(data, name, None) for name in ("batch_size", "tokens_per_batch")}
    known = {name: size for name, size in sizes.items() if isinstance(size, int)}
    return {
        **(known or {"batch_size": 1}),
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "processes": trainer.world_size,
    }


def changed_batch(old: Mapping[str, int] | None, new: Mapping[str, int]) -> list[str]:
    """Return a line that names the old and the new global batch, where these differ."""
    if old is None or math.prod(old.values()) == math.prod(new.values()):
        return []
    return [f"a global batch of {_in_words(new)}, it was {_in_words(old)}"]


def earlier_steps(state: Mapping[str, Any], batch: Mapping[str, int], per_epoch: float) -> int:
    """Return how many more steps a run has taken than its batches make now.

    It is 0 unless the run went on with another global batch. Then a schedule goes by the steps that
    are done and those that are left.

    Args:
        state: the run's checkpoint.
        batch: the present global batch.
        per_epoch: optimizer steps of an epoch, now.
    """
    kept = state.get("dlreview", {})
    began = kept.get("global_batch")
    if began is None or math.prod(began.values()) == math.prod(batch.values()):
        return int(kept.get("earlier_steps", 0))
    loop = state["loops"]["fit_loop"]
    progress = loop["epoch_loop.batch_progress"]
    share = progress["current"]["processed"] // batch["accumulate_grad_batches"]
    share = per_epoch if progress["is_last_batch"] else min(share, per_epoch)
    worth = loop["epoch_progress"]["current"]["processed"] * per_epoch + share
    return int(state["global_step"] - worth * max(1, len(state["optimizer_states"])))


def _in_words(batch: Mapping[str, int]) -> str:
    factors = " x ".join(f"{name} {count}" for name, count in batch.items())
    unit = "tokens" if "tokens_per_batch" in batch else "rows"
    return f"{math.prod(batch.values())} {unit} ({factors})"


def changed_averaging(old: Any, new: Any) -> list[str]:
    """Return a line where averaging of weights is added to a run or dropped from it.

    Args:
        old: the trainer section that the run began with.
        new: the present one.
    """
    before, after = averaging_of(old), averaging_of(new)
    if before and not after:
        return [f"weights that are no longer averaged: the run had {before[0]}"]
    if after and not before:
        return [f"{after[0]}: the average begins with the present weights"]
    return []
