"""Python's own source as tagged text: each token of its library, and what it is there.

`python-source` is what every CPython ships: some 250,000 tokens, without a download. The same word
has many roles (`name` is a parameter, a variable, an attribute or a keyword argument), and often
only what follows tells which. The text differs a little from one Python to the next.
"""

from __future__ import annotations

import ast
import io
import keyword
import sysconfig
import tokenize
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from tokenize import TokenInfo
from typing import Any

EMBEDDED_SOURCE = "python-source"
BLOCK = 20  # sentences that follow each other stay in one split
STRING = '""'  # stands for every string: what is in one is not for tagging
TAGS = (
    *("keyword", "operator", "number", "string"),
    *("class", "function", "parameter", "keyword_argument", "attribute", "module"),
    *("variable", "assigned", "name"),
)
# Without the "__init__" of a package. What one Python lacks is left out.
MODULES = (
    "_pydatetime argparse ast bisect cmd collections configparser contextlib copy csv dataclasses "
    "datetime difflib doctest email/message enum fnmatch functools getopt glob graphlib heapq "
    "inspect json/decoder json/encoder linecache logging mailbox operator optparse pathlib "
    "pathlib/_local pickle queue random reprlib sched shelve shlex shutil socketserver statistics "
    "string subprocess tarfile textwrap threading timeit tokenize traceback typing unittest/case "
    "urllib/parse uuid zipfile"
)
LAYOUT = ("COMMENT", "NL", "INDENT", "DEDENT")
KINDS = {tokenize.OP: "operator", tokenize.NUMBER: "number", tokenize.STRING: "string"}
# What a name is that has no node of its own, by the word before it.
AFTER = {"def": "function", "class": "class", "as": "assigned", "**": "assigned"}
TYPE_PARAMETER = getattr(ast, "type_param", ())  # of class Box[T], from 3.12 on

Position = tuple[int, int]  # a line, from 1, and a byte in it, from 0
TaggedLine = tuple[list[str], list[str]]


def code_tokens(source: str) -> Iterator[TokenInfo]:
    """Yield the tokens but comments and layout; a string is one, an f-string too."""
    depth = 0  # from 3.12 on Python takes f-strings apart, and one can be inside another
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        opens = kind.endswith("STRING_START")
        if depth == 0 and (opens or kind == "STRING"):
            yield token._replace(type=tokenize.STRING, string=STRING)
        elif depth == 0 and kind not in LAYOUT:
            yield token
        depth += opens - kind.endswith("STRING_END")


def nodes(tree: ast.AST) -> Iterator[Any]:
    """Walk a tree, but not into f-strings: Python 3.11 misplaces what is there."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.JoinedStr):
            waiting.extend(ast.iter_child_nodes(node))


def places(tree: ast.AST) -> dict[Position, tuple[Position, str]]:
    """Return by its start each part of a source whose names have a role: its end, and the role.

    A statement that is only a string has the role "".
    """
    found: dict[Position, tuple[Position, str]] = {}
    for node in nodes(tree):
        name = ""  # the last word, where that is the name
        match node:
            case ast.Name(ctx=ast.Load()):
                role = "variable"
            case ast.Attribute(attr=name):
                role = "attribute"
            case ast.arg():
                role = "parameter"
            case ast.keyword():
                role = "keyword_argument"
            case ast.Import() | ast.ImportFrom():
                role = "module"
            case ast.Name() | ast.Global() | ast.Nonlocal():
                role = "assigned"
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                role = "assigned"
            case ast.Expr(value=ast.Constant(value=str() | bytes()) | ast.JoinedStr()):
                role = ""
            case _ if isinstance(node, TYPE_PARAMETER):
                role = "assigned"
            case _:
                continue
        start, end = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
        if name:
            start = end[0], end[1] - len(name.encode())
        found[start] = end, role
    return found


def leftover_role(word: str, before: str, after: str) -> str:
    """Tell what a name is that has no node of its own, by the words beside it."""
    if before in AFTER:
        return AFTER[before]
    if after == "=":  # case Point(x=0)
        return "keyword_argument"
    return "keyword" if keyword.issoftkeyword(word) else "name"


def tagged_lines(source: str) -> list[TaggedLine]:
    """Return the logical lines of a source: the tokens of each, and their tags."""
    known, text = places(ast.parse(source)), source.split("\n")
    lines: list[TaggedLine] = [([], [])]
    end, role = (0, 0), ""
    for token, after in pairwise(code_tokens(source)):
        row, column = token.start
        start = row, len(text[row - 1][:column].encode())  # a tree counts in bytes
        end, role = known.get(start, (end, role))
        word, (words, tags) = token.string, lines[-1]
        if token.type == tokenize.NEWLINE:
            lines.append(([], []))
            continue
        if start < end and not role:
            continue
        if token.type != tokenize.NAME:
            tag = KINDS[token.type]
        elif keyword.iskeyword(word):
            tag = "keyword"
        elif start < end:
            tag = role
        else:
            tag = leftover_role(word, words[-1] if words else "", after.string)
        words.append(word)
        tags.append(tag)
    return [line for line in lines if line[0]]


@lru_cache(maxsize=1)
def library() -> list[TaggedLine]:
    """Read the modules that this Python has, from their files: none is imported."""
    root = Path(sysconfig.get_paths()["stdlib"])
    lines = []
    for name in MODULES.split():
        for path in (root / f"{name}.py", root / name / "__init__.py"):
            if path.is_file():
                with tokenize.open(path) as file:
                    lines += tagged_lines(file.read())
    return lines


def python_source(split: str) -> tuple[list[list[str]], list[list[str]]]:
    """Return the logical lines of Python's library, and their tags.

    Every tenth block of 20 lines is for testing.

    Raises:
        ValueError: `split` is neither "train" nor "test", or this Python comes without the files.
    """
    if split not in ("train", "test"):
        raise ValueError(f"path {EMBEDDED_SOURCE!r} has the splits train and test, not {split!r}")
    lines = library()
    if not lines:
        raise ValueError(f"path {EMBEDDED_SOURCE!r}: this Python comes without its source files")
    chosen = [x for i, x in enumerate(lines) if (i // BLOCK % 10 == 9) == (split == "test")]
    return [list(words) for words, _ in chosen], [list(tags) for _, tags in chosen]
