"""The levels of a U-Net: resolutions, widths and skips, and what new levels compute."""

import pytest
import torch
import torch.nn.functional as F

from dlreview.nn.hourglass import DownUp, Layers, Resample, ResidualResample, Strided
from dlreview.nn.resample import Downsample, Upsample
from dlreview.nn.resnet_block import BlockOptions, PixelAttention, ResNetBlock
from tests.parity import scramble

EMBEDDING, HEIGHT, COLUMNS = 5, 4, 6
LAYERS = Layers(
    image_channels=3,
    out_channels=2,
    blocks_per_level=2,
    groups=2,
    attention_groups=3,
    dropout=0.25,
    embedding_width=EMBEDDING,
    options=BlockOptions("gelu", eps=1e-3, scale_shift=True, head_width=3),
    output_scale=1.5,
)
PLAIN = Layers(3, 2, 2, 2, 2, 0.0, EMBEDDING, BlockOptions())
IMAGE = torch.zeros(2, 3, HEIGHT, COLUMNS, dtype=torch.float64)


def maps(*widths, height=HEIGHT, columns=COLUMNS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size, options = (height, columns), {"dtype": torch.float64, "generator": generator}
    return [torch.randn(2, width, *size, **options) for width in widths]


def embedding():
    return torch.randn(2, EMBEDDING, dtype=torch.float64)


@pytest.mark.parametrize("part", [Strided(), Strided(0), ResidualResample()])
@pytest.mark.parametrize("last", [False, True])
def test_a_level_of_the_way_down_leaves_its_skips(part, last):
    level = scramble(part.make_down(PLAIN, 4, 6, attends=True, last=last))
    (x,), skips = maps(4), []
    h, image = level(x, embedding(), skips, IMAGE)
    assert image is IMAGE, "only a pyramid changes the image"
    whole, half = (2, 6, HEIGHT, COLUMNS), (2, 6, HEIGHT // 2, COLUMNS // 2)
    assert [tuple(skip.shape) for skip in skips] == [whole, whole] + [half] * (not last)
    assert skips[-1] is h
    assert all(isinstance(layer, PixelAttention) for layer in level.attentions)


@pytest.mark.parametrize("part", [Strided(), ResidualResample()])
@pytest.mark.parametrize("last", [False, True])
def test_a_level_of_the_way_up_takes_its_skips(part, last):
    level = scramble(part.make_up(PLAIN, 4, 6, [8, 10], attends=False, last=last))
    older, newer, unread = maps(10, 8, 3)
    skips = [unread, older, newer]
    h, output = level(maps(4, seed=1)[0], embedding(), skips, None)
    assert h.shape == (2, 6, HEIGHT * (2 - last), COLUMNS * (2 - last))
    assert output is None
    assert len(skips) == 1 and skips[0] is unread
    assert not any(isinstance(layer, PixelAttention) for layer in level.attentions)


def test_a_new_level_joins_the_newest_skip_first():
    """The branches of new blocks are zero, so that only their projections act."""
    level = Strided().make_up(PLAIN, 4, 6, [8, 10], attends=False, last=True).double()
    older, newer = maps(10, 8)
    (x,) = maps(4, seed=1)
    h, _ = level(x, embedding(), [older, newer], None)
    for block, skip in zip(level.blocks, (newer, older), strict=True):
        project = block.project
        x = torch.einsum("oi,bihw->bohw", project.weight[..., 0, 0], torch.cat([x, skip], 1))
        x = x + project.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(h, x, atol=1e-12, rtol=1e-12)


def test_a_new_residual_resampling_averages_or_repeats_pixels():
    (x,), e = maps(6), embedding()
    for layers in (PLAIN, LAYERS):
        scale = layers.output_scale
        half = ResidualResample().make_halving(layers, 6).double()(x, e)
        expected = x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)) / scale
        torch.testing.assert_close(half, expected, atol=1e-12, rtol=1e-12)
        twice = ResidualResample().make_doubling(layers, 6).double()(x, e)
        expected = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) / scale
        torch.testing.assert_close(twice, expected, atol=1e-12, rtol=1e-12)


def test_strided_resampling_is_a_convolution():
    (x,) = maps(6)
    for padding in (0, 1):
        layer = Strided(padding).make_halving(PLAIN, 6).double()
        padded = F.pad(x, (padding, 1, padding, 1))
        expected = F.conv2d(padded, layer.conv.weight, layer.conv.bias, stride=2)
        torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=1e-12)
    assert isinstance(Strided().make_doubling(PLAIN, 6), Upsample)


def test_the_ways_may_resample_differently():
    part = DownUp(Strided(0), ResidualResample())
    down = part.make_down(PLAIN, 4, 6, attends=False, last=False)
    up = part.make_up(PLAIN, 6, 4, [6, 6, 4], attends=False, last=False)
    assert isinstance(down.resample, Downsample) and down.resample.padding == 0
    assert isinstance(up.resample, ResNetBlock)


def test_the_options_reach_the_layers():
    block, attention = LAYERS.block(4, 6), LAYERS.attention(6)
    assert block.activation is F.gelu and block.dropout.p == 0.25 and block.scale_shift
    assert (block.norm_1.eps, block.norm_2.num_groups, block.output_scale) == (1e-3, 2, 1.5)
    assert block.embed.in_features == EMBEDDING
    assert (attention.norm.num_groups, attention.norm.eps, attention.output_scale) == (3, 1e-3, 1.5)
    assert attention.attention.heads == 2
    assert LAYERS.block(4, 6, groups=1).norm_1.num_groups == 1
    assert LAYERS.attention(6, output_scale=1.0).output_scale == 1.0


def test_a_new_head_predicts_zero():
    head = LAYERS.to_image(6).double()
    prediction = head(maps(6)[0])
    assert prediction.shape == (2, 2, HEIGHT, COLUMNS) and not prediction.any()


@pytest.mark.parametrize("padding", [-1, 2, 3])
def test_wrong_arguments_are_named(padding):
    with pytest.raises(ValueError, match=f"padding must be 0 or 1, got {padding}"):
        Strided(padding)


def test_a_part_must_say_how_it_resamples():
    for make in (Resample().make_halving, Resample().make_doubling):
        with pytest.raises(NotImplementedError):
            make(PLAIN, 6)
