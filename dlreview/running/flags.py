"""Flags of Lightning's Trainer: what a run cannot keep is refused, what has no effect is told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, GradientAccumulationScheduler
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from torch import nn

from dlreview.learners.learner import Learner
from dlreview.learners.rates import Rate
from dlreview.messages import UserError
from dlreview.running.monitors import Monitors
from dlreview.running.recipe import as_list
from dlreview.running.signatures import find_class, parameters_of

LOGGERS = "lightning.pytorch.loggers"
WHOLE_PRECISIONS = ("16-true", "bf16-true", "64-true", "transformer-engine",
                    "transformer-engine-float16")  # fmt: skip
FINDERS = {
    "BatchSizeFinder": "set data.batch_size",
    "LearningRateFinder": "set model.optimizer.lr",
}
WITHOUT_EFFECT = {
    "default_root_dir": "the run's folder is chosen by --out",
    "limit_test_batches": "fit does not test",
    "limit_predict_batches": "fit does not predict",
    "model_registry": "checkpoints stay in the run's folder",
}


def fill_folders(trainer: Any, folder: Path) -> Any:
    """Return the trainer section with the run's folder for each logger that needs one.

    Loggers are written as a class path or a section, with or without their package.
    """
    if not isinstance(trainer, dict) or "logger" not in trainer:
        return trainer
    given = trainer["logger"]
    filled = [_with_folder(logger, folder) for logger in as_list(given)]
    return trainer | {"logger": filled if isinstance(given, list) else (filled or [None])[0]}


def _with_folder(logger: Any, folder: Path) -> Any:
    section = logger if isinstance(logger, dict) else {"class_path": logger}
    path = section.get("class_path")
    if not isinstance(path, str):
        return logger
    path = path if "." in path else f"{LOGGERS}.{path}"
    cls, arguments = find_class(path), section.get("init_args") or {}
    folder_of = parameters_of(cls).get("save_dir") if cls else None
    if folder_of is None or not isinstance(arguments, dict) or "save_dir" in arguments:
        return logger
    if folder_of.default is not folder_of.empty:  # it has a place of its own
        return logger
    return section | {"class_path": path, "init_args": arguments | {"save_dir": str(folder)}}


def check_given(given: Mapping[str, Any]) -> None:
    """Refuse what no run can keep, before there is a trainer.

    Raises:
        UserError: names the flag.
    """
    if given.get("barebones"):
        problem = "got true: a run has checkpoints and a log, a bare trainer has none"
        raise UserError("trainer.barebones", problem, "leave it out")
    for plugin in as_list(given.get("plugins")):
        if isinstance(plugin, CheckpointIO):
            problem = f"{type(plugin).__name__} would replace the writer of the run's checkpoints"
            raise UserError("trainer.plugins", problem, "leave it out")
    for callback in as_list(given.get("callbacks")):
        name = type(callback).__name__
        if name in FINDERS:
            problem = f"{name} changes a value after the steps of the training are counted"
            raise UserError("trainer.callbacks", problem, FINDERS[name])
        if name == "GradientAccumulationScheduler" and given.get("accumulate_grad_batches") != 1:
            problem = "GradientAccumulationScheduler sets accumulate_grad_batches too"
            raise UserError("trainer.callbacks", problem, "leave one of them out")
    for unit in ("epochs", "steps"):
        least, most = given.get(f"min_{unit}"), given.get(f"max_{unit}")
        if least is not None and most is not None and 0 <= most < least:
            problem = f"is {least}, max_{unit} is {most}"
            raise UserError(f"trainer.min_{unit}", problem, f"valid: at most {most}")


def check_trainer(trainer: Trainer, given: Mapping[str, Any]) -> None:
    """Refuse processes and numbers that a run cannot have on this machine.

    Raises:
        UserError: names the flag.
    """
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        problem = f"got {given.get('strategy')!r}: its processes keep their results to themselves"
        raise UserError("trainer.strategy", problem, "valid: ddp")
    half = str(given.get("precision")) in ("16", "16-mixed")
    if half and trainer.strategy.root_device.type == "cpu":
        problem = f"got {given['precision']!r}, which a CPU does not have"
        raise UserError("trainer.precision", problem, "valid on a CPU: bf16-mixed, 32-true")


def check_learner(trainer: Trainer, learner: Any, data: Any) -> None:
    """Refuse what does not go with a learner and its data.

    Raises:
        UserError: names the flag.
    """
    precision = trainer.precision_plugin.precision
    if isinstance(learner, Learner) and precision in WHOLE_PRECISIONS:
        problem = f"got {precision!r}: the learners of dlreview keep float32 weights"
        raise UserError("trainer.precision", problem, "valid: 32-true, bf16-mixed, 16-mixed")
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, Monitors):
            callback.check_validation(trainer, learner, data)
        if isinstance(callback, GradientAccumulationScheduler) and _needs_total(learner):
            problem = "GradientAccumulationScheduler changes the number of steps that the"
            hint = "use trainer.accumulate_grad_batches, or a schedule of torch.optim.lr_scheduler"
            raise UserError("trainer.callbacks", f"{problem} model.lr_schedule goes by", hint)
        if isinstance(callback, BackboneFinetuning) and not isinstance(
            getattr(learner, "backbone", None), nn.Module
        ):
            problem = f"BackboneFinetuning needs a network `backbone`, {type(learner).__name__} "
            names = getattr(learner, "networks", None) or ["none"]
            raise UserError("trainer.callbacks", problem + f"has {', '.join(names)}")


def _needs_total(learner: Any) -> bool:
    return isinstance(getattr(learner, "lr_schedule", None), Rate)


def without_effect(given: Mapping[str, Any], trainer: Trainer, folder: Path) -> list[str]:
    """Return a line for each given flag that changes nothing.

    Args:
        given: the trainer section.
        trainer: made from it.
        folder: the run's.
    """
    defaults = parameters_of(Trainer)
    lines = [
        f"trainer.{name} has no effect: {why}"
        for name, why in WITHOUT_EFFECT.items()
        if name in given and given[name] != defaults[name].default
    ]
    if given.get("gradient_clip_algorithm") and trainer.gradient_clip_val is None:
        lines.append("trainer.gradient_clip_algorithm has no effect without gradient_clip_val")
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        count = int(trainer.fast_dev_run)  # type: ignore[attr-defined]
        steps = "1 step" if count == 1 else f"{count} steps"
        lines.append(f"trainer.fast_dev_run: {steps} and no log, into {folder}")
    return lines
