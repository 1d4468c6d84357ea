"""Curves on a logarithmic scale: every curve has its colour and its place."""

import pytest
import torch

from dlreview.plots.curves import curves


def height_of(picture, colour):
    """Return the rows and columns where a colour is drawn."""
    rows, columns = (picture == torch.tensor(colour, dtype=torch.uint8)).all(2).nonzero().T
    return rows, columns


def test_a_falling_and_a_constant_curve():
    k = torch.arange(30.0)
    values = {"falls": 0.7**k, "stays": torch.ones(30)}
    picture = curves(values, "steps back", "gradient norm")
    assert picture.shape == (400, 700, 3) and picture.dtype == torch.uint8
    rows, columns = height_of(picture, (31, 119, 180))  # the legend's line lies to the right
    line = columns < 500
    left, right = rows[line & (columns < 200)], rows[line & (columns > 400)]
    assert right.float().mean() > left.float().mean() + 30, "downwards is further down"
    assert len(height_of(picture, (255, 127, 14))[0])


def test_zeros_leave_gaps_and_no_curve_is_refused():
    curves({"gap": torch.tensor([1.0, 0.0, 0.1])}, "x", "y")
    with pytest.raises(ValueError, match="at least 1 curve, got 0"):
        curves({}, "x", "y")
