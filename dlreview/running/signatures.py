"""What the constructor of a class takes: names, defaults and type hints."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

from dlreview.running.packages import is_allowed

PATH = re.compile(r"\w+(\.\w+)+")


def find_class(path: Any) -> type | None:
    """Import the class at a dotted path, or return None where that is not for us to judge.

    The parser tells what is wrong with a path; here only allowed packages are imported.
    """
    if not isinstance(path, str) or "." not in path or not is_allowed(path):
        return None
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        return None
    return found if isinstance(found, type) else None


def parameters_of(cls: type) -> dict[str, inspect.Parameter]:
    """Return the keyword parameters of a constructor, also those that **kwargs passes on."""
    parameters: dict[str, inspect.Parameter] = {}
    for ancestor in cls.__mro__:
        init = ancestor.__dict__.get("__init__")
        if init is None or ancestor is object:
            continue
        own = list(inspect.signature(init).parameters.values())[1:]
        for parameter in own:
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                parameters.setdefault(parameter.name, parameter)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own):
            break
    return parameters


def sections(node: Any, key: str) -> Iterator[tuple[str, dict[str, Any], type | None]]:
    """Walk the class sections of a recipe, outer ones first: (key, section, its class).

    Keys are those of the command line: `model.net.block`, without `init_args`.
    """
    if isinstance(node, dict) and "class_path" in node:
        yield key, node, find_class(node["class_path"])
        node = node.get("init_args")
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for name, value in items:
            yield from sections(value, f"{key}.{name}")


def expand(node: Any) -> Any:
    """Write classes that stand as plain strings, `torch.nn.GELU` say, as sections."""
    if isinstance(node, dict):
        inner = {k: v if k == "class_path" else expand(v) for k, v in node.items()}
        if isinstance(inner.get("class_path"), str) and inner.get("init_args", 0) is None:
            inner["init_args"] = {}
        return inner
    if isinstance(node, list):
        return [expand(value) for value in node]
    if isinstance(node, str) and PATH.fullmatch(node) and find_class(node) is not None:
        return {"class_path": node}
    return node
