"""How a saved network is to be called: `usage.json` beside its weights, and what `sample` does.

A network knows shapes; what its pixels mean, which class is which and how samples are drawn is told
by the learner and the data it was trained with. Each may have a method `usage()` that returns plain
JSON values:

    learner.usage() -> {"task": "diffusion", "settings": {...}}
    data.usage() -> {"data": "digits", "class_names": [...],
                     "image": {"channels": 1, "height": 8, "width": 8, "range": [-1, 1]}}

`task` names a module of this folder, which has
    FLAGS: dict[str, Flag], the flags of `dlreview.sample` for it beside the common ones;
    WORDS: how many files it takes after the network, at least and at most;
    tag(usage) -> str, the hub's name of the task;
    sample(net, usage, files, options) -> None, which draws, writes and prints.
A new task is a new module; nothing else names it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from dlreview.messages import UserError, nearest
from dlreview.saved import CHECKPOINT, CONFIG, RECIPE, USAGE, network_section, read_json

SECTIONS = ("seed_everything", "model", "data", "trainer")
SIZES = ("channels", "height", "width")


def collect(
    learner: Any,
    data: Any,
    recipe: Mapping[str, Any],
    weights: str = "last",
    metrics: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Gather what learner and data tell, and how the network came about.

    Args:
        learner: may have `usage()`.
        data: may have `usage()`.
        recipe: the resolved recipe.
        weights: "averaged" or "last".
        metrics: the last value of each.
    """
    told: dict[str, Any] = {}
    for teller in (learner, data):
        told |= teller.usage() if hasattr(teller, "usage") else {}
    kept = {key: recipe[key] for key in SECTIONS if key in recipe}
    return told | {"weights": weights, "metrics": dict(metrics or {}), "recipe": kept}


def read(folder: Path) -> dict[str, Any]:
    """Read how the network in a model folder, or in an unfinished run, is to be called.

    Raises:
        ValueError: the file is damaged.
    """
    if (folder / CONFIG).exists():
        usage = read_json(folder / USAGE) if (folder / USAGE).is_file() else {}
        if not isinstance(usage, dict):
            raise ValueError(f"{folder / USAGE}: expected an object, got {str(usage)[:80]!r}")
        return usage
    return _of_unfinished(folder) if (folder / CHECKPOINT).is_file() else {}


def _of_unfinished(run: Path) -> dict[str, Any]:
    """Ask the learner and the data of a run's recipe, built without memory for networks."""
    from dlreview.running import recipe
    from dlreview.running.schema import Schema, trusted_packages

    tree = recipe.read(run / RECIPE)
    network_section(tree)
    schema = Schema(trusted_packages(()))
    schema.check({key: tree[key] for key in ("seed_everything", "model", "data") if key in tree})
    data = schema.build(tree["data"], object, "data")
    data.setup("fit")
    return collect(schema.build(tree["model"], object, "model"), data, tree)


def tasks() -> list[str]:
    """List the tasks that `sample` can do."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def task_of(usage: Mapping[str, Any]) -> ModuleType:
    """Return the module of this folder for the task that `usage` names.

    Raises:
        UserError: it names none, or one that is not here.
    """
    task = usage.get("task")
    if task is None:
        raise UserError("", f"this network does not say what it is for: no task in its {USAGE}")
    if task not in tasks():
        raise UserError("", f"task {str(task)[:40]!r} is unknown", nearest(str(task), tasks()))
    return importlib.import_module(f"{__name__}.{task}")


def class_number(usage: Mapping[str, Any], text: str, count: int) -> int:
    """Find the number of a class given by its name or number.

    Args:
        usage: may have `class_names`.
        text: what the user wrote.
        count: number of classes.

    Raises:
        UserError: there is no such class.
    """
    names = [str(name) for name in usage.get("class_names") or []]
    if text in names:
        return names.index(text)
    if text.isascii() and text.isdecimal() and int(text) < count:
        return int(text)
    hint = nearest(text, names) if names else f"valid: 0 to {count - 1}"
    raise UserError("--class", f"{text!r} is no class of this network", hint)


def image_shape(usage: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return (channels, height, width) of the network's images.

    Raises:
        ValueError: `usage` does not tell, or tells no sizes of images.
    """
    image = usage.get("image")
    found = [image.get(k) if isinstance(image, Mapping) else None for k in SIZES]
    sizes = [size for size in found if isinstance(size, int) and 1 <= size <= 65_536]
    if len(sizes) != len(SIZES):
        raise ValueError(f"{USAGE}: image: expected {', '.join(SIZES)}, got {str(image)[:80]!r}")
    channels, height, width = sizes
    return channels, height, width
