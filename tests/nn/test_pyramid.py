"""Pyramids: the image gets smaller beside the features, the output grows beside them."""

import math

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.downsampling import downsample_2d
from diffusers.models.upsampling import upsample_2d

from dlreview.nn.hourglass import DownUp, Layers, Strided
from dlreview.nn.pyramid import Pyramid, PyramidDown, PyramidUp
from dlreview.nn.resnet_block import BlockOptions, PixelAttention
from tests.parity import scramble

EMBEDDING, HEIGHT, COLUMNS = 5, 4, 6
LAYERS = Layers(3, 2, 2, 2, 2, 0.0, EMBEDDING, BlockOptions())
TAPS = (1, 3, 3, 1)


def make_down(attends=False, last=False, width=8):
    return Pyramid().make_down(LAYERS, 4, width, attends, last)


def make_up(attends=False, last=False, width=8, skips=(16, 4)):
    return Pyramid().make_up(LAYERS, 12, width, list(skips), attends, last)


def maps(*widths):
    return [torch.randn(2, width, HEIGHT, COLUMNS, dtype=torch.float64) for width in widths]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_the_image_is_halved_and_joins_the_features():
    level = scramble(make_down())
    x, image = maps(4, 3)
    e, half = torch.randn(2, EMBEDDING, dtype=torch.float64), downsample_2d(image, TAPS)
    with_image, smaller = level(x, e, skips := [], image)
    without, zero = level(x, e, [], torch.zeros_like(image))
    torch.testing.assert_close(smaller, half, atol=1e-12, rtol=1e-12)
    assert not zero.any()
    conv = level.from_image
    joined = F.conv2d(half, conv.weight)
    torch.testing.assert_close(with_image - without, joined, atol=1e-12, rtol=1e-12)
    assert skips[-1] is with_image and with_image.shape == (2, 8, HEIGHT // 2, COLUMNS // 2)


def test_a_new_step_down_filters_the_features():
    """The branch of a new block is zero: its projection of the filtered features remains."""
    level = make_down().double()
    (x,) = maps(8)
    project = level.resample.project
    expected = F.conv2d(downsample_2d(x, TAPS), project.weight, project.bias) / math.sqrt(2)
    e = torch.randn(2, EMBEDDING, dtype=torch.float64)
    torch.testing.assert_close(level.resample(x, e), expected, atol=1e-12, rtol=1e-12)


def test_the_last_level_of_the_way_down_keeps_the_image():
    level = scramble(make_down(last=True))
    x, image = maps(4, 3)
    h, same = level(x, torch.randn(2, EMBEDDING, dtype=torch.float64), skips := [], image)
    assert same is image and level.resample is None and not hasattr(level, "from_image")
    assert h.shape == (2, 8, HEIGHT, COLUMNS) and len(skips) == 2


def test_the_output_is_the_sum_of_all_levels():
    x, older, newer = maps(12, 4, 16)
    e = torch.randn(2, EMBEDDING, dtype=torch.float64)
    level = scramble(make_up())
    h, first = level(x, e, [older, newer], None)
    assert h.shape == (2, 8, 2 * HEIGHT, 2 * COLUMNS)
    assert first.shape == (2, 2, HEIGHT, COLUMNS) and first.abs().max() > 1e-3
    coarse = torch.randn(2, 2, HEIGHT // 2, COLUMNS // 2, dtype=torch.float64)
    _, second = level(x, e, [older, newer], coarse)
    expected = first + upsample_2d(coarse, TAPS)
    torch.testing.assert_close(second, expected, atol=1e-12, rtol=1e-12)
    finest = scramble(make_up(last=True))
    h, third = finest(x, e, [older, newer], coarse)
    torch.testing.assert_close(third, upsample_2d(coarse, TAPS), atol=1e-12, rtol=1e-12)
    assert h.shape == (2, 8, HEIGHT, COLUMNS) and finest.to_image is None
    assert finest(x, e, [older, newer], None)[1] is None


def test_attention_of_a_level():
    down, up = make_down(True, width=32), make_up(True, width=32, skips=(24, 64))
    assert [isinstance(layer, PixelAttention) for layer in down.attentions] == [True, True]
    assert [isinstance(layer, PixelAttention) for layer in up.attentions] == [False, True]
    assert up.attentions[-1].norm.num_groups == 32
    # As in diffusers: 12 + 24 / 4, then 32 + 64 / 4, but at most 32.
    norms = [block.norm_1 for block in up.blocks]
    assert [(norm.num_groups, norm.num_channels) for norm in norms] == [(18, 36), (32, 96)]
    with pytest.raises(ValueError, match="width 28 must be divisible by groups 16"):
        make_up(True, width=32, skips=(16, 4))


def test_options_are_those_of_a_pyramid():
    level, plain = make_down(), Strided().make_down(LAYERS, 4, 8, False, False)
    for block in level.blocks:
        assert block.output_scale == math.sqrt(2)
        assert block.norm_2.num_groups == 2  # a quarter of the width
    assert level.resample.project is not None, "projects where the widths are equal, too"
    assert plain.blocks[0].output_scale == 1
    assert LAYERS.output_scale == 1, "other levels keep their options"


def test_one_way_may_have_a_pyramid():
    part = DownUp(Pyramid(), Strided())
    assert isinstance(part.make_down(LAYERS, 4, 8, False, False), PyramidDown)
    assert not isinstance(part.make_up(LAYERS, 8, 8, [8], False, False), PyramidUp)
