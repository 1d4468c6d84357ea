"""Requirements of a code of positions (row 24), measured for any code and number of positions.

A code maps a number of positions to a table with a row for each of them. Row 24 asks that the code
of a position is unique, that it depends neither on the input nor on the length of the sequence, and
that its numbers are not too large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dlreview.messages import check_at_least

Code = Callable[[int], Tensor]
SAME = 1e-9  # smaller differences are errors of rounding
ROWS = 1024  # rows whose distances are computed at once


@dataclass(frozen=True)
class Requirements:
    """The four measured numbers of row 24, and whether each requirement holds.

    Args:
        closest: distance of the two nearest positions; infinite if there is only one.
        input_change: largest change between two calls for inputs of equal length.
        length_change: largest change of a position's code when the sequence is shorter; infinite
            if its number of values changes.
        largest: largest magnitude of a number.
        bound: magnitude above which numbers are too large.
    """

    closest: float
    input_change: float
    length_change: float
    largest: float
    bound: float = 1.0

    @property
    def unique(self) -> bool:
        """Whether no two positions have the same code."""
        return self.closest > SAME

    @property
    def independent_of_input(self) -> bool:
        """Whether inputs of equal length have the same codes."""
        return self.input_change <= SAME

    @property
    def independent_of_length(self) -> bool:
        """Whether a position has the same code in sequences of all lengths that were tried."""
        return self.length_change <= SAME

    @property
    def bounded(self) -> bool:
        """Whether no number is larger than the bound."""
        return self.largest <= self.bound + SAME


def closest_rows(table: Float[Tensor, "positions width"]) -> float:
    """Return the distance of the two rows nearest to each other."""
    nearest = torch.inf
    for first in range(0, len(table), ROWS):
        rows = table[first : first + ROWS]
        # Products of rows would lose the small distances to rounding.
        distance = torch.cdist(rows, table, compute_mode="donot_use_mm_for_euclid_dist")
        distance[torch.arange(len(rows)), torch.arange(first, first + len(rows))] = torch.inf
        nearest = min(nearest, distance.min().item())
    return nearest


def largest_change(
    one: Float[Tensor, "positions width"], two: Float[Tensor, "positions other_width"]
) -> float:
    """Return the largest difference of two tables, infinite if their widths differ."""
    if one.shape != two.shape:
        return torch.inf
    return (one - two).abs().max().item()


def measure(code: Code, length: int, bound: int | float = 1.0) -> Requirements:
    """Measure the four requirements of row 24 for the first `length` positions.

    Sequences of 1, 2, 4, ... and `length` - 1 positions are compared with the one of `length`.

    Raises:
        ValueError: `length` is below 1, or a table has another number of rows than asked for.
    """
    check_at_least(1, length=length)

    def table_of(count: int) -> Tensor:
        table = code(count).detach().double()
        if len(table) != count:
            raise ValueError(f"table of code must have {count} rows, got {len(table)}")
        return table

    table = table_of(length)
    shorter = {2**k for k in range(length.bit_length()) if 2**k < length} | {max(1, length - 1)}
    return Requirements(
        closest=closest_rows(table),
        input_change=largest_change(table_of(length), table),
        length_change=max(largest_change(table_of(n), table[:n]) for n in sorted(shorter)),
        largest=table.abs().max().item(),
        bound=float(bound),
    )


def added_code(layer: nn.Module, width: int) -> Code:
    """Return what `layer`, which maps tokens (1, length, width) to tokens, adds to them.

    Each call draws other tokens, so that `measure` finds a layer that depends on its input.
    """
    generator = torch.Generator().manual_seed(0)
    parameter = next(layer.parameters(), torch.empty(0, dtype=torch.float64))

    @torch.no_grad()
    def code(length: int) -> Tensor:
        x = torch.randn(1, length, width, generator=generator, dtype=torch.float64)
        x = x.to(parameter)
        return (layer(x) - x)[0].double().cpu()

    return code
