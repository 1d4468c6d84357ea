"""Refuse hostile and damaged files: what they say about sizes is compared before memory is taken.

A configuration could ask for endless layers or tables of terabytes, and weights could belong to
another network. Each is found while the network has no memory yet (the meta device).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dlreview.limits import machine_memory

PREFIXES = ("module.", "_orig_mod.", "net.")  # of DDP, torch.compile, and our learners
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
CALLS_PER_TENSOR = 500  # of torch while a network is built; our networks make at most 20


class NoStart(TorchFunctionMode):
    """Build networks without drawing their first weights, which are about to be replaced.

    Args:
        most: calls of torch that the construction may make; None for any number.

    Raises:
        ValueError: the construction makes more calls.
    """

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        self.left = float("inf") if most is None else most

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError("asks for more parts than the weights file has tensors")
        values = {"tensor": args[0]} if args else kwargs or {}
        tensor, name = values.get("tensor"), getattr(func, "__name__", "")
        # There is nothing to draw on the meta device, and torch takes two seconds to find that out.
        drawing = name in ("normal_", "uniform_") and tensor is not None and tensor.is_meta
        if drawing or getattr(func, "__module__", None) == "torch.nn.init":
            return tensor
        return func(*args, **(kwargs or {}))


def limited(state: Mapping[str, Tensor]) -> NoStart:
    """Limit the calls of a construction by the number of tensors that there are for it."""
    return NoStart(1000 + CALLS_PER_TENSOR * len(state))


def refuse_large_numbers(config: Any, state: Mapping[str, Tensor], where: Path) -> None:
    """Refuse sizes that the tensors cannot have, before a constructor makes a list of them.

    Raises:
        ValueError: names the first such argument.
    """
    most = 1_000_000 + sum(tensor.numel() for tensor in state.values())
    for key, value in _leaves(config, ""):
        if isinstance(value, int | float) and abs(value) > most:
            raise ValueError(f"{where}: {key} is {value}, more than the file has numbers")


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, key)
    else:
        yield key, value


def refuse_large_tables(outline: nn.Module, where: Path) -> None:
    """Refuse tables outside the state, which no file limits, that are larger than the memory.

    Raises:
        ValueError: names the first such table.
    """
    for name, table in outline.named_buffers():
        if table.numel() * table.itemsize > machine_memory():
            raise ValueError(f"{where}: {name} of shape {list(table.shape)} is too large")


def match(
    wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], file: Path
) -> dict[str, Tensor]:
    """Pair the network's names with the file's tensors; of tied ones, one is enough.

    Raises:
        ValueError: names the first that is missing, unexpected, and of another shape or kind.
    """
    source: dict[str, str] = {}
    unexpected = []
    for key in found:
        name = _stripped(key, wanted)
        if name in source:
            raise ValueError(f"{file}: {source[name]!r} and {key!r} are one tensor of the network")
        if name in wanted:
            source[name] = key
        else:
            unexpected.append(key)
    have = {id(wanted[name]) for name in source}
    missing = [name for name, tensor in wanted.items() if id(tensor) not in have]
    faults = []
    if missing:
        faults.append(f"missing {_first(missing)}{_hint(missing[0], unexpected)}")
    if unexpected:
        faults.append(f"unexpected {_first(unexpected)}{_hint(unexpected[0], wanted)}")
    tensors = {name: found[key] for name, key in source.items()}
    faults += _unlike(wanted, tensors)
    if faults:
        raise ValueError(f"{file}: {'; '.join(faults)}")
    return tensors


def _unlike(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Say which tensors differ from the network's in shape, and which in kind."""
    uneven = [name for name, tensor in tensors.items() if tensor.shape != wanted[name].shape]
    if uneven:
        shape, expected = (list(x[uneven[0]].shape) for x in (tensors, wanted))
        yield f"{_first(uneven)} has shape {shape}, the configuration says {expected}"
    for name, tensor in tensors.items():
        ours = wanted[name].dtype
        if tensor.dtype != ours and not (ours in DTYPES and tensor.dtype in DTYPES):
            yield f"{name!r} holds {tensor.dtype}, the configuration says {ours}"
            return


def _stripped(name: str, wanted: Mapping[str, Any]) -> str:
    """Take off what wrappers put before a name."""
    plain = name
    while plain not in wanted:
        prefix = next((p for p in PREFIXES if plain.startswith(p)), None)
        if prefix is None:
            plain = plain.replace("_orig_mod.", "")  # of a part that was compiled
            return plain if plain in wanted else name
        plain = plain.removeprefix(prefix)
    return plain


def _first(names: list[str]) -> str:
    return f"{names[0]!r}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _hint(name: str, others: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(others), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
