"""Carry weights between our networks and the classes of timm, transformers, diffusers and torch.

Each module of this folder ends with `MAPS`, the pairs of classes that it joins; a new architecture
is a new file and is found by itself. A library is imported only when one of its classes is built.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import nn

from dlreview.reference.pretrained import Pretrained
from dlreview.reference.weights import Rule, carry

__all__ = ["Example", "Map", "Pretrained", "find_map", "formats", "from_reference", "to_reference"]


@dataclass(frozen=True)
class Map:
    """Join one of our classes to one of theirs.

    `ours` and `theirs` are dotted paths. `build_ours` makes ours from the configuration of theirs
    and raises ValueError naming a field that ours has not. `build_theirs` is its inverse and
    succeeds where `fits` holds. `table` gives the rules for one network of ours. `registry`, for
    timm, gives names of its registry that take any arguments, and the arguments of theirs.
    """

    ours: str
    theirs: str
    library: str
    build_ours: Callable[[Any], nn.Module]
    build_theirs: Callable[[Any], nn.Module]
    table: Callable[[Any], list[Rule]]
    fits: Callable[[Any], bool] = lambda ours: True
    registry: Callable[[Any], tuple[list[str], dict[str, Any]]] | None = None


@dataclass(frozen=True)
class Example:
    """A network of theirs for the parity ledger; each map has one in its module's `EXAMPLES`.

    `theirs` makes it, `inputs` draws what both are called with, in float64, sizes large enough to
    be timed. What the calls return, a tensor or a tuple of tensors, must be equal; by default the
    networks are called with the inputs.
    """

    theirs: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    call_ours: Callable[..., Any] = lambda net, *inputs: net(*inputs)
    call_theirs: Callable[..., Any] = lambda net, *inputs: net(*inputs)


def from_reference(theirs: nn.Module) -> nn.Module:
    """Build our network with the weights, dtypes, device, gradient flags and mode of theirs.

    Raises:
        ValueError: there is no map for the class, or a field of its configuration is not supported.
    """
    found = find_map(theirs)
    ours = found.build_ours(theirs)
    carry(theirs, ours, found.table(ours), "ours")
    return ours


def to_reference(ours: nn.Module, library: str) -> nn.Module:
    """Build the library's own network with the weights of ours: the inverse of `from_reference`.

    Raises:
        ValueError: that library has no class that `ours` fits.
    """
    for found in maps_of(ours):
        if found.library == library and found.fits(ours):
            theirs = found.build_theirs(ours)
            carry(ours, theirs, found.table(ours), "theirs")
            return theirs
    options = formats(ours) or "none"
    raise ValueError(f"library {library!r} has no class for this {_path(ours)}; fitting: {options}")


def formats(ours: nn.Module) -> list[str]:
    """List the libraries that have a class for this network."""
    return sorted({found.library for found in maps_of(ours) if found.fits(ours)})


def find_map(theirs: nn.Module) -> Map:
    """Find the map of a library's network by its exact class.

    Raises:
        ValueError: there is none.
    """
    for found in all_maps():
        module, _, name = found.theirs.rpartition(".")
        # The name first: resolving a class may import much of its library.
        alike = (name, module.partition(".")[0]) == (type(theirs).__name__, _library(theirs))
        if alike and getattr(importlib.import_module(module), name) is type(theirs):
            return found
    known = ", ".join(sorted(found.theirs for found in all_maps()))
    raise ValueError(f"there is no map for {_path(theirs)}; known are {known}")


def all_maps() -> Iterator[Map]:
    """Give every map."""
    return (found for module in all_modules() for found in getattr(module, "MAPS", []))


def all_examples() -> Iterator[tuple[str, Example]]:
    """Give every example with the stem of its file."""
    for module in all_modules():
        for example in getattr(module, "EXAMPLES", []):
            yield module.__name__.rpartition(".")[2], example


def all_modules() -> Iterator[ModuleType]:
    """Give every module of this folder."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        yield importlib.import_module(module.name)


def maps_of(ours: nn.Module) -> Iterator[Map]:
    """Give the maps of a network's class."""
    return (found for found in all_maps() if found.ours == _path(ours))


def _path(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _library(module: nn.Module) -> str:
    return type(module).__module__.partition(".")[0]
