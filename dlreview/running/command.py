"""Command lines of the verbs: words and flags in, an exit status out, a mistake in three lines."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlreview.messages import UserError, nearest, one_line
from dlreview.threads import share_cores


@dataclass(frozen=True)
class Flag:
    """What may follow a flag.

    Args:
        read: makes a value of the text, or raises ValueError saying what is valid; None for a
            switch, which stands alone.
        default: the value when the flag is not given.
        repeats: whether it may stand several times; its value is then a tuple.
    """

    read: Callable[[str], Any] | None = None
    default: Any = None
    repeats: bool = False


def whole(least: int, greatest: int = 2**63 - 1) -> Callable[[str], int]:
    """Read a whole number in a range."""

    def read(text: str) -> int:
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdecimal() and least <= int(text) <= greatest):
            upper = "" if greatest == 2**63 - 1 else f" to {greatest}"
            raise ValueError(f"valid: a whole number from {least}{upper}")
        return int(text)

    return read


def number(text: str) -> float:
    """Read a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise ValueError("valid: a number")
    return value


def one_of(*words: str) -> Callable[[str], str]:
    """Read one of some words."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(nearest(text, words))
        return text

    return read


def package(text: str) -> str:
    """Read the name of a top-level package."""
    if not text.isidentifier():
        raise ValueError("valid: the name of a top-level package")
    return text


def parse(
    argv: Sequence[str],
    flags: Mapping[str, Flag],
    usage: str,
    words: tuple[int, int],
    sections: Sequence[str] = (),
) -> tuple[list[str], dict[str, Any]]:
    """Split a command line into its words and the values of its `flags`, by name without dashes.

    Args:
        argv: the command line after the verb.
        flags: those that are valid, with their dashes.
        usage: shown when the number of words is wrong.
        words: the least and the greatest number of words.
        sections: of a recipe, whose keys are flags too; their values are the pairs "overrides".

    Raises:
        UserError: a flag is unknown, its value not valid, or there are too few or many words.
    """
    rest, found, overrides = list(argv), [], []
    values = {name[2:]: flag.default for name, flag in flags.items()}
    while rest:
        word = rest.pop(0)
        name, equals, text = word.partition("=")
        if not word.startswith("--"):
            found.append(word)
            continue
        flag = flags.get(name)
        if flag is None and name[2:].partition(".")[0] not in sections:
            valid = [*flags, *(f"--{section}.KEY" for section in sections)]
            raise UserError(name, "unknown flag", nearest(name, valid))
        if flag is not None and flag.read is None:
            if equals:
                raise UserError(name, f"takes no value, got {text!r}")
            values[name[2:]] = True
            continue
        if not equals:
            if not rest or rest[0] in flags:
                raise UserError(name, "needs a value")
            text = rest.pop(0)
        if flag is None:
            overrides.append((name[2:], text))
            continue
        value = _read(name, flag, text)
        values[name[2:]] = (*(values[name[2:]] or ()), value) if flag.repeats else value
    if sections:
        values["overrides"] = overrides
    least, greatest = words
    if not least <= len(found) <= greatest:
        few = f"too few words, {found}" if found else "what it is to work on is missing"
        raise UserError("", few if len(found) < least else f"too many words: {found}", usage)
    return found, values


def _read(name: str, flag: Flag, text: str) -> Any:
    try:
        return flag.read(text) if flag.read else True
    except ValueError as error:
        raise UserError(name, f"got {text!r}", str(error)) from None


def complain(verb: str, error: ValueError, where: str = "") -> int:
    """Tell a mistake in at most three lines; return the exit status."""
    lines = [line for line in str(error).splitlines() if line.strip()][:3]
    print(f"dlreview.{verb}: {where and where + ': '}" + "\n".join(lines), file=sys.stderr)
    return 2


def run(
    verb: str,
    text: str,
    body: Callable[[list[str]], int],
    argv: Sequence[str] | None = None,
    bare: bool = False,
) -> int:
    """Run a verb and return its exit status: 0, 2 for the user's mistake, 1 for a failure.

    Args:
        verb: its name.
        text: its help.
        body: does it; raises UserError for a mistake, OSError or ValueError for a failure.
        argv: the command line after the verb; by default this process's.
        bare: whether the verb does something without words; else they ask for help.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if "--help" in words or "-h" in words or not (words or bare):
        print(text.strip())
        return 0 if words else 2
    share_cores()
    try:
        return body(words)
    except UserError as error:
        return complain(verb, error)
    except KeyboardInterrupt:
        print(f"dlreview.{verb}: stopped", file=sys.stderr)
        return 130
    except Exception as error:
        if not isinstance(error, OSError | ValueError | RuntimeError | MemoryError):
            traceback.print_exception(error)
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        kind = "the disk is full: " if full else ""
        print(f"dlreview.{verb}: {kind}{one_line(str(error))}", file=sys.stderr)
        return 1
