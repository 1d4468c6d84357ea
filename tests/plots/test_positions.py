"""Codes of positions side by side: each table in its place, with its own scale."""

import pytest
import torch
from matplotlib import colormaps

from dlreview.plots.positions import position_codes, positions


def test_the_tables_are_those_of_the_review():
    integer, binary, waves = position_codes().values()
    assert integer[:, 0].tolist() == list(range(8))
    assert binary[5].tolist() == [1, 0, 1]
    assert waves[0].tolist() == [0, 1, 0, 1] and waves.shape == (8, 4)
    assert position_codes(100, 6)["binary (row 20)"].shape == (100, 7)


def test_each_table_has_its_panel():
    codes = position_codes()
    picture = positions(codes)
    assert picture.shape == (450, 1200, 3) and picture.dtype == torch.uint8
    changed = codes | {"binary (row 20)": 1 - codes["binary (row 20)"]}
    difference = (positions(changed) != picture).any(2).any(0).nonzero()
    assert difference.min() > 380 and difference.max() < 820, "only the middle panel changes"


def test_a_cell_has_the_colour_of_its_value():
    ends = colormaps["viridis"]([0.0, 1.0], bytes=True)[:, :3]
    low, high = torch.from_numpy(ends)
    for table in (torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [0.0]])):
        picture = positions({"one": table}, numbers=False)
        rows = [
            (picture == c).all(2)[:, 100:250].nonzero()[:, 0].float().mean() for c in (low, high)
        ]
        assert (rows[0] < rows[1]) == (table[0] < table[1]).item()


def test_numbers_are_written_in_small_tables_only():
    table = torch.arange(12.0).view(4, 3)
    with_numbers, without = positions({"t": table}), positions({"t": table}, numbers=False)
    assert not torch.equal(with_numbers, without)
    large = torch.arange(400.0).view(20, 20)
    assert torch.equal(positions({"t": large}), positions({"t": large}, numbers=False))
    with pytest.raises(ValueError, match="at least 1 table, got 0"):
        positions({})
