import pytest
import torch

from dlreview.plots.alignment import alignment, looked


def test_a_large_weight_is_dark():
    weights = torch.full((2, 3), 0.01)
    even = alignment(weights, ["a", "$b$"], ["x", " ", "\n"]).float()
    weights[1, 2] = 0.98
    peaked = alignment(weights, ["a", "$b$"], ["x", " ", "\n"]).float()
    # An even row is dark everywhere; beside a large weight the others are light.
    assert peaked.mean() > even.mean()
    assert even.min() == peaked.min()


def test_patches_with_weight_are_bright():
    image = torch.ones(1, 8, 8)
    weights = torch.zeros(1, 4)
    weights[0, 3] = 1
    picture = looked(image, weights, ["three"], (2, 2)).float()
    tall, wide = picture.shape[0], picture.shape[1] // 2
    plainly, panel = picture[tall // 3 :, :wide].mean(-1), picture[tall // 3 :, wide:].mean(-1)
    # A white picture stays white where the decoder did not look, and is dark elsewhere.
    assert plainly.min() > 200
    assert panel[-tall // 4 :, -wide // 3 :].mean() > panel[: tall // 4, : wide // 3].mean() + 50
    # Where the patches cover only the upper half, the lower half is dark.
    half = looked(image, weights, ["three"], (2, 2), (4, 8)).float()[tall // 3 :, wide:].mean(-1)
    corner = slice(-tall // 6, None), slice(-wide // 3, None)
    assert half[corner].mean() < panel[corner].mean() - 30
    assert looked(torch.randn(3, 6, 6), torch.rand(9, 9), list("abcdefghi"), (3, 3)).shape[2] == 3


def test_sizes_that_do_not_fit_are_told():
    with pytest.raises(ValueError, match=r"shape \(2, 3\), got 1 written and 3 read"):
        alignment(torch.rand(2, 3), ["a"], ["x", "y", "z"])
    with pytest.raises(ValueError, match=r"must have shape \(1, 4\), got \(1, 3\)"):
        looked(torch.ones(1, 4, 4), torch.rand(1, 3), ["a"], (2, 2))
