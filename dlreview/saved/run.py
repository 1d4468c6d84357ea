"""A run that is not finished: its last checkpoint has the networks and says how to call them.

    checkpoint["dlreview"] = {"networks": {name: {class_path, init_args}}, "usage": {...}}

with the main network first; the keys of a network in checkpoint["state_dict"] begin with its name
and a dot. An earlier version wrote no such entry: there the recipe says which network it was.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlreview.messages import one_line
from dlreview.saved.layout import CHECKPOINT, ONLY, RECIPE

ENTRY, KEYS = "dlreview", ("networks", "usage")


class Checkpoint(NamedTuple):
    """What a checkpoint says.

    Args:
        configs: of the networks by name, the main network first.
        usage: how to call the main network; empty where an earlier version wrote the checkpoint.
        state: all tensors; they are read from the file when they are used.
        origin: which weights these are.
    """

    configs: dict[str, Any]
    usage: dict[str, Any]
    state: dict[str, Tensor]
    origin: str

    def state_of(self, name: str) -> dict[str, Tensor]:
        """Copy the state of one network out of the file."""
        begin = f"{name}."
        chosen = {k: tensor for k, tensor in self.state.items() if k.startswith(begin)}
        return {k.removeprefix(begin): tensor.clone() for k, tensor in chosen.items()}


def read_checkpoint(run: Path) -> Checkpoint:
    """Read the last checkpoint of a run, as plain numbers.

    Raises:
        ValueError: it is damaged, holds more than plain numbers, or does not say which networks
            these are.
    """
    file = run / CHECKPOINT
    try:
        content = torch.load(file, weights_only=True, map_location="cpu", mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{file}: damaged, or holds more than plain numbers") from error
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {one_line(str(error))}") from error
    content = content if isinstance(content, dict) else {}
    state, entry = content.get("state_dict"), content.get(ENTRY)
    if not isinstance(state, dict) or not all(isinstance(x, Tensor) for x in state.values()):
        raise ValueError(f"{file}: has no state_dict of tensors")
    if entry is None:
        entry = {"networks": {ONLY: _network_in_recipe(run)}, "usage": {}}
    configs, usage = (entry.get(key) if isinstance(entry, dict) else None for key in KEYS)
    if not isinstance(configs, dict) or not configs or not isinstance(usage, dict):
        raise ValueError(f"{file}: {ENTRY}: expected networks and usage, got {str(entry)[:80]!r}")
    averaging = content.get("averaging_state")
    kind = "averaged" if averaging and int(averaging.get("n_averaged", 1)) else "last"
    if averaging and kind == "last":  # averaging has not begun
        state = content.get("current_model_state", state)
    usage = {"weights": kind} | usage if usage else {}
    return Checkpoint(configs, usage, state, f"{file}: {kind}, step {content.get('global_step')}")


def _network_in_recipe(run: Path) -> Any:
    """Return the section model.init_args.net of a run's recipe.

    Raises:
        ValueError: there is no such section, or it names the weights of another library.
    """
    from dlreview.running.recipe import read

    section: Any = read(run / RECIPE)
    for key in ("model", "init_args", "net"):
        section = section.get(key) if isinstance(section, Mapping) else None
    section = {"class_path": section} if isinstance(section, str) else section
    if not isinstance(section, dict):
        raise ValueError(f"{run / RECIPE}: there is no section model.init_args.net")
    if str(section.get("class_path")).startswith("dlreview.reference."):
        raise ValueError(f"{run}: its network began as Pretrained; finish the run first (--resume)")
    return section
