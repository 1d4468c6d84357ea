import pytest
import torch

from dlreview.plots.neighbours import neighbours


def test_a_row_for_each_query_with_frames():
    train = torch.linspace(-1, 1, 6)[:, None, None, None].expand(6, 1, 40, 48)
    queries = torch.stack([train[0], train[5]])
    rows = torch.tensor([[1, 4, 2], [3, 0, 5]])
    right = torch.tensor([[True, False, True], [False, False, True]])
    sheet = neighbours(queries, train, rows, right)
    cell = (40 + 2 * 3 + 2, 48 + 2 * 3 + 2)  # frames of 48 // 16 pixels, and lines
    assert sheet.shape == (2 * cell[0], 4 * cell[1], 3)
    places = sheet.unflatten(0, (2, cell[0])).unflatten(2, (4, cell[1]))
    middles = places[:, cell[0] // 2, :, cell[1] // 2, 0].int()
    shades = ((torch.cat([torch.tensor([[0], [5]]), rows], dim=1) / 5) * 255).round().int()
    assert (middles - shades).abs().max() <= 1, "the query, then its neighbours in order"
    frames = places[:, 2, :, 2].int()
    assert ((frames[:, 1:, 1] > frames[:, 1:, 0]) == right).all(), "green is right, red is wrong"
    assert (frames[:, 0] == frames[:1, :1, 0]).all(), "a grey frame around the query"
    plain = neighbours(queries.expand(-1, 3, -1, -1), train.expand(-1, 3, -1, -1), rows)
    assert (plain[..., 0] == plain[..., 1]).all()


def test_refuses():
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match="rows must be one for each query, got 1 for 2"):
        neighbours(x, x, torch.zeros(1, 3, dtype=torch.int64))
