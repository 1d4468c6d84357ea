import pytest
import torch

from dlreview.nn.conv_layer import BatchNormOptions, Layers
from dlreview.nn.residual import (
    AverageProjection,
    BasicBlock,
    Bottleneck,
    Place,
    Projection,
)

LAYERS = Layers(BatchNormOptions(), "relu")


def make(options, place, drop_path=0.0):
    return options.make(LAYERS, place, drop_path).eval()


def test_a_block_adds_its_branch_to_its_input():
    block = make(BasicBlock(zero_start=False), Place(6, 6, 6))
    x = torch.randn(2, 6, 5, 7)
    assert block.shortcut is None
    torch.testing.assert_close(block(x), (x + block.branch(x)).relu())


@pytest.mark.parametrize("shortcut", [Projection(), Projection(3), AverageProjection()])
@pytest.mark.parametrize("options", [BasicBlock, Bottleneck])
def test_shapes_with_stride_and_dilation(options, shortcut):
    width_out = 8 * options.expansion
    x = torch.randn(2, 6, 9, 12)
    block = make(options(shortcut=shortcut), Place(6, 8, width_out, stride=2))
    assert block(x).shape == (2, width_out, 5, 6)
    block = make(options(shortcut=shortcut), Place(6, 8, width_out, before=1, dilation=2))
    assert block(x).shape == (2, width_out, 9, 12)


@pytest.mark.parametrize(
    ("groups", "group_width", "inner"), [(1, 64, 64), (1, 128, 128), (32, 4, 128), (2, 16, 32)]
)
def test_the_inner_width_of_a_bottleneck(groups, group_width, inner):
    block = make(Bottleneck(groups, group_width), Place(64, 64, 256))
    assert block.branch[1].conv.out_channels == inner
    assert block.branch[1].conv.groups == groups


def test_training_drops_whole_branches():
    block = make(BasicBlock(zero_start=False), Place(6, 6, 6), drop_path=0.999).train()
    x = torch.randn(4, 6, 5, 7)
    torch.manual_seed(0)
    torch.testing.assert_close(block(x), x.relu())


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: Projection(2), "kernel_size must be odd, got 2"),
        (lambda: Bottleneck(groups=0), "groups must be at least 1, got 0"),
        (lambda: BasicBlock(reduce_first=0), "reduce_first must be at least 1, got 0"),
        (lambda: make(BasicBlock(reduce_first=4), Place(6, 6, 6)), "width 6 must be divisible by"),
        (lambda: make(Bottleneck(1, 4), Place(6, 6, 24)), "inner_width must be at least 1, got 0"),
    ],
)
def test_refuses(make_it, message):
    with pytest.raises(ValueError, match=message):
        make_it()
