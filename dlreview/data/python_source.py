"""Python's own source as tagged text: the tokens of its library and their roles.

`python-source` is part of every CPython: about 250,000 tokens, without a download. The same word
has many roles (`name` is a parameter, a variable, an attribute or a keyword argument), and often
only the following words decide. The text differs slightly between versions of Python.
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

from dlreview.messages import check_known

EMBEDDED_SOURCE = "python-source"
BLOCK = 20  # consecutive lines that are in the same split
STRING = '""'  # replaces every string: its content is not tagged
TAGS = (
    *("keyword", "operator", "number", "string"),
    *("class", "function", "parameter", "keyword_argument", "attribute", "module"),
    *("variable", "assigned", "name"),
)
# Packages without "/__init__". Modules that this Python does not have are skipped.
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
# Roles of names without a node in the syntax tree, by the word before the name.
AFTER = {"def": "function", "class": "class", "as": "assigned", "**": "assigned"}
TYPE_PARAMETER = getattr(ast, "type_param", ())  # as in class Box[T], since Python 3.12

Position = tuple[int, int]  # number of the line, from 1, and of the byte in it, from 0
TaggedLine = tuple[list[str], list[str]]


def code_tokens(source: str) -> Iterator[TokenInfo]:
    """Yield the tokens except comments and layout; a string is one token, an f-string too."""
    depth = 0  # of nested f-strings, which Python splits into tokens since 3.12
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        opens = kind.endswith("STRING_START")
        if depth == 0 and (opens or kind == "STRING"):
            yield token._replace(type=tokenize.STRING, string=STRING)
        elif depth == 0 and kind not in LAYOUT:
            yield token
        depth += opens - kind.endswith("STRING_END")


def nodes(tree: ast.AST) -> Iterator[Any]:
    """Yield the nodes of a tree, except in f-strings: Python 3.11 has wrong positions there."""
    stack = [tree]
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, ast.JoinedStr):
            stack.extend(ast.iter_child_nodes(node))


def role_spans(tree: ast.AST) -> dict[Position, tuple[Position, str]]:
    """Return the parts of a source whose names have a role: start to (end, role).

    A statement that is only a string has the role "".
    """
    spans: dict[Position, tuple[Position, str]] = {}
    for node in nodes(tree):
        name = ""  # if the role is that of the node's last word, this word
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
        spans[start] = end, role
    return spans


def leftover_role(word: str, before: str, after: str) -> str:
    """Return the role of a name that has no node of its own, by the words beside it."""
    if before in AFTER:
        return AFTER[before]
    if after == "=":  # case Point(x=0)
        return "keyword_argument"
    return "keyword" if keyword.issoftkeyword(word) else "name"


def tagged_lines(source: str) -> list[TaggedLine]:
    """Return the logical lines of a source as (tokens, tags)."""
    spans, text = role_spans(ast.parse(source)), source.split("\n")
    lines: list[TaggedLine] = [([], [])]
    end, role = (0, 0), ""
    for token, after in pairwise(code_tokens(source)):
        row, column = token.start
        start = row, len(text[row - 1][:column].encode())  # the tree counts in bytes
        end, role = spans.get(start, (end, role))
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
    """Read the files of the modules that this Python has, without importing them."""
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

    Every tenth block of 20 lines is in the test split.

    Raises:
        ValueError: `split` is neither "train" nor "test", or this Python has no source files.
    """
    check_known(f"split of {EMBEDDED_SOURCE!r}", split, ("train", "test"))
    lines = library()
    if not lines:
        raise ValueError(f"path {EMBEDDED_SOURCE!r}: this Python has no source files")
    chosen = [x for i, x in enumerate(lines) if (i // BLOCK % 10 == 9) == (split == "test")]
    return [list(words) for words, _ in chosen], [list(tags) for _, tags in chosen]
