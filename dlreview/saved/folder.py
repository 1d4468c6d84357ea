"""Write networks as a folder: one flat, several in a folder each beside an index."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlreview.saved.configuration import config_of
from dlreview.saved.layout import CARD, CONFIG, INDEX, PICTURE, USAGE, WEIGHTS, write_json


def save(
    networks: Mapping[str, nn.Module],
    folder: Path,
    card: str,
    usage: Mapping[str, Any] | None = None,
    picture: Path | None = None,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    files: Mapping[str, Path] | None = None,
) -> None:
    """Write `networks` to `folder`, whole or not at all.

    Args:
        networks: by name, the main network first.
        folder: replaced where it exists.
        card: text of the model card.
        usage: how to call the main network, `usage.json` (see `dlreview.usage`).
        picture: a PNG that the card shows.
        configs: by name; by default `config_of` each network.
        files: further files to copy, by the name that they get.

    Raises:
        ValueError: there is no network, or its name cannot be the name of a folder.
        OSError: the disk is full or not writable; an earlier `folder` is as it was.
    """
    staged = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        _write_networks(networks, staged, configs or {})
        if usage is not None:
            write_json(staged / USAGE, usage)
        for name, source in {**({PICTURE: picture} if picture else {}), **(files or {})}.items():
            shutil.copyfile(source, staged / name)
        (staged / CARD).write_text(card, encoding="utf-8")
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    staged.replace(folder)


def _write_networks(
    networks: Mapping[str, nn.Module], folder: Path, configs: Mapping[str, Mapping[str, Any]]
) -> None:
    wrong = [name for name in networks if not name.isidentifier()]
    if wrong or not networks:
        raise ValueError(f"networks must have names of letters, digits and _, got {[*networks]}")
    for name, net in networks.items():
        place = folder if len(networks) == 1 else folder / name
        place.mkdir(exist_ok=True)
        write_json(place / CONFIG, configs.get(name) or config_of(net))
        write_weights(net, place / WEIGHTS)
    if len(networks) > 1:
        write_json(folder / INDEX, {"networks": list(networks)})


def write_weights(net: nn.Module, file: Path) -> None:
    """Write the state of `net` with its checksum; tensors that are tied are written once."""
    from safetensors.torch import save_file

    state = net.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(state.items())}
    kept = {name: _whole(state[name].detach().cpu()) for name in first.values()}
    # One entry only: the library writes several in an order that changes from call to call.
    save_file(kept, file, metadata={"sha256": checksum(kept)})
    with file.open("rb") as written:
        os.fsync(written.fileno())


def _whole(tensor: Tensor) -> Tensor:
    """Copy a tensor that is a window on something larger."""
    alone = tensor.numel() == tensor.untyped_storage().nbytes() / tensor.itemsize
    return tensor.contiguous() if alone else tensor.clone(memory_format=torch.contiguous_format)


def checksum(state: Mapping[str, Tensor]) -> str:
    """Hash names, types, shapes and numbers, so that no bit of a file changes unnoticed."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
