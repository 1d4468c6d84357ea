"""What each layer of a live network gives and how many parameters it has (rows 44-46)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dlreview.nn.feature_map import evaluating


@dataclass(frozen=True)
class Layer:
    """A layer of a network.

    Args:
        name: its place in the network; "" is the network itself.
        kind: its class.
        shape: of its output; None if it is never called, because another part uses its weights.
        parameters: its own. A tensor that several layers share counts in the first one only.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    parameters: int


def read_layers(net: nn.Module, *inputs: Tensor) -> list[Layer]:
    """Call a network once and return its layers in the order of their first calls.

    A layer is a module with parameters of its own, or without parts. Those that are never called
    come last.
    """
    called: dict[nn.Module, tuple[int, ...] | None] = {}

    def record(module: nn.Module, _: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        called.setdefault(module, tuple(first.shape) if isinstance(first, Tensor) else None)

    names = {module: name for name, module in net.named_modules() if _is_layer(module)}
    hooks = [module.register_forward_hook(record) for module in names]
    try:
        with torch.no_grad(), evaluating(net):
            net(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    seen: set[Tensor] = set()
    layers = []
    for module in [*called, *(module for module in names if module not in called)]:
        own = set(module.parameters(recurse=False)) - seen
        seen |= own
        count = sum(parameter.numel() for parameter in own)
        layers.append(Layer(names[module], type(module).__name__, called.get(module), count))
    return layers


def _is_layer(module: nn.Module) -> bool:
    return not any(module.children()) or any(True for _ in module.parameters(recurse=False))


def table(layers: list[Layer]) -> str:
    """Write a line for each layer, and one with the sum of the parameters."""
    rows = [("layer", "kind", "output", "parameters")]
    for layer in layers:
        shape = "not called" if layer.shape is None else " × ".join(map(str, layer.shape))
        rows.append((layer.name or "(itself)", layer.kind, shape, f"{layer.parameters:,}"))
    rows.append(("total", "", "", f"{sum(layer.parameters for layer in layers):,}"))
    width = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        f"{name:{width[0]}}  {kind:{width[1]}}  {shape:{width[2]}}  {count:>{width[3]}}"
        for name, kind, shape, count in rows
    )
