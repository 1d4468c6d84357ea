"""Class numbers 0..K-1 from a column of labels: numbers, text, or true and false."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from dlreview.messages import one_line

NUMBERS = "valid: class numbers 0..K-1, or text"


def check_kind(labels: Sequence[Any], where: str) -> type:
    """Return the one kind of all labels: str, bool or int. Whole floats count as int.

    Raises:
        ValueError: a label is missing, fractional, negative or of another kind; names its row.
    """
    first: type | None = None
    for row, label in enumerate(labels):
        if label is None or label != label or (isinstance(label, str) and not label.strip()):
            raise ValueError(f"{where}, row {row}: the label is missing\n{NUMBERS}")
        kind = int if isinstance(label, float) and label.is_integer() else type(label)
        first = first or kind
        if kind not in (str, bool, int) or kind is not first or (kind is int and label < 0):
            raise ValueError(f"{where}, row {row}: label {one_line(repr(label), 60)}\n{NUMBERS}")
    return first or int


class Classes:
    """The classes of a training split, and the number of each label.

    Text is numbered by the sorted names, false and true are 0 and 1, integers stay as they are.

    Args:
        labels: the training split's.
        names: names of the classes, where the data set states them; labels are then numbers.
        where: how messages name the column.

    Raises:
        ValueError: a label is missing or of a wrong kind, or integers are not 0..K-1.
    """

    def __init__(self, labels: Sequence[Any], names: Sequence[str], where: str) -> None:
        self.names = list(names)
        if self.names:
            self.numbers: dict[Any, int] = {number: number for number in range(len(names))}
            return
        kind = check_kind(labels, where)
        found = sorted(set(labels))
        if kind is str:
            self.names = found
        elif kind is bool:
            found = [False, True]
        elif found != list(range(len(found))):
            raise ValueError(f"{where}: {_gaps(labels, found)}")
        self.numbers = {label: number for number, label in enumerate(found)}

    def __len__(self) -> int:
        return len(self.numbers)

    def encode(self, labels: Sequence[Any], where: str) -> Int64[Tensor, " rows"]:
        """Number the labels of a split.

        Raises:
            ValueError: a label is missing or is no class of the training split; names its row.
        """
        numbers = [self.numbers.get(label, -1) for label in labels]
        if -1 in numbers:
            row = numbers.index(-1)
            label = labels[row]
            problem = "the label is missing"
            if label is not None and label == label:
                problem = f"label {one_line(repr(label), 60)} is no class of the training split"
            raise ValueError(f"{where}, row {row}: {problem}\n{self._valid()}")
        return torch.tensor(numbers, dtype=torch.int64)

    def _valid(self) -> str:
        if isinstance(next(iter(self.numbers)), str):
            return one_line(f"valid: {', '.join(map(repr, self.numbers))}")
        return f"valid: 0..{len(self) - 1}"


def _gaps(labels: Sequence[Any], found: list[Any]) -> str:
    """Describe integers that are not 0..K-1, with the first row whose label is too large."""
    count = len(found)
    row = next(row for row, label in enumerate(labels) if label >= count)
    whole = found[-1] - found[0] == count - 1
    what = f"{found[0]:.0f}..{found[-1]:.0f}" if whole else f"{count} different numbers"
    problem = f"labels are {what} (row {row} has {labels[row]:.0f})"
    return f"{problem}\nvalid: 0..{count - 1} without gaps, or text"
