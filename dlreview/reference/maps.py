"""Copy weights between our networks and the classes of timm, transformers, diffusers and torch.

The modules of this folder end with `MAPS`, the pairs of classes that they connect; a new file is
found automatically. A library is imported only when one of its classes is needed.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from dlreview.reference.weights import Rule, copy_weights


@dataclass(frozen=True)
class Map:
    """Connect one of our classes with one of theirs.

    `ours` and `theirs` are dotted paths. `build_ours` builds ours from the configuration of theirs
    and raises a ValueError that names a field which ours does not support. `build_theirs` is its
    inverse and succeeds if `fits` returns True. `table` returns the rules for a network of ours.
    `registry`, for timm, returns names of its registry that accept any arguments, and the arguments
    of theirs.
    """

    ours: str
    theirs: str
    library: str
    build_ours: Callable[[Any], nn.Module]
    build_theirs: Callable[[Any], nn.Module]
    table: Callable[[Any], list[Rule]]
    fits: Callable[[Any], bool] = lambda ours: True
    registry: Callable[[Any], tuple[list[str], dict[str, Any]]] | None = None


def maps_of_classes(
    ours: str,
    theirs: Iterable[str],
    build_ours: Callable[[Any], nn.Module],
    build_theirs: Callable[[Any, str], nn.Module],
    table: Callable[[Any, str], list[Rule]],
    fits: Callable[[Any, str], bool],
) -> list[Map]:
    """Connect one of our classes with several of transformers.

    `theirs` are names in that library; `build_theirs`, `table` and `fits` are called with ours and
    the name.
    """

    def connect(name: str) -> Map:
        return Map(
            ours=ours,
            theirs=f"transformers.{name}",
            library="transformers",
            build_ours=build_ours,
            build_theirs=lambda net: build_theirs(net, name),
            table=lambda net: table(net, name),
            fits=lambda net: fits(net, name),
        )

    return [connect(name) for name in theirs]


@dataclass(frozen=True)
class Conversion:
    """Connect one of our classes with a class of theirs that is no torch network.

    `ours` and `theirs` are dotted paths. `from_theirs` builds ours, `to_theirs` is its inverse.
    The modules of this folder list them in `CONVERSIONS`.
    """

    ours: str
    theirs: str
    library: str
    from_theirs: Callable[[Any], nn.Module]
    to_theirs: Callable[[Any], Any]


@dataclass(frozen=True)
class Example:
    """A network of theirs for the parity ledger; every map has one in its module's `EXAMPLES`.

    `theirs` builds it, and `inputs` draws the inputs of both, in float64 and large enough to be
    timed. `call_ours` and `call_theirs` return a tensor or a tuple of tensors, which must be equal;
    by default they call the network with the inputs.
    """

    theirs: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    call_ours: Callable[..., Any] = lambda net, *inputs: net(*inputs)
    call_theirs: Callable[..., Any] = lambda net, *inputs: net(*inputs)


def from_reference(theirs: Any) -> nn.Module:
    """Build our network with the weights, dtypes, device, gradient flags and mode of theirs.

    Raises:
        ValueError: there is no map for the class, or a field of its configuration is not supported.
    """
    for conversion in all_conversions():
        if conversion.theirs == _path(theirs):
            return conversion.from_theirs(theirs)
    found = find_map(theirs)
    ours = found.build_ours(theirs)
    copy_weights(theirs, ours, found.table(ours), "ours")
    return ours


def to_reference(ours: nn.Module, library: str) -> Any:
    """Build the library's own network with the weights of ours: the inverse of `from_reference`.

    Raises:
        ValueError: that library has no class for `ours`.
    """
    for found in maps_of(ours):
        if found.library == library and found.fits(ours):
            theirs = found.build_theirs(ours)
            copy_weights(ours, theirs, found.table(ours), "theirs")
            return theirs
    for conversion in all_conversions():
        if (conversion.library, conversion.ours) == (library, _path(ours)):
            return conversion.to_theirs(ours)
    known = ", ".join(formats(ours)) or "none"
    raise ValueError(f"library {library!r} has no class for this {_path(ours)}; valid: {known}")


def formats(ours: nn.Module) -> list[str]:
    """List the libraries that have a class for this network."""
    found = {found.library for found in maps_of(ours) if found.fits(ours)}
    return sorted(found | {c.library for c in all_conversions() if c.ours == _path(ours)})


def find_map(theirs: Any) -> Map:
    """Find the map of a library's network by its exact class.

    Raises:
        ValueError: there is none.
    """
    for found in all_maps():
        module, _, name = found.theirs.rpartition(".")
        # Compare the names first: the import of a class may import much of its library.
        same_name = (name, module.partition(".")[0]) == (type(theirs).__name__, _library(theirs))
        if same_name and getattr(importlib.import_module(module), name) is type(theirs):
            return found
    raise ValueError(no_map(_path(theirs)))


def no_map(path: str) -> str:
    """Say that there is no map for a class of theirs, and why, or which class is the nearest.

    A reason comes from the `REFUSED` of a module, whose keys are a library and the beginning of
    the names of its classes: "timm.Eva".
    """
    library, name = path.partition(".")[0], path.rpartition(".")[2]
    for module in all_modules():
        for start, reason in getattr(module, "REFUSED", {}).items():
            if f"{library}.{name}".startswith(start):
                return f"there is no map for {path}: {reason}"
    known = sorted({m.theirs for m in all_maps()} | {c.theirs for c in all_conversions()})
    names = {k.rpartition(".")[2]: k for k in known if k.partition(".")[0] == library}
    close = difflib.get_close_matches(name, names, n=1)
    nearest = f"the nearest class is {names[close[0]]}; " if close else ""
    return f"there is no map for {path}; {nearest}valid: {', '.join(known)}"


def all_maps() -> Iterator[Map]:
    """Return every map."""
    return (found for module in all_modules() for found in getattr(module, "MAPS", []))


def all_conversions() -> Iterator[Conversion]:
    """Return every conversion."""
    return (found for module in all_modules() for found in getattr(module, "CONVERSIONS", []))


def all_examples() -> Iterator[tuple[str, Example]]:
    """Yield every example with the stem of its file."""
    for module in all_modules():
        for example in getattr(module, "EXAMPLES", []):
            yield module.__name__.rpartition(".")[2], example


def all_modules() -> Iterator[ModuleType]:
    """Yield every module of this folder."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)], "dlreview.reference."):
        yield importlib.import_module(module.name)


def maps_of(ours: nn.Module) -> Iterator[Map]:
    """Return the maps of a network's class."""
    return (found for found in all_maps() if found.ours == _path(ours))


def _path(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _library(thing: Any) -> str:
    return type(thing).__module__.partition(".")[0]
