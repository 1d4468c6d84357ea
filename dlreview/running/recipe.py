"""Recipes: one YAML document, read strictly, with overrides from the command line.

A recipe is data. Reading one runs no code: tags, duplicate keys, several documents and alias bombs
are refused; ordinary anchors and merge keys stay legal. What the keys mean is up to
`dlreview.running.schema`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from dlreview.messages import UserError, nearest

LARGEST_FILE = 1_000_000  # bytes; the longest recipe of the project has 3,000
LARGEST_TREE = 20_000  # values after the aliases are expanded


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain scalars (so that 1e-3 is a number and `no` a word), unique keys, no tags."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 (an instance's, says its stub)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        return super().construct_mapping(node, deep=deep)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:(?:[0-9][0-9_]*\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+"
        r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first)
    )
_Loader.yaml_implicit_resolvers.setdefault("", []).append(
    ("tag:yaml.org,2002:null", re.compile("^$"))
)


def _refuse_unsafe(node: yaml.Node, done: dict[int, int], open_nodes: set[int]) -> int:
    """Return how many values `node` expands to; refuse duplicate keys, cycles and alias bombs."""
    if id(node) in done:
        return done[id(node)]
    where = f"line {node.start_mark.line + 1}"
    if id(node) in open_nodes:
        raise UserError("", f"{where}: an alias that contains itself")
    open_nodes.add(id(node))
    size = 1
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise UserError("", f"{where}: a key must be a word")
            if key.value in seen and key.value != "<<":
                line = key.start_mark.line + 1
                raise UserError(key.value, f"line {line}: this key stands twice in its section")
            seen.add(key.value)
            size += _refuse_unsafe(value, done, open_nodes)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_refuse_unsafe(value, done, open_nodes) for value in node.value)
    if size > LARGEST_TREE:
        raise UserError("", f"{where}: expands to more than {LARGEST_TREE} values (aliases?)")
    open_nodes.remove(id(node))
    done[id(node)] = size
    return size


def parse(text: str) -> Any:
    """Read one YAML document.

    Raises:
        UserError: it is not YAML, or holds a tag, a duplicate key, a second document, a bomb.
    """
    try:
        for token in yaml.scan(text, Loader=_Loader):
            if isinstance(token, yaml.TagToken):
                line = token.start_mark.line + 1
                raise UserError("", f"line {line}: YAML tags are not allowed in a recipe")
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            return None
        _refuse_unsafe(node, {}, set())
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        where = f"line {mark.line + 1}: " if mark else ""
        raise UserError("", f"{where}not YAML: {problem}") from None
    except RecursionError:
        raise UserError("", "nested too deeply") from None
    except (ValueError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError("", f"not YAML: {error}") from None


def as_list(value: Any) -> list[Any]:
    """Write one or none as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]


def read(path: Path) -> dict[str, Any]:
    """Read a recipe file.

    Raises:
        UserError: the file is missing, unreadable, not text, empty or not one mapping.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UserError("", f"larger than {LARGEST_FILE} bytes: not a recipe")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError("", "not a text file in UTF-8") from None
    except OSError as error:
        siblings = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        hint = nearest(path.name, siblings) if siblings else ""
        raise UserError("", f"cannot be read: {error.strerror or error}", hint) from None
    tree = parse(text)
    if not isinstance(tree, dict):
        raise UserError("", f"a recipe is a mapping of sections, got {tree!r}")
    return tree


def override(tree: dict[str, Any], key: str, text: str) -> None:
    """Set `key` (dotted; `init_args` may be left out) of `tree` to `text`, read as YAML, in place.

    A key that ends with + adds to a list, as in LightningCLI: `--trainer.callbacks+=...`.

    Raises:
        UserError: `key` goes through something that is not a section.
    """
    try:
        value = parse(text)
    except UserError as error:
        raise UserError(f"--{key}", f"{text!r} is {error.problem}") from None
    *sections, last = key.removesuffix("+").split(".")
    node: Any = tree
    for depth, name in enumerate(sections):
        node = _step(node, name, ".".join(sections[: depth + 1]))
    node = _inside(node, last)
    if key.endswith("+") and isinstance(node, dict):
        present = node.get(last)
        value = [*as_list(present), *(value if isinstance(value, list) else [value])]
    if isinstance(node, list):
        node[_index(node, last, key)] = value
    elif not isinstance(node, dict):
        raise UserError(f"--{key}", f"{'.'.join(sections)} is {node!r}, not a section")
    elif isinstance(node.get(last), dict) and isinstance(value, str) and "class_path" in node[last]:
        node[last]["class_path"] = value
    else:
        node[last] = value


def _inside(node: Any, name: str) -> Any:
    """Enter `init_args` where `name` is an argument of a class section."""
    if isinstance(node, dict) and "class_path" in node and name not in ("class_path", "init_args"):
        if node.get("init_args") is None:
            node["init_args"] = {}
        return node["init_args"]
    return node


def _index(node: list[Any], name: str, key: str) -> int:
    if not name.isdigit() or int(name) >= len(node):
        raise UserError(f"--{key}", f"{name!r} is not a position in a list of {len(node)}")
    return int(name)


def _step(node: Any, name: str, key: str) -> Any:
    node = _inside(node, name)
    if not isinstance(node, dict | list):
        raise UserError(f"--{key}", f"there is no section of this name; {node!r} is a value")
    place: Any = _index(node, name, key) if isinstance(node, list) else name
    value = node[place] if isinstance(node, list) else node.get(name)
    if isinstance(value, str):  # a class without arguments, written as a plain string
        value = {"class_path": value}
    node[place] = {} if value is None else value
    return node[place]
