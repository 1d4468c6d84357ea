"""Mixup and CutMix: labels are mixed like the images, for any number of processes."""

import pytest
import torch

from dlreview.learners.mixing import blend, draw_keep, rectangles, symmetric_beta
from dlreview.randomness import RowRandom

CPU = torch.device("cpu")


@pytest.mark.parametrize("a", [0.2, 0.5, 1.0, 4.0])
def test_shares_are_from_the_symmetric_beta(a):
    u, v = torch.rand(2, 200_000, dtype=torch.float64)
    x = symmetric_beta(u, v, a)
    assert ((x >= 0) & (x <= 1)).all()
    reference = torch.distributions.Beta(a, a)
    assert x.mean().item() == pytest.approx(0.5, abs=0.005)
    assert x.var().item() == pytest.approx(reference.variance.item(), rel=0.02)
    fourth = ((x - 0.5) ** 4).mean().item()
    drawn = reference.sample((200_000,)).double()
    assert fourth == pytest.approx(((drawn - 0.5) ** 4).mean().item(), rel=0.04)


def test_extreme_numbers_give_valid_shares():
    u = torch.tensor([0.0, 1e-30, 1 - 6e-8, 0.5])
    for a in (0.05, 0.2, 1.0, 50.0):
        x = symmetric_beta(u, torch.tensor([0.1, 0.25, 0.5, 0.75]), a)
        assert ((x >= 0) & (x <= 1)).all(), x


def test_rectangles_have_the_area_and_stay_inside():
    share, place = torch.rand(500), torch.rand(2, 500)
    keep = rectangles(share, *place, 24, 36)
    cut = 1 - keep
    assert set(keep.unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(cut.mean((1, 2, 3)), 1 - share, atol=0.06, rtol=0)  # whole pixels
    height, width = cut.amax(3).sum((1, 2)), cut.amax(2).sum((1, 2))
    assert torch.equal(height * width, cut.sum((1, 2, 3))), "the area is one rectangle"
    assert rectangles(torch.zeros(1), *place[:, :1], 5, 7).sum() == 0
    assert rectangles(torch.ones(1), *place[:, :1], 5, 7).sum() == 35


def test_neighbours_are_blended_and_their_labels_in_the_same_proportion():
    images = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 2, 4, 6)
    q = torch.eye(5)
    keep = torch.rand(5, 1, 4, 6)
    mixed, soft = blend(images, q, keep)
    torch.testing.assert_close(soft.sum(1), torch.ones(5))
    torch.testing.assert_close(mixed.mean((1, 2, 3)), soft @ torch.arange(5.0))
    share = keep.mean((1, 2, 3))
    torch.testing.assert_close(soft.diagonal()[:4], share[:4])
    assert soft[0, 1] > 0
    assert soft[3, 2] > 0
    torch.testing.assert_close(soft[4], q[4])  # an odd last row is its own neighbour


def test_both_kinds_are_drawn():
    keep = draw_keep(RowRandom(400, CPU, (1,)), torch.Size([8, 8]), 1.0, 1.0)
    flat = (keep == keep[:, :, :1, :1]).all((1, 2, 3)[1:]).flatten()
    assert 0.35 < flat.float().mean() < 0.7, "mixup is flat, CutMix is not"
    only = draw_keep(RowRandom(40, CPU, (1,)), torch.Size([8, 8]), 1.0, 0.0)
    assert torch.equal(only, only[:, :, :1, :1].expand_as(only))
    assert draw_keep(RowRandom(40, CPU, (1,)), torch.Size([8, 8]), 0.0, 1.0).unique().numel() == 2


def test_two_processes_mix_like_one():
    images, q, size = torch.randn(8, 1, 8, 8), torch.eye(8), torch.Size([8, 8])
    whole = blend(images, q, draw_keep(RowRandom(8, CPU, (3,)), size, 0.2, 1.0))
    halves = []
    for rank, rows in enumerate((slice(0, 4), slice(4, 8))):
        random = RowRandom(4, CPU, (3,), rank=rank, processes=2)
        halves.append(blend(images[rows], q[rows], draw_keep(random, size, 0.2, 1.0)))
    for one, *parts in zip(whole, *halves, strict=True):
        assert torch.equal(one, torch.cat(parts))
