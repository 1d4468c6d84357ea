"""A network as a folder: `config.json` (class and arguments) and `model.safetensors` (weights).

The configuration is read off the network itself: every constructor argument of a network of
`dlreview.nn` is kept as an attribute of the same name (scikit-learn's convention), and an argument
that is a network nests. It is the same thing as a recipe's `net:` section.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import shutil
from pathlib import Path
from typing import Any

from torch import nn

NETWORKS = "dlreview.nn."
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


def config_of(net: nn.Module) -> dict[str, Any]:
    """Return {class_path, init_args} from which `build` makes an equal network.

    Raises:
        ValueError: a constructor argument is not kept as an attribute, or is no plain value.
    """
    cls = type(net)
    path = f"{cls.__module__}.{cls.__qualname__}"
    arguments = {}
    for name in list(inspect.signature(cls.__init__).parameters)[1:]:
        if not hasattr(net, name):
            raise ValueError(f"{path} does not keep its argument {name!r} as an attribute")
        arguments[name] = _plain(getattr(net, name), f"{path}.{name}")
    return {"class_path": path, "init_args": arguments}


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, nn.ModuleList | list | tuple):
        return [_plain(item, where) for item in value]
    if isinstance(value, nn.Module):
        return config_of(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{where} is {value!r}, which a configuration cannot hold")


def build(config: Any, where: str = CONFIG) -> nn.Module:
    """Construct the network that `config` describes; only classes of `dlreview.nn` are looked at.

    Raises:
        ValueError: `config` is not of the form of `config_of`, or the class refuses its arguments.
    """
    if not isinstance(config, dict) or not isinstance(config.get("class_path"), str):
        raise ValueError(f"{where}: expected class_path and init_args, got {str(config)[:80]!r}")
    path = config["class_path"]
    module_name, _, name = path.rpartition(".")
    cls = None
    if path.startswith(NETWORKS) and all(part.isidentifier() for part in path.split(".")):
        try:
            cls = getattr(importlib.import_module(module_name), name, None)
        except ImportError:
            cls = None
    if not (isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__ == module_name):
        raise ValueError(f"{where}: class_path {path!r} is not a network of dlreview.nn")
    arguments = config.get("init_args") or {}
    if not isinstance(arguments, dict) or set(config) - {"class_path", "init_args"}:
        raise ValueError(f"{where}: expected class_path and init_args, got {sorted(config)}")
    known = list(inspect.signature(cls.__init__).parameters)[1:]
    for key in arguments:
        if key not in known:
            raise ValueError(f"{where}: {name} has no argument {key!r}; valid: {', '.join(known)}")
    built = {key: _built(value, f"{where}: {key}") for key, value in arguments.items()}
    try:
        return cls(**built)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{where}: {name}: {error}") from error


def _built(value: Any, where: str) -> Any:
    if isinstance(value, list):
        return [_built(item, where) for item in value]
    return build(value, where) if isinstance(value, dict) else value


def save(net: nn.Module, folder: Path, card: str) -> None:
    """Write `net` with its model card to `folder`, whole or not at all.

    Raises:
        OSError: the disk is full or not writable; an earlier `folder` is as it was.
    """
    from safetensors.torch import save_model

    staged = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        text = json.dumps(config_of(net), indent=2)
        (staged / CONFIG).write_text(text + "\n", encoding="utf-8")
        (staged / CARD).write_text(card, encoding="utf-8")
        save_model(net, str(staged / WEIGHTS), metadata={"format": "pt"})
        with (staged / WEIGHTS).open("rb") as file:
            os.fsync(file.fileno())
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    staged.replace(folder)
