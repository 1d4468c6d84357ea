"""The parser's complaints, of many lines, as a key, a problem and what would be valid.

jsonargparse nests its message as the recipe is nested, a level of indentation a section, and lists
what went wrong with each alternative of a type. The innermost line is the cause.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dlreview.messages import UserError, nearest, one_line
from dlreview.running.packages import allowed_packages
from dlreview.running.signatures import find_class, parameters_of

KEY = re.compile(r"^Parser key \"(.+)\":$")
CLASS = re.compile(r"^Problem with given class_path '(.+)':$")
NOISE = re.compile(
    r"^(Does not validate|Subtypes:|Errors:|Given value|Subclass types expect|a class path \(str\)"
    r"|a dict |Expected a <class 'NoneType'>|Expected a path but|Not a valid subclass)"
)
WORDS = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false",
         "list": "a list", "dict": "a mapping", "tuple": "a list"}  # fmt: skip


@dataclass(frozen=True)
class Cause:
    """One line of a complaint, with the keys and the class that it is about."""

    keys: tuple[str, ...]
    path: str
    text: str


def causes(message: str) -> list[Cause]:
    """Return the lines that name a cause, the innermost first."""
    found, frames = [], [(-1, "", "")]  # (indentation, key, class path)
    for line in message.splitlines():
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if text.startswith("- "):
            text, indent = text[2:], indent + 1
        if not text:
            continue
        while frames[-1][0] >= indent:
            frames.pop()
        key, path = KEY.match(text), CLASS.match(text)
        if key or path:
            name = key[1] if key else ""
            frames.append((indent, name, path[1] if path else ""))
        elif not NOISE.match(text):
            keys = tuple(name for _, name, _ in frames if name)
            paths = [path for _, _, path in frames if path]
            found.append(Cause(keys, paths[-1] if paths else "", text))
    return sorted(found, key=lambda cause: -len(cause.keys) - bool(cause.path))


def explain(section: str, message: str, tree: Any) -> UserError:
    """Make one short error of a complaint about a section of a recipe.

    Args:
        section: "model", "data" or "trainer".
        message: the parser's.
        tree: the section's value.
    """
    found = causes(message) or [Cause((section,), "", _last(message))]
    cause = found[0]
    key = ".".join(cause.keys) or section
    if match := re.search(
        r"Option '(.+?)' is not accepted|does not accept option '(.+?)'", cause.text
    ):
        name = match[1] or match[2]
        cls = find_class(cause.path) or _trainer(section)
        inner = re.search(r"class_path='([\w.]+)'", cause.text)
        cls = (find_class(inner[1]) if inner else None) or cls
        value = _value(tree, [*cause.keys[1:], name])
        valid = [k for k in parameters_of(cls) if k not in ("params", "optimizer")] if cls else []
        return UserError(f"{key}.{name}", f"unknown key, value {value}", nearest(name, valid))
    if match := re.search(r"following arguments are required: ([\w.]+)", cause.text):
        name = cause.path.rpartition(".")[2] or section
        return UserError(f"{key}.{match[1]}", f"this key is missing; {name} needs it")
    if match := re.search(r"Importing '(.+?)' is not allowed", cause.text):
        hint = f"allowed: {allowed_packages()} (--trust)"
        return UserError(key, f"{match[1]!r} is outside the allowed packages", hint)
    if match := re.search(r"module '(.+?)' has no attribute '(.+?)'", cause.text):
        hint = nearest(match[2], _members(match[1]))
        return UserError(key, f"there is no {match[1]}.{match[2]}", hint)
    if match := re.search(
        r"Import path (.+?) does not correspond to a subclass of (\w+)", cause.text
    ):
        return UserError(f"{key}.class_path", f"{match[1]} is no {_kind(match[2])}")
    return _wrong_value(key, cause, found, message, tree)


def _wrong_value(key: str, cause: Cause, found: list[Cause], message: str, tree: Any) -> UserError:
    """Tell which values are valid, all alternatives of a type together."""
    alike = [other.text for other in found if other.keys == cause.keys]
    value = _value(tree, list(cause.keys[1:]))
    if "Not a valid subclass" in message and len(cause.keys) <= 1 and not cause.path:
        return UserError(f"{key}.class_path", f"the class is missing, got {value}",
                         "needs class_path and init_args")  # fmt: skip
    literals = re.findall(r"Literal\[(.+?)\]", " ".join(alike))
    if literals:
        valid = [word.strip(" '\"") for group in literals for word in group.split(",")]
        return UserError(key, f"got {value}", nearest(str(_raw(tree, cause.keys[1:])), set(valid)))
    kinds = re.findall(r"Expected an? (?:<class ')?([\w.]+)", " ".join(alike))
    words = dict.fromkeys(WORDS.get(kind, kind.rpartition(".")[2]) for kind in kinds)
    if words:
        return UserError(key, f"expected {' or '.join(words)}, got {value}")
    return UserError(
        key, one_line(_strip(cause.text), 200) + ("" if value == "…" else f", got {value}")
    )


def _strip(text: str) -> str:
    return re.sub(
        r"Type typing\.Callable.*? expects a function or a callable class: ", "", text
    ).partition(" Got value:")[0]


def _last(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _trainer(section: str) -> type | None:
    return find_class("lightning.pytorch.Trainer") if section == "trainer" else None


def _raw(tree: Any, keys: Iterable[str]) -> Any:
    """Find a value by the parser's keys, in which init_args do not occur."""
    for key in keys:
        for name in key.split("."):
            if isinstance(tree, list) and name.isdigit() and int(name) < len(tree):
                tree = tree[int(name)]
                continue
            if isinstance(tree, dict) and isinstance(tree.get("init_args"), dict):
                tree = tree["init_args"]
            if not isinstance(tree, dict) or name not in tree:
                return ...
            tree = tree[name]
    return tree


def _value(tree: Any, keys: Iterable[str]) -> str:
    value = _raw(tree, keys)
    return "…" if value is ... else one_line(repr(value), 80)


def _kind(name: str) -> str:
    return {"Module": "network (torch.nn.Module)"}.get(name, name)


def _members(path: str) -> list[str]:
    """List what a module holds: classes and modules."""
    try:
        module = importlib.import_module(path)
    except ImportError:
        return []
    classes = [n for n, v in vars(module).items() if inspect.isclass(v) and n[0] != "_"]
    return classes + [m.name for m in pkgutil.iter_modules(getattr(module, "__path__", []))]
