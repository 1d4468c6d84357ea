"""The end of a run: its networks as a folder, and what to look at and to run next."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlreview import saved
from dlreview.learners.sharding import is_sharded
from dlreview.running.directory import RunDirectory
from dlreview.running.networks import prefix_of
from dlreview.running.weights_and_biases import how_to_sync
from dlreview.saved.card import card, how_to_load
from dlreview.usage import beside, example, example_of, next_command, tag_of


def save_networks(
    networks: Mapping[str, nn.Module],
    about: Mapping[str, Any],
    directory: RunDirectory,
    recipe: Mapping[str, Any],
    metrics: Mapping[str, float],
    data: Any,
    trained: tuple[Mapping[str, Tensor], str] | None = None,
) -> dict[str, Any]:
    """Write `model/`: what the trainer holds when it is done, else what the last checkpoint holds.

    Args:
        networks: by name, the main one first; their weights are replaced by the checkpoint's.
        about: "networks", the configuration of each, and "usage".
        directory: the run's.
        recipe: the resolved one, for the card.
        metrics: the last value of each.
        data: the data module, for an example.
        trained: the learner's state after training in this process, and which weights it holds.

    Returns:
        How the main network is called, as it was written.

    Raises:
        ValueError: a weight is not finite.
        OSError: the disk is full or not writable.
    """
    from dlreview.reference.folders import writers_of

    networks = {name: whole(net, about["networks"][name]) for name, net in networks.items()}
    checkpoint = torch.load(directory.checkpoint, weights_only=True, map_location="cpu")
    state, kind = weights_in(checkpoint)
    if trained is not None:
        state, kind = trained
    for name, net in networks.items():
        prefix = prefix_of(name, net)
        own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        refuse_non_finite(name, own)
        net.cpu().load_state_dict(own)
    usage = dict(about["usage"]) | {"metrics": dict(metrics), "recipe": dict(recipe)}
    usage["weights"] = kind
    usage["example"], files = beside(usage, example(usage, data, directory.path) or [])
    picture = latest_picture(directory)
    classes = {name: type(net).__name__ for name, net in networks.items()}
    main = next(iter(networks.values()))
    command = next_command(usage, ".", usage["example"])
    formats = list(writers_of(main))
    text = card(
        type(main).__name__,
        usage,
        how_to_load(classes, ".", command, str(directory.path), formats),
        tag=tag_of(usage),
        picture=saved.PICTURE if picture else None,
    )
    saved.save(networks, directory.model, text, usage, picture, about["networks"], files)
    return usage


def whole(net: nn.Module, config: Any) -> nn.Module:
    """Return a network or, if its weights are shared out over processes, a new one like it."""
    return saved.build(config) if is_sharded(net) else net


def weights_in(checkpoint: Mapping[str, Any]) -> tuple[Mapping[str, Tensor], str]:
    """Return a checkpoint's weights, averaged ones if averaging has begun, and which these are."""
    averaging = checkpoint.get("averaging_state")
    if averaging is None:
        return checkpoint["state_dict"], "last"
    if not int(averaging.get("n_averaged", 1)):
        return checkpoint["current_model_state"], "last"
    return checkpoint["state_dict"], "averaged"


def refuse_non_finite(name: str, state: Mapping[str, Tensor]) -> None:
    """Refuse to save what is not a number.

    Raises:
        ValueError: names the first such weight.
    """
    for key, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(
                f"network {name} is not saved: {key} holds numbers that are not finite"
            )


def latest_picture(directory: RunDirectory) -> Path | None:
    """Return the picture that the run drew last."""
    pictures = directory.pictures.glob("*.png")
    return max(pictures, key=lambda p: (p.stat().st_mtime, p.name), default=None)


def report(directory: RunDirectory, usage: Mapping[str, Any]) -> None:
    """Print the final metrics, the picture's path and the next command."""
    print()
    for name, value in sorted(usage["metrics"].items()):
        print(f"{name:28} {value:.4g}" if abs(value) < 1e-3 else f"{name:28} {value:.4f}")
    if not usage["metrics"]:
        print("no metrics: see trainer.log_every_n_steps and trainer.check_val_every_n_epoch")
    picture = latest_picture(directory)
    if picture:
        print(f"picture: {picture}")
    print(f"network: {directory.model}")
    sync = how_to_sync(directory.path)
    if sync:
        print(f"to send this run to Weights & Biases: {sync}")
    if command := next_command(usage, directory.path, example_of(usage)):
        print(f"next: {command}")
