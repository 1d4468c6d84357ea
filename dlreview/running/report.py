"""The end of a run: its network as a folder, and what to look at and to run next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from torch import nn

from dlreview import saved
from dlreview.running.directory import RunDirectory
from dlreview.running.weights_and_biases import how_to_sync
from dlreview.saved.card import card, how_to_load
from dlreview.usage import beside, collect, example, example_of, next_command, read, tag_of

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
        ValueError: the learner keeps no network.
    """
    from dlreview.reference.folders import writers_of

    checkpoint = torch.load(directory.checkpoint, weights_only=True, map_location="cpu")
    net = getattr(model, "net", None)
    if not isinstance(net, nn.Module):
        raise ValueError(f"{type(model).__name__} keeps no network under the name net")
    state = checkpoint["state_dict"]
    net.load_state_dict({k[4:]: v for k, v in state.items() if k.startswith("net.")})
    weights = "averaged" if "averaging_state" in checkpoint else "last"
    data = getattr(model.trainer, "datamodule", None)
    usage = collect(model, data, config, weights, metrics)
    try:
        section = saved.config_of(net)
    except ValueError:  # a user's own network; the recipe says how it was made
        section = config["model"]["init_args"]["net"]
    picture = latest_picture(directory)
    usage["example"], files = beside(usage, example(usage, data, directory.path) or [])
    command = next_command(usage, ".", usage["example"])
    formats = list(writers_of(net))
    text = card(
        type(net).__name__,
        usage,
        how_to_load({"net": type(net).__name__}, ".", command, str(directory.path), formats),
        tag=tag_of(usage),
        picture=saved.PICTURE if picture else None,
    )
    configs = {"net": section}
    saved.save({"net": net.cpu()}, directory.model, text, usage, picture, configs, files)


def latest_picture(directory: RunDirectory) -> Path | None:
    """Return the picture that the run drew last."""
    pictures = directory.pictures.glob("*.png")
    return max(pictures, key=lambda p: (p.stat().st_mtime, p.name), default=None)


def report(command: Command, directory: RunDirectory, metrics: dict[str, float]) -> None:
    """Print the final metrics, the picture's path and the next command."""
    print()
    for name, value in sorted(metrics.items()):
        print(f"{name:28} {value:.4f}")
    picture = latest_picture(directory)
    if picture:
        print(f"picture: {picture}")
    print(f"network: {directory.model}")
    sync = how_to_sync(directory.path)
    if sync:
        print(f"to send this run to Weights & Biases: {sync}")
    usage = read(directory.model)
    if following := next_command(usage, directory.path, example_of(usage)):
        print(f"next: {following}")
