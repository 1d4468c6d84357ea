"""Configurations that an earlier version wrote, brought up to date."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dlreview.saved.earlier_unet import earlier_diffusion_unet

# Earlier class path -> class path now.
RENAMED = {"dlreview.nn.tagger.Tagger": "dlreview.nn.tagger.RecurrentTagger"}
# Class path now -> function that returns the arguments of now for those that were written. No
# version is written down, so the function must return arguments of now as they are.
CHANGED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "dlreview.nn.diffusion_unet.DiffusionUNet": earlier_diffusion_unet
}


def modernise(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the class and change the arguments of one section {class_path, init_args}."""
    path = str(config.get("class_path"))
    path = RENAMED.get(path, path)
    config = {**config, "class_path": path} if "class_path" in config else config
    if path in CHANGED and isinstance(config.get("init_args"), dict):
        config = {**config, "init_args": CHANGED[path](dict(config["init_args"]))}
    return dict(config)
