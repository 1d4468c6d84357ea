"""Which networks a learner has, under which names they are saved, and how each was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn

from dlreview import saved
from dlreview.messages import UserError

SAVED = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
         torch.float16, torch.bfloat16, torch.float32, torch.float64}  # fmt: skip
WHOLE = "model"  # the name of a LightningModule that is saved as one network


def networks_of(learner: LightningModule, recipe: Mapping[str, Any]) -> dict[str, nn.Module]:
    """Return a learner's networks by name, the main one first.

    A learner says which with `networks`. Of a LightningModule that does not, these are its parts
    with parameters: first those that its recipe gives a section or that are of `dlreview.nn`, `net`
    before all. Without any such part it is saved whole.

    Raises:
        UserError: an attribute that `networks` names is no network.
    """
    names = getattr(learner, "networks", None)
    if not (isinstance(names, tuple | list) and all(isinstance(name, str) for name in names)):
        names = parts_of(learner, recipe["model"].get("init_args") or {})
    found = {name: getattr(learner, name, None) for name in names}
    for name, net in found.items():
        if not isinstance(net, nn.Module):
            problem = f"{type(learner).__name__} keeps no network under the name {name}"
            raise UserError("model", problem, f"its networks are to be {', '.join(found)}")
        for key, tensor in net.state_dict().items():
            if tensor.dtype not in SAVED:
                problem = f"network {name} cannot be saved: {key} holds {tensor.dtype}"
                raise UserError("model", problem, "valid: real numbers, integers, bool")
    return found or {WHOLE: learner}  # type: ignore[return-value]


def parts_of(learner: LightningModule, given: Mapping[str, Any]) -> list[str]:
    """Return the names of a plain module's networks, or none if it is to be saved whole."""
    parts = {
        name: net for name, net in learner.named_children() if any(True for _ in net.parameters())
    }
    known = [
        name
        for name, net in parts.items()
        if name == "net" or name in given or type(net).__module__.startswith("dlreview.nn.")
    ]
    if not known or any(True for _ in learner.parameters(recurse=False)):
        return []
    others = [name for name in parts if name not in known]
    return [*sorted(known, key=lambda name: name != "net"), *others]


def prefix_of(name: str, net: nn.Module) -> str:
    """Return how the keys of a network begin in the learner's state."""
    return "" if name == WHOLE and isinstance(net, LightningModule) else f"{name}."


def configs_of(networks: Mapping[str, nn.Module], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return {class_path, init_args} of each network: its own, or what the recipe says of it.

    A network of another package, made inside a module, has a class only: its weights are saved, and
    its own code must make it.
    """
    configs = {}
    section = recipe["model"]
    for name, net in networks.items():
        written = (section.get("init_args") or {}).get(name)
        path = f"{type(net).__module__}.{type(net).__qualname__}"
        try:
            configs[name] = saved.config_of(net)
        except ValueError:
            if name == WHOLE and isinstance(net, LightningModule):
                configs[name] = dict(section)
            else:
                configs[name] = written if isinstance(written, dict) else {"class_path": path}
    return configs
