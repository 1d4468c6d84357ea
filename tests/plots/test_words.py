"""Words in the plane: two principal components, and every word at its point."""

import pytest
import torch

from dlreview.plots.words import clusters, plane, scatter


def test_the_plane_is_the_principal_one():
    torch.manual_seed(0)
    angle = torch.rand(50, dtype=torch.float64) * 6.28
    flat = torch.stack([angle.cos(), 0.7 * angle.sin(), 0 * angle, 0 * angle], 1)
    turned = flat @ torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    unit = torch.nn.functional.normalize(turned, dim=1)
    xy = plane(turned)
    distance = torch.cdist(unit, unit)
    torch.testing.assert_close(torch.cdist(xy, xy), distance, rtol=1e-6, atol=1e-6)
    assert torch.equal(plane(turned), plane(turned.clone())), "a picture repeats"
    largest = xy.gather(0, xy.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()


def test_one_point_and_one_dimension():
    assert plane(torch.ones(1, 3)).abs().max() < 1e-12
    assert plane(torch.tensor([[1.0], [-1.0]])).shape == (2, 2)


def test_points_have_the_colours_of_their_kinds():
    picture = clusters(torch.randn(6, 3), ["nn", "vb", "vb", "nn", "pp$", "vb"], "a_word^$")
    assert picture.shape == (700, 900, 3) and picture.dtype == torch.uint8
    colours = {tuple(c) for c in picture.reshape(-1, 3).unique(dim=0).tolist()}
    assert {(31, 119, 180), (255, 127, 14), (44, 160, 44)} <= colours
    clusters(torch.randn(60, 3), [str(n) for n in range(60)], "more kinds than colours")


def test_names_are_drawn():
    assert scatter(torch.randn(1, 3), ["alone"]).shape == (700, 900, 3)
    few, many = (scatter(torch.randn(9, 3), names) for names in (["a"] * 9, ["abcdefg$_^"] * 9))
    assert (many < 128).sum() > 2 * (few < 128).sum(), "ink for letters"


@pytest.mark.parametrize(("count", "names"), [(0, []), (2, ["a"])])
def test_refuses(count, names):
    for draw in (lambda v: scatter(v, names), lambda v: clusters(v, names, "word")):
        with pytest.raises(ValueError, match=f"got {len(names)} for {count}"):
            draw(torch.randn(count, 3))
