import argparse
import ast
import sys
from itertools import chain

import pytest

from dlreview.data import python_source as module
from dlreview.data.python_source import TAGS, python_source, tagged_lines

SHORT = {
    **{"k": "keyword", "o": "operator", "n": "number", "s": "string", "c": "class"},
    **{"f": "function", "p": "parameter", "ka": "keyword_argument", "a": "attribute"},
    **{"m": "module", "v": "variable", "st": "assigned"},
}
# A line of Python, and below it each of its tokens with its tag.
LINES = """
import a.b as c, d
import/k a/m ./o b/m as/k c/m ,/o d/m
from .x import (y as z)
from/k ./o x/m import/k (/o y/m as/k z/m )/o
from typing import *
from/k typing/m import/k */o
def name(name, *args, b: str = name, **kw): pass
def/k name/f (/o name/p ,/o */o args/p ,/o b/p :/o str/v =/o name/v ,/o **/o kw/p )/o :/o pass/k
async def f(a, /) -> a: await a
async/k def/k f/f (/o a/p ,/o //o )/o ->/o a/v :/o await/k a/v
class Name(Base, metaclass=M): x = 1
class/k Name/c (/o Base/v ,/o metaclass/ka =/o M/v )/o :/o x/st =/o 1/n
f(name=name, *args, **kw)
f/v (/o name/ka =/o name/v ,/o */o args/v ,/o **/o kw/v )/o
self.name = name
self/v ./o name/a =/o name/v
name: list[int] = [1, 2.5]
name/st :/o list/v [/o int/v ]/o =/o [/o 1/n ,/o 2.5/n ]/o
lambda x, *y, z=x: x
lambda/k x/p ,/o */o y/p ,/o z/p =/o x/v :/o x/v
é = 'ü', é.naïve.name, 'ß€😀' + é
é/st =/o ""/s ,/o é/v ./o naïve/a ./o name/a ,/o ""/s +/o é/v
x = f'{a:{b}} {c!r}' + y
x/st =/o ""/s +/o y/v
x = f"{f'{a}' 'b'}" f'c' "d", y
x/st =/o ""/s ""/s ""/s ,/o y/v
if (n := a.n) is not True: del n
if/k (/o n/st :=/o a/v ./o n/a )/o is/k not/k True/k :/o del/k n/st
[x.y for x, *z in x if z]
[/o x/v ./o y/a for/k x/st ,/o */o z/st in/k x/v if/k z/v ]/o
match = case = type(_)
match/st =/o case/st =/o type/v (/o _/v )/o
with a as b, c.d as e.f: g += 1
with/k a/v as/k b/st ,/o c/v ./o d/a as/k e/v ./o f/a :/o g/st +=/o 1/n
""".strip().split("\n")
STATEMENTS = '''
"""A module."""
@name.cache(size=None)
def f(match):  # a comment
    ("of "
     "two")
    global x, y; nonlocal_x = 1
    match match.x:
        case Point(x=0, type=t) | {"k": [1, *rest], **more} as case:
            return (case,

                    t)  # no layout
        case [*_] if t: b"also left out"
        case T.a | None:
            f"{left} out"
        case type: print
        case _: ...
try: pass
except E as type: raise
'''
STATEMENTS_EXPECTED = """
@/o name/v ./o cache/a (/o size/ka =/o None/k )/o
def/k f/f (/o match/p )/o :/o
global/k x/st ,/o y/st ;/o nonlocal_x/st =/o 1/n
match/k match/v ./o x/a :/o
case/k Point/v (/o x/ka =/o 0/n ,/o type/ka =/o t/st )/o |/o {/o ""/s :/o [/o 1/n ,/o */o rest/st \
]/o ,/o **/o more/st }/o as/k case/st :/o
return/k (/o case/v ,/o t/v )/o
case/k [/o */o _/k ]/o if/k t/v :/o
case/k T/v ./o a/a |/o None/k :/o
case/k type/st :/o print/v
case/k _/k :/o .../o
try/k :/o pass/k
except/k E/v as/k type/st :/o raise/k
"""


def pairs(line: str) -> tuple[list[str], list[str]]:
    split = [pair.rsplit("/", 1) for pair in line.split()]
    return [word for word, _ in split], [SHORT[tag] for _, tag in split]


@pytest.mark.parametrize(("source", "expected"), list(zip(LINES[::2], LINES[1::2], strict=True)))
def test_a_line(source, expected):
    assert tagged_lines(source) == [pairs(expected)]


def test_statements():
    assert tagged_lines(STATEMENTS) == [pairs(x) for x in STATEMENTS_EXPECTED.split("\n") if x]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="newer syntax")
def test_newer_syntax():
    line = pairs("type/k X/st [/o T/st :/o int/v ,/o */o U/st ,/o **/o P/st ]/o =/o T/v")
    assert tagged_lines("type X[T: int, *U, **P] = T") == [line]
    assert tagged_lines("x = f'{f'{a['b']}'}', y") == [pairs('x/st =/o ""/s ,/o y/v')]


def test_the_library_in_two_splits():
    splits = [python_source(split) for split in ("train", "test")]
    sizes = [sum(map(len, words)) for words, _ in splits]
    assert sizes[0] > 100_000 and sizes[1] > 10_000
    for words, tags in splits:
        assert all(words) and [len(x) for x in words] == [len(x) for x in tags]
    tags = [tag for _, part in splits for tag in chain(*part)]
    assert set(tags) <= set(TAGS) and tags.count("name") < 0.01 * len(tags)
    assert all(tags.count(tag) > 100 for tag in TAGS[:-1])


def test_the_tree_and_the_tokens_agree():
    with open(argparse.__file__, encoding="utf-8") as file:
        source = file.read()
    nodes = [type(node) for node in ast.walk(ast.parse(source))]
    tags = [tag for _, line in tagged_lines(source) for tag in line]
    for tag, kind in (
        ("class", ast.ClassDef),
        ("function", ast.FunctionDef),
        ("parameter", ast.arg),
    ):
        assert tags.count(tag) == nodes.count(kind) > 10


def test_a_split_is_the_caller_s_own():
    words, tags = python_source("test")
    words[0].clear(), tags[0].clear()
    assert all(python_source("test")[0]) and python_source("test")[0][-1] == words[-1]


def test_refuses():
    with pytest.raises(
        ValueError, match="split of 'python-source' 'dev' is unknown; valid: train, test"
    ):
        python_source("dev")


def test_a_python_without_source_files(monkeypatch, tmp_path):
    monkeypatch.setattr(module.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    module.library.cache_clear()
    with pytest.raises(ValueError, match="has no source files"):
        python_source("train")
    module.library.cache_clear()
