"""Weights that were saved from a wrapped network: `module.` of DDP, `_orig_mod.` of torch.compile.

The libraries refuse such names, or leave the network as it was drawn. A copy of the folder with the
plain names is one that they read.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

WRAPPERS = ("module.", "_orig_mod.")
SETTINGS = (".json", ".txt")
NAMES = {"diffusers": "diffusion_pytorch_model.safetensors"}  # by library; of others this one:
NAME = "model.safetensors"


def plain_name(name: str) -> str:
    """Remove what wrappers put into the name of a weight."""
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name.replace("._orig_mod.", ".")


def read_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a folder: of its safetensors files, else of torch's own files."""
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        with safe_open(file, framework="pt") as weights:
            yield from ((key, weights.get_tensor(key)) for key in weights.keys())  # noqa: SIM118
    for file in [] if files else sorted(folder.glob("*.bin")):
        yield from torch.load(file, weights_only=True, map_location="cpu", mmap=True).items()


def copy_unwrapped(folder: Path, library: str, copy: Path) -> bool:
    """Write a copy of a model folder with plain names; tell whether there were others.

    Args:
        folder: holds settings and weights.
        library: the one that will read the copy.
        copy: an empty folder.
    """
    from safetensors.torch import save_file

    state = dict(read_weights(folder))
    if all(plain_name(name) == name for name in state):
        return False
    for file in folder.iterdir():
        if file.suffix in SETTINGS and not file.name.endswith(".index.json"):
            shutil.copyfile(file, copy / file.name)
    # Not two names for one memory, which the file format has not.
    plain = {plain_name(name): tensor.clone() for name, tensor in state.items()}
    save_file(plain, copy / NAMES.get(library, NAME), metadata={"format": "pt"})
    return True
