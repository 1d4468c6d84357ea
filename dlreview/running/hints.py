"""Type hints as a schema: which YAML values fit them, and how that is said in words."""

from __future__ import annotations

import collections.abc
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import torch

from dlreview.messages import UserError

SCALARS = (int, float, str, bool, type(None), bytes)


def plain(hint: Any) -> Any:
    """Strip what does not change which values fit: Annotated, NewType, bare containers."""
    if typing.get_origin(hint) is typing.Annotated:
        return plain(typing.get_args(hint)[0])
    if hint in (list, tuple, dict):
        return {list: list[Any], tuple: tuple[Any, ...], dict: dict[str, Any]}[hint]
    if hint in (Callable, collections.abc.Callable, typing.Callable):
        return collections.abc.Callable[..., Any]
    return hint


def takes_class(hint: Any) -> bool:
    """Whether a value of this hint may be written as a class path."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(takes_class(plain(o)) for o in typing.get_args(hint))
    if typing.get_origin(hint) in (type, collections.abc.Callable):
        return True
    return isinstance(hint, type) and hint not in SCALARS and typing.get_origin(hint) is None


def fits(value: Any, kind: type) -> bool:
    """Whether a YAML scalar fits a plain class: bool is no int, an int is a float."""
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float)
    if kind in SCALARS:
        return isinstance(value, kind)
    if isinstance(value, str):  # paths, durations, devices: the class reads its own text
        return kind.__module__.split(".")[0] in ("pathlib", "datetime", "os") or (
            kind in (torch.device, torch.dtype)
        )
    return isinstance(value, kind)


def coerce(value: Any, hint: Any) -> Any:
    """Make a YAML value what a constructor expects: a whole number a float, a list a tuple."""
    options = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return coerce(value, float) if float in options and int not in options else value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        inner = options if len(options) == len(value) else (options[:1] or (Any,)) * len(value)
        return tuple(coerce(v, plain(h)) for v, h in zip(value, inner, strict=True))
    if typing.get_origin(hint) is list and isinstance(value, list) and options:
        return [coerce(v, plain(options[0])) for v in value]
    return value


def check_bounds(value: Any, least: int | float, greatest: int | float, key: str) -> None:
    """Refuse a number outside [least, greatest]."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and not least <= value <= greatest:
        limit = f"at least {least:g}" + ("" if math.isinf(greatest) else f", at most {greatest:g}")
        raise UserError(key, f"out of range, got {value!r}", f"valid: {limit}")


def signature(cls: type) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """Return the keyword parameters of a constructor, those that **kwargs passes on included."""
    parameters: dict[str, inspect.Parameter] = {}
    hints: dict[str, Any] = {}
    for ancestor in cls.__mro__:
        init = ancestor.__dict__.get("__init__")
        if init is None or ancestor is object:
            continue
        own = list(inspect.signature(init).parameters.values())[1:]
        try:
            own_hints = typing.get_type_hints(inspect.unwrap(init))
        except (NameError, TypeError):
            own_hints = {}
        for parameter in own:
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                parameters.setdefault(parameter.name, parameter)
                hints.setdefault(parameter.name, own_hints.get(parameter.name, Any))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own):
            break
    return parameters, hints


def passes_on(cls: type) -> bool:
    """Whether a constructor hands **kwargs to something that is not an ancestor of its class."""
    inits = [vars(c)["__init__"] for c in cls.__mro__ if c is not object and "__init__" in vars(c)]
    return all(
        any(p.kind is p.VAR_KEYWORD for p in inspect.signature(init).parameters.values())
        for init in inits
    )


def describe(hint: Any) -> str:
    """Say in words which values fit a hint."""
    hint = plain(hint)
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(o) for o in options))
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, options))
    if origin in (list, tuple, collections.abc.Sequence, collections.abc.Iterable):
        inner = [describe(o) for o in options if o is not Ellipsis]
        return "a list" + (f" of {', '.join(dict.fromkeys(inner))}" if inner else "")
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    if hint is type(None):
        return "null"
    if origin in (dict, collections.abc.Mapping):
        return "a mapping"
    if origin is collections.abc.Callable:
        return "a section with class_path"
    return names.get(hint, f"a {getattr(hint, '__name__', hint)}")


def describe_keys(parameters: Mapping[str, inspect.Parameter], given: int) -> str:
    """List the keys of a section, the needed ones first."""
    rest = list(parameters.values())[given:]
    needed = [p.name for p in rest if p.default is p.empty]
    return f"needed: {', '.join(needed)}"
