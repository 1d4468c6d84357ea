"""What the data and the trainer know is not typed: sizes, and the steps of torch's schedules."""

from __future__ import annotations

import copy
import inspect
import math
import re
from typing import Any

from lightning.pytorch.callbacks import GradientAccumulationScheduler

from dlreview.messages import UserError
from dlreview.running.signatures import expand, parameters_of, sections

MAY_BE_LARGER = ("vocabulary_size", "max_length")
STEPS = {"OneCycleLR": "total_steps", "CosineAnnealingLR": "T_max"}
HOLD_SCHEDULES = ("SequentialLR", "ChainedScheduler")
REPLACES_LR = {"OneCycleLR": "max_lr", "CyclicLR": "base_lr"}


def fill_sizes(model: Any, sizes: dict[str, Any]) -> Any:
    """Return the model section with what it leaves out and the data knows by that name.

    Nested parts are filled too. A typed null stays: it says that a network does without.

    Raises:
        UserError: a typed size is not the data's.
    """
    model = expand(copy.deepcopy(model))
    for key, section, cls in sections(model, "model"):
        if cls is None or not sizes:
            continue
        given = section.setdefault("init_args", {})
        if not isinstance(given, dict):
            continue
        for name in parameters_of(cls):
            if name in sizes and name not in given:
                given[name] = copy.copy(sizes[name])
            elif name in sizes and given[name] is not None:
                _agree(f"{key}.{name}", given[name], sizes[name])
    return model


def _agree(key: str, typed: Any, known: Any) -> None:
    """Compare a typed size with the data's."""
    if not isinstance(typed, int | list) or isinstance(typed, bool) or _pair(typed) == _pair(known):
        return  # of another type: the parser will say so
    larger = key.rpartition(".")[2] in MAY_BE_LARGER
    if larger and typed > known:
        return
    hint = f"leave it out, or set it to {'at least ' if larger else ''}{known}"
    raise UserError(key, f"is {typed}, the data has {known}", hint)


def _pair(size: Any) -> Any:
    """Write a side as height and width."""
    return size if isinstance(size, list) else [size, size]


def check_schedules(model: Any) -> None:
    """Refuse a schedule made of schedules, each of which needs the optimizer that is not there yet.

    Raises:
        UserError: names the class, and what there is instead.
    """
    for key, section, _ in sections(expand(model), "model"):
        path = str(section["class_path"])
        kind = path.rpartition(".")[2]
        if kind in HOLD_SCHEDULES and path.startswith("torch.optim.lr_scheduler."):
            problem = f"{kind} holds schedules of an optimizer that a recipe cannot name"
            hint = "use dlreview.learners.rates: WarmupCosine, Warmup and Linear have a warm-up"
            raise UserError(f"{key}.class_path", problem, hint)


def fill_steps(model: Any, steps: float) -> Any:
    """Return the model section with the steps and rates that torch's schedules need.

    Raises:
        UserError: a schedule ends before the training does, replaces the optimizer's rate by
            another one, or needs an end and the trainer has none.
    """
    model = copy.deepcopy(model)
    arguments = model.get("init_args") or {}
    for name, schedule in arguments.items():
        if not isinstance(schedule, dict) or not str(schedule.get("class_path", "")).startswith(
            ("torch.optim.lr_scheduler.", "lightning.")
        ):
            continue
        kind, key = schedule["class_path"].rpartition(".")[2], f"model.{name}"
        given = schedule.get("init_args") or {}
        schedule["init_args"] = given
        named = re.sub(r"(lr_)?schedule(r)?", "optimizer", name)
        optimizer = arguments.get(named) if named != name else None
        optimizer = optimizer or arguments.get("optimizer")
        if kind in STEPS:
            _fill_steps(f"{key}.{STEPS[kind]}", given, steps)
        if kind in REPLACES_LR and optimizer:
            _fill_rate(f"{key}.{REPLACES_LR[kind]}", given, optimizer)
    return model


def _fill_steps(key: str, given: dict[str, Any], steps: float) -> None:
    name = key.rpartition(".")[2]
    typed = given.get(name)
    if typed is None and given.get("epochs") and given.get("steps_per_epoch"):
        typed = given["epochs"] * given["steps_per_epoch"]
    if typed is None:
        if math.isinf(steps):
            raise UserError(key, "the trainer has no end", "set trainer.max_epochs or max_steps")
        # OneCycleLR divides by pct_start * total_steps - 1; one step more avoids zero.
        given[name] = int(steps) + (given.get("pct_start", 0) * int(steps) == 1)
    elif name == "total_steps" and isinstance(typed, int) and typed < steps:
        raise UserError(key, f"is {typed}, the training has {steps:.0f} steps", "leave it out")


def _fill_rate(key: str, given: dict[str, Any], optimizer: Any) -> None:
    """Let a schedule that sets the rate by itself take the optimizer's."""
    name = key.rpartition(".")[2]
    rate = (optimizer.get("init_args") or {}).get("lr") if isinstance(optimizer, dict) else None
    if name not in given:
        given[name] = rate if rate is not None else _default_rate(optimizer)
    elif rate is not None and given[name] != rate:
        raise UserError(key, f"is {given[name]}, optimizer.lr is {rate}", "leave one of them out")


def _default_rate(optimizer: Any) -> float:
    for _, _, cls in sections(expand(optimizer), ""):
        lr = parameters_of(cls).get("lr") if cls else None
        if lr is not None and lr.default is not inspect.Parameter.empty:
            return float(lr.default)
    return 1e-3  # torch's own for Adam and SGD


def check_interval(trainer: Any, batches: float) -> None:
    """Refuse to validate after more batches than an epoch has.

    Raises:
        UserError: names both numbers.
    """
    interval: Any = getattr(trainer, "val_check_interval", None)  # a time is kept elsewhere
    within_epoch = isinstance(interval, int) and trainer.check_val_every_n_epoch is not None
    if within_epoch and interval > batches and trainer.limit_val_batches:
        hint = "valid: fewer, or with trainer.check_val_every_n_epoch null"
        problem = f"is {interval}, an epoch has {batches:.0f} batches"
        raise UserError("trainer.val_check_interval", problem, hint)


def count_batches(trainer: Any, data: Any) -> float:
    """Return how many batches of an epoch a process trains on; infinity for a stream.

    Raises:
        UserError: there is nothing to train on, or no loader.
    """
    try:
        loader: Any = data.train_dataloader()
    except Exception as error:  # a user's own may lack it, or fail in any way
        raise UserError("data", str(error) or type(error).__name__) from error
    try:
        batches: float = len(loader)
    except TypeError:
        batches = math.inf
    if not hasattr(getattr(loader, "sampler", None), "processes"):  # Lightning shares rows out
        batches = batches if math.isinf(batches) else math.ceil(batches / trainer.world_size)
    limit = trainer.limit_train_batches
    batches = batches * limit if isinstance(limit, float) else min(batches, limit)
    if int(min(batches, 1)) == 0:
        problem = f"got {limit}: of {len(loader)} batches there would be none to train on"
        overfits = getattr(trainer, "overfit_batches", 0)  # Lightning puts it in the limit's place
        name = "overfit_batches" if overfits else "limit_train_batches"
        raise UserError(f"trainer.{name}", problem)
    check_interval(trainer, float(batches))
    return float(batches)


def count_steps(trainer: Any, batches: float, earlier: int = 0) -> float:
    """Return how many optimizer steps a training takes; infinity where it has no end.

    Args:
        trainer: has the limits.
        batches: of an epoch.
        earlier: steps that a resumed run has taken beyond those that its batches are now worth.
    """
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    steps = math.inf if trainer.max_steps == -1 else trainer.max_steps
    return float(min(steps_of(batches, float(epochs), trainer) + earlier, steps))


def steps_of(batches: float, epochs: float, trainer: Any) -> float:
    """Return the optimizer steps of so many epochs, each with its number of batches a step."""
    if math.isinf(batches):
        return math.inf
    changing = [c for c in trainer.callbacks if isinstance(c, GradientAccumulationScheduler)]
    if not changing or math.isinf(epochs):
        return float(math.ceil(int(batches) / trainer.accumulate_grad_batches) * epochs)
    factors = (changing[0].get_accumulate_grad_batches(epoch) for epoch in range(int(epochs)))
    return float(sum(math.ceil(int(batches) / factor) for factor in factors))
