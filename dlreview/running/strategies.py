"""Strategies of Lightning that share weights out over processes: which of them work here."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden

from dlreview.messages import UserError


def hint(processes: int | str) -> str:
    """Return what works."""
    return (
        "valid: ddp; for a decoder of LanguageModel also ModelParallelStrategy with "
        f"data_parallel_size {processes}, tensor_parallel_size 1, save_distributed_checkpoint false"
    )


def refuse_fsdp(strategy: Any) -> None:
    """Refuse torch's first version of FSDP, of which `ModelParallelStrategy` uses the second.

    Raises:
        UserError: names what works.
    """
    if isinstance(strategy, FSDPStrategy) or str(strategy).startswith("fsdp"):
        problem = "FSDPStrategy is not supported: ModelParallelStrategy shares weights out too"
        raise UserError("trainer.strategy", problem, hint("(number of processes)"))


def check_sharding(trainer: Any, learner: Any) -> None:
    """Refuse to share weights out in a way in which they cannot be trained or saved.

    The learner must share its network out, every process needs rows of its own, and a checkpoint
    must be one file with whole weights.

    Raises:
        UserError: names the argument and what works.
    """
    strategy, processes = trainer.strategy, trainer.world_size
    if not isinstance(strategy, ModelParallelStrategy):
        return
    if not is_overridden("configure_model", learner) or getattr(learner, "has_state", False):
        net = type(getattr(learner, learner.networks[0])).__name__
        problem = f"{type(learner).__name__} cannot share the weights of {net} out"
        raise UserError("trainer.strategy", problem, hint(processes))
    wanted = {
        "data_parallel_size": processes,
        "tensor_parallel_size": 1,
        "save_distributed_checkpoint": False,
    }
    for name, value in wanted.items():
        got = getattr(strategy, f"_{name}")
        if got != value:
            problem = f"must be {str(value).lower()}, got {str(got).lower()}"
            raise UserError(f"trainer.strategy.{name}", problem, hint(processes))
