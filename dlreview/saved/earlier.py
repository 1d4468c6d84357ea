"""Configurations that an earlier version wrote, brought up to date."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

# Earlier class path -> class path now.
RENAMED = {"dlreview.nn.tagger.Tagger": "dlreview.nn.tagger.RecurrentTagger"}
# Class path now -> function that returns the arguments of now for those that were written. No
# version is written down, so the function must return arguments of now as they are.
CHANGED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def modernise(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the class and change the arguments of one section {class_path, init_args}."""
    path = str(config.get("class_path"))
    now = RENAMED.get(path)
    if now is not None and _exists(now):
        path, config = now, {**config, "class_path": now}
    if path in CHANGED and isinstance(config.get("init_args"), dict):
        config = {**config, "init_args": CHANGED[path](dict(config["init_args"]))}
    return dict(config)


def _exists(path: str) -> bool:
    module, _, name = path.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), name)
    except ImportError:
        return False
