"""A grid shows every image in its place."""

import pytest
import torch

from dlreview.plots.grid import grid


def test_each_image_is_in_its_place():
    images = torch.linspace(-1, 1, 6).view(6, 1, 1, 1).expand(6, 1, 3, 3)
    picture = grid(images, columns=4, scale=2)
    assert picture.shape == (2 * 8, 4 * 8, 3)
    centres = picture[4::8, 4::8, 0]
    expected = ((torch.linspace(-1, 1, 6) + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(centres.flatten()[:6], expected)


def test_colours_keep_their_channels():
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    picture = grid(red, scale=1)
    assert picture[2, 2].tolist() == [255, 0, 0]


def test_two_channels_are_refused():
    with pytest.raises(ValueError, match="1 or 3 channels"):
        grid(torch.zeros(1, 2, 4, 4))
