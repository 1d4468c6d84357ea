"""How mistakes are told: one wording for each kind of mistake."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
    """A mistake in a recipe or a command, told in at most three lines.

    Args:
        key: dotted path of the faulty value, or "" where no single key is at fault.
        problem: what is wrong, with the value.
        hint: what would be valid.
    """

    def __init__(self, key: str, problem: str, hint: str = "") -> None:
        self.key, self.problem, self.hint = key, one_line(problem), one_line(hint)
        first = f"{key}: {self.problem}" if key else self.problem
        super().__init__(first + (f"\n{self.hint}" if hint else ""))


def one_line(text: str, longest: int = 300) -> str:
    """Fold `text` to a single line of at most `longest` characters."""
    folded = " ".join(text.split())
    return folded if len(folded) <= longest else folded[: longest - 1] + "…"


def nearest(word: str, valid: Iterable[str]) -> str:
    """Name the one of `valid` that the user may have meant by `word`, and list them all."""
    names = sorted(valid)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    listing = "valid: " + ", ".join(names) if names else "no key is valid here"
    return f"did you mean {close[0]}? ({listing})" if close else listing


def check_at_least(least: int | float, **values: int | float | None) -> None:
    """Refuse a value below `least`; None stands for a default and passes.

    Raises:
        ValueError: names the first such value.
    """
    for name, value in values.items():
        if value is not None and not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def check_share(**values: float) -> None:
    """Refuse a rate or share outside [0, 1).

    Raises:
        ValueError: names the first such value.
    """
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be in [0, 1), got {value}")


def check_divisible(name: str, value: int, by: str, divisor: int) -> None:
    """Refuse a size that another does not divide.

    Raises:
        ValueError: names both.
    """
    if divisor < 1 or value % divisor:
        raise ValueError(f"{name} {value} must be divisible by {by} {divisor}")


def check_known(name: str, value: Any, known: Iterable[str]) -> None:
    """Refuse a word that is not one of `known`.

    Raises:
        ValueError: names the nearest valid one.
    """
    words = list(known)
    if value not in words:
        close = difflib.get_close_matches(str(value), words, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(words)}"
        raise ValueError(f"{name} {value!r} is unknown; {hint}")
