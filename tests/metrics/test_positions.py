"""Row 24: which code of positions meets which of the four requirements."""

from functools import partial

import pytest
import torch
from torch import nn

from dlreview.metrics.positions import added_code, closest_rows, measure
from dlreview.nn.positions import Sinusoids, binary_code, integer_code, sinusoids


def share(length):
    """Divide each position by the last one."""
    return integer_code(length).double() / max(1, length - 1)


def wave(length):
    """Repeat the code every 8 positions."""
    return sinusoids(torch.arange(length) % 8, 4)


def table(length):
    """Learn a vector for each position."""
    return torch.randn(length, 5, generator=torch.Generator().manual_seed(0)) / 9


CODES = {
    # unique, independent of input, independent of length, bounded
    "integer": (integer_code, (True, True, True, False)),
    "share of the length": (share, (True, True, False, True)),
    "binary": (binary_code, (True, True, False, True)),
    "16 bits": (partial(binary_code, bits=16), (True, True, True, True)),
    "sinusoids": (lambda n: sinusoids(torch.arange(n), 32), (True, True, True, True)),
    "sinusoids of a layer": (added_code(Sinusoids(32), 32), (True, True, True, True)),
    "a wave that repeats": (wave, (False, True, True, True)),
    "drawn anew": (lambda n: torch.rand(n, 4), (True, False, False, True)),
}


@pytest.mark.parametrize("length", [9, 300])
@pytest.mark.parametrize("name", CODES)
def test_the_four_requirements(name, length):
    code, expected = CODES[name]
    found = measure(code, length)
    four = found.unique, found.independent_of_input, found.independent_of_length, found.bounded
    assert four == expected, found


def test_the_numbers_are_those_of_the_table():
    found = measure(integer_code, 2500)
    assert (found.closest, found.largest) == (1, 2499)
    assert (found.input_change, found.length_change) == (0, 0)
    assert measure(integer_code, 2500, bound=2499).bounded
    assert measure(binary_code, 9).length_change == float("inf")
    assert measure(share, 9).length_change == pytest.approx(1 - 1 / 8)  # the last of 2, and of 9
    one = measure(integer_code, 1)
    assert one.closest == float("inf") and one.unique and one.bounded


def test_the_closest_rows_are_found_in_every_part_of_a_long_table():
    rows = torch.arange(3000).double()[:, None] * torch.ones(3).double()
    rows[2700] = rows[5] + 1e-5
    assert closest_rows(rows) == pytest.approx(3**0.5 * 1e-5, rel=1e-6)


def test_a_layer_that_depends_on_its_input_is_found():
    class Sum(nn.Module):
        def forward(self, x):
            return x + x.cumsum(dim=1)

    found = measure(added_code(Sum(), 6), 20, bound=100)
    assert not found.independent_of_input and found.input_change > 0.1


def test_learned_vectors_meet_all_up_to_their_length():
    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(table(30))

        def forward(self, x):
            return x + self.table[: x.shape[1]]

    code = added_code(Learned().double(), 5)
    found = measure(code, 30)
    assert found.unique and found.independent_of_input and found.independent_of_length
    assert found.bounded
    with pytest.raises(RuntimeError):
        measure(code, 31)


def test_the_table_of_row_22_is_not_formula_21():
    """Its first value is 0.5; the formula gives 0 or 1 at position 0, for any width."""
    for width in range(1, 65):
        assert set(sinusoids(torch.arange(8), width)[0].tolist()) <= {0.0, 1.0}


def test_refuses():
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        measure(integer_code, 0)
    with pytest.raises(ValueError, match="table of code must have 4 rows, got 3"):
        measure(lambda n: torch.ones(3, 2), 4)
