"""The end of a run: its network as a folder, and what to look at and to run next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import yaml
from lightning.pytorch import LightningModule
from torch import nn

from dlreview import saved
from dlreview.running.directory import RunDirectory
from dlreview.running.weights_and_biases import how_to_sync

if TYPE_CHECKING:
    from dlreview.fit import Command


def save_model(
    model: LightningModule,
    config: dict[str, Any],
    directory: RunDirectory,
    metrics: dict[str, float],
) -> None:
    """Write `model/` from the last checkpoint; its weights are the averaged ones if there are.

    Raises:
        OSError: the disk is full or not writable.
    """
    checkpoint = torch.load(directory.checkpoint, weights_only=True, map_location="cpu")
    net = getattr(model, "net", None)
    if not isinstance(net, nn.Module):
        raise ValueError(f"{type(model).__name__} keeps no network under the name net")
    state = checkpoint["state_dict"]
    net.load_state_dict({k[4:]: v for k, v in state.items() if k.startswith("net.")})
    averaged = "averaging_state" in checkpoint
    saved.save(net.cpu(), directory.model, card(net, config, metrics, averaged))


def card(net: nn.Module, config: dict[str, Any], metrics: dict[str, float], averaged: bool) -> str:
    """Return the model card: what it is, how it was trained, what was measured, how to load it."""
    name = type(net).__name__
    dataset = config["data"].get("init_args", {}).get("path", "")
    metadata = {"library_name": "dlreview", "tags": ["dlreview", name]}
    measured = "".join(f"| {key} | {value:.4g} |\n" for key, value in sorted(metrics.items()))
    weights = "the exponential moving average of the training weights" if averaged else "the last"
    sections = {k: config[k] for k in ("seed_everything", "model", "data")}
    return (
        f"---\n{yaml.safe_dump(metadata)}---\n\n# {name}\n\nTrained on `{dataset}` with dlreview; "
        f"the weights are {weights}.\n\n"
        "```python\nimport dlreview\n\nnet = dlreview.load('.')  # this folder\n```\n\n"
        f"| metric | value |\n|---|---|\n{measured}\n"
        f"## Recipe\n\n```yaml\n{yaml.safe_dump(sections, sort_keys=False)}```\n"
    )


def report(command: Command, directory: RunDirectory, metrics: dict[str, float]) -> None:
    """Print the final metrics, the picture's path and the next command."""
    print()
    for name, value in sorted(metrics.items()):
        print(f"{name:28} {value:.4f}")
    pictures = sorted(directory.pictures.glob("*.png"), key=lambda p: p.stat().st_mtime)
    if pictures:
        print(f"picture: {pictures[-1]}")
    print(f"network: {directory.model}")
    sync = how_to_sync(directory.path)
    if sync:
        print(f"to send this run to Weights & Biases: {sync}")
    print(f"next: python -m dlreview.sample {directory.path}")
