"""The trainer: what the recipe asks for, with what every run has beside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint

from dlreview.messages import UserError
from dlreview.running.builder import Section
from dlreview.running.checkpoints import AtomicCheckpointIO, Checkpoints
from dlreview.running.metrics_csv import MetricsCSV
from dlreview.running.progress import progress_bar
from dlreview.running.seeding import StepSeeds
from dlreview.running.signatures import find_class
from dlreview.running.strategies import refuse_fsdp
from dlreview.running.weights_and_biases import wandb_logger

if TYPE_CHECKING:
    from dlreview.running.directory import RunDirectory


def make_trainer(
    section: Section, model: Any, directory: RunDirectory, options: dict[str, Any]
) -> tuple[Trainer, MetricsCSV, Checkpoints]:
    """Build the trainer, its log and its checkpoints.

    Args:
        section: of the recipe.
        model: the recipe's model section, whose class may name a metric to monitor.
        directory: the run's.
        options: of the command line.

    Raises:
        UserError: Lightning refuses a value.
    """
    given = dict(section.build())
    refuse_fsdp(given.get("strategy"))
    metrics = MetricsCSV(directory.metrics)
    folder = directory.checkpoint.parent
    checkpoints = Checkpoints(folder, options["checkpoint_every"], metrics)
    callbacks = as_list(given.get("callbacks"))
    own = any(isinstance(callback, Checkpoint) for callback in callbacks)
    unwanted = own or given.get("enable_checkpointing") is False
    best = [] if unwanted else best_checkpoint(model, folder)
    loggers = [x for x in as_list(given.get("logger")) if not isinstance(x, bool)]
    theirs = any(type(logger).__name__ == "WandbLogger" for logger in loggers)
    wandb = [] if theirs else wandb_logger(options["wandb"], directory.path)
    given |= {
        "logger": [metrics, *wandb, *loggers],
        "callbacks": [StepSeeds(), checkpoints, *callbacks, *best, *progress_bar()],
        "plugins": [AtomicCheckpointIO(), *as_list(given.get("plugins"))],
        "default_root_dir": str(directory.path),
    }
    defaults = {
        "num_sanity_val_steps": 0,
        "enable_model_summary": False,
        "enable_progress_bar": sys.stdout.isatty(),
        "enable_checkpointing": bool(best) or own,
    }
    given |= {name: value for name, value in defaults.items() if given.get(name) is None}
    try:
        return Trainer(**given), metrics, checkpoints
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise UserError("trainer", str(error)) from None


def best_checkpoint(model: Any, folder: Path) -> list[Callback]:
    """Keep the best checkpoint too, by the metric that the learner names."""
    cls = find_class(model.get("class_path") if isinstance(model, dict) else model)
    monitor = getattr(cls, "monitor", None)
    if not (isinstance(monitor, tuple) and len(monitor) == 2):
        return []
    metric, mode = monitor
    return [
        ModelCheckpoint(
            dirpath=folder.resolve(),
            filename="best",
            monitor=metric,
            mode=mode,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
    ]


def as_list(value: Any) -> list[Any]:
    """Write one or none as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]
