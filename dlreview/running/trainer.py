"""The trainer: what the recipe asks for, with what every run has beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint, ProgressBar

from dlreview.messages import UserError
from dlreview.running.builder import Section
from dlreview.running.checkpoints import AtomicCheckpointIO, Checkpoints
from dlreview.running.flags import check_given, check_trainer
from dlreview.running.metrics_csv import MetricsCSV
from dlreview.running.monitors import Monitors
from dlreview.running.progress import ProgressLines, progress_bar
from dlreview.running.recipe import as_list
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
        UserError: a value is refused, by us or by Lightning.
    """
    given = dict(section.build())
    check_given(given)
    refuse_fsdp(given.get("strategy"))
    metrics = MetricsCSV(directory.metrics)
    folder = directory.checkpoint.parent
    checkpoints = Checkpoints(folder, options["checkpoint_every"], metrics)
    callbacks = as_list(given.get("callbacks"))
    monitors = Monitors(callbacks)
    own = any(isinstance(callback, Checkpoint) for callback in callbacks)
    unwanted = own or given.get("enable_checkpointing") is False
    best = [] if unwanted else best_checkpoint(model, folder)
    loggers = [x for x in as_list(given.get("logger")) if not isinstance(x, bool)]
    theirs = any(type(logger).__name__ == "WandbLogger" for logger in loggers)
    wandb = [] if theirs else wandb_logger(options["wandb"], directory.path)
    bar = bar_beside(callbacks, given.get("enable_progress_bar"))
    shown = any(isinstance(callback, ProgressBar) for callback in (*callbacks, *bar))
    made = {
        "logger": [metrics, *wandb, *loggers],
        "callbacks": [StepSeeds(), checkpoints, monitors, *callbacks, *best, *bar],
        "plugins": [AtomicCheckpointIO(), *as_list(given.get("plugins"))],
        "default_root_dir": str(directory.path),
    }
    defaults: dict[str, Any] = {
        "num_sanity_val_steps": monitors.sanity_steps(class_of(model)),
        "enable_model_summary": False,
        "enable_progress_bar": shown,
        "enable_checkpointing": bool(best) or own,
    }
    made |= {name: value for name, value in defaults.items() if given.get(name) is None}
    return built(given, made), metrics, checkpoints


def built(given: Mapping[str, Any], made: Mapping[str, Any]) -> Trainer:
    """Build the trainer of what the recipe has `given` and of what we `made` of it.

    Raises:
        UserError: a value is refused, by us or by Lightning.
    """
    try:
        trainer = Trainer(**{**given, **made})
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
        raise UserError("trainer", str(error)) from None
    check_trainer(trainer, given)
    return trainer


def class_of(model: Any) -> type | None:
    """Return the learner's class of a model section."""
    return find_class(model.get("class_path") if isinstance(model, dict) else model)


def bar_beside(callbacks: list[Callback], wanted: bool | None) -> list[Callback]:
    """Return what shows the progress, unless the recipe has a bar of its own or wants none."""
    if any(isinstance(callback, ProgressBar) for callback in callbacks):
        return []
    return [ProgressLines()] if wanted is False else progress_bar()


def best_checkpoint(model: Any, folder: Path) -> list[Callback]:
    """Keep the best checkpoint too, by the metric that the learner names."""
    monitor = getattr(class_of(model), "monitor", None)
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
