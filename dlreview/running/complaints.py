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
CALLABLE = re.compile(r"Type typing\.Callable.*? expects a function or a callable class: ")
WORDS = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false",
         "list": "a list", "dict": "a mapping", "tuple": "a list",
         "dot": "a section with class_path"}  # fmt: skip


@dataclass(frozen=True)
class Cause:
    """One line of a complaint, with the keys and the class that it is about."""

    keys: tuple[str, ...]
    path: str
    text: str

    @property
    def inner(self) -> list[str]:
        """The keys below the section."""
        return ".".join(self.keys).split(".")[1:]


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
        text = CALLABLE.sub("", text)
        key, path = KEY.match(text), CLASS.match(text)
        if key or path:
            name = key[1] if key else ""
            frames.append((indent, name, path[1] if path else ""))
        elif not NOISE.match(text):
            keys = tuple(name for _, name, _ in frames if name)
            paths = [path for _, _, path in frames if path]
            found.append(Cause(keys, paths[-1] if paths else "", text))
    # Of the alternatives of a type, one that takes the class says more than one that does not.
    return sorted(
        found,
        key=lambda cause: (-len(cause.keys) - bool(cause.path), "correspond to" in cause.text),
    )


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
    for pattern, tell in TELLERS:
        if match := re.search(pattern, cause.text):
            return tell(key, cause, match, tree)
    return _wrong_value(key, cause, found, message, tree)


def _unknown_key(key: str, cause: Cause, match: re.Match[str], tree: Any) -> UserError:
    name = (match[1] or match[2]).replace("init_args.", "")
    inner = re.search(r"class_path='([\w.]+)'", cause.text)
    path = inner[1] if inner else cause.path
    cls = find_class(path or ("lightning.pytorch.Trainer" if key == "trainer" else None))
    valid = [k for k in parameters_of(cls) if k not in ("params", "optimizer")] if cls else []
    value = _value(tree, [*cause.inner, name])
    return UserError(f"{key}.{name}", f"unknown key, value {value}", nearest(name, valid))


def _missing_key(key: str, cause: Cause, match: re.Match[str], tree: Any) -> UserError:
    name = cause.path.rpartition(".")[2] or key
    return UserError(f"{key}.{match[1]}", f"{MISSING}; {name} needs it")


def _not_allowed(key: str, cause: Cause, match: re.Match[str], tree: Any) -> UserError:
    hint = f"allowed: {allowed_packages()} (--trust)"
    if isinstance(_raw(tree, cause.inner), dict):
        key = f"{key}.class_path"
    return UserError(key, f"{match[1]!r} is outside the allowed packages", hint)


def _no_member(key: str, cause: Cause, match: re.Match[str], tree: Any) -> UserError:
    hint = nearest(match[2], _members(match[1]))
    return UserError(f"{key}.class_path", f"there is no {match[1]}.{match[2]}", hint)


def _other_kind(key: str, cause: Cause, match: re.Match[str], tree: Any) -> UserError:
    kind = {"Module": "network (torch.nn.Module)"}.get(match[2], match[2])
    return UserError(f"{key}.class_path", f"{match[1]} is no {kind}")


MISSING = "this key is missing"
TELLERS = (
    (r"Option '(.+?)' is not accepted|does not accept option '(.+?)'", _unknown_key),
    (r"following arguments are required: ([\w.]+)", _missing_key),
    (r"Importing '(.+?)' is not allowed", _not_allowed),
    (r"module '(.+?)' has no attribute '(.+?)'", _no_member),
    (r"Import path (.+?) does not correspond to a subclass of (\w+)", _other_kind),
)


def _wrong_value(key: str, cause: Cause, found: list[Cause], message: str, tree: Any) -> UserError:
    """Tell which values are valid, all alternatives of a type together."""
    alike = " ".join(other.text for other in found if other.keys == cause.keys)
    value = _value(tree, cause.inner)
    if "Not a valid subclass" in message and len(cause.keys) <= 1 and not cause.path:
        problem = f"the class is missing, got {value}"
        return UserError(f"{key}.class_path", problem, "needs class_path and init_args")
    if literals := re.findall(r"Literal\[(.+?)\]", alike):
        valid = {word.strip(" '\"") for group in literals for word in group.split(",")}
        return UserError(key, f"got {value}", nearest(str(_raw(tree, cause.inner)), valid))
    kinds = re.findall(r"Expected an? (?:<class ')?([\w.]+)", alike)
    if words := dict.fromkeys(WORDS.get(kind, kind.rpartition(".")[2]) for kind in kinds):
        return UserError(key, f"expected {' or '.join(words)}, got {value}")
    text = cause.text.partition(" Got value:")[0]
    return UserError(key, one_line(text, 200) + ("" if value == "…" else f", got {value}"))


def _last(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _raw(tree: Any, keys: Iterable[str]) -> Any:
    """Find a value by the parser's keys, in which init_args do not occur."""
    for name in keys:
        if isinstance(tree, dict) and isinstance(tree.get("init_args"), dict):
            tree = tree["init_args"]
        if not isinstance(tree, dict) or name not in tree:
            return ...
        tree = tree[name]
    return tree


def _value(tree: Any, keys: Iterable[str]) -> str:
    value = _raw(tree, keys)
    return "…" if value is ... else one_line(repr(value), 80)


def _members(path: str) -> list[str]:
    """List what a module holds: classes and modules."""
    try:
        module = importlib.import_module(path)
    except ImportError:
        return []
    classes = [n for n, v in vars(module).items() if inspect.isclass(v) and n[0] != "_"]
    return classes + [m.name for m in pkgutil.iter_modules(getattr(module, "__path__", []))]
