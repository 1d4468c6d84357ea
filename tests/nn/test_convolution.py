"""Rows 44-46: sizes and weights of convolutions, against live layers of torch."""

import itertools

import pytest
import torch
from torch import nn

from dlreview import saved
from dlreview.metrics.layers import read_layers, table
from dlreview.nn.convolution import BottleneckCNN, output_shape, output_side, weight_count
from dlreview.nn.vit import ViT


@pytest.mark.parametrize("s", [1, 2, 3])
def test_the_formulas_agree_with_torch(s):
    for n, k, p in itertools.product((5, 8, 11), (1, 3, 4), (0, 1, 2)):
        layer = nn.Conv2d(2, 7, k, stride=s, padding=p, bias=False)
        rows, columns, filters = output_shape(n, k, 7, p, s)
        assert layer(torch.zeros(1, 2, n, n)).shape[1:] == (filters, rows, columns)
        assert layer.weight.numel() == weight_count(k, 2, 7)
    biased = nn.Conv2d(3, 4, 5)
    assert sum(x.numel() for x in biased.parameters()) == weight_count(5, 3, 4, bias=True)


def test_the_lectures_stride_of_two():
    assert output_side(5, 3, s=2) == 2 and output_side(6, 3, s=2) == 2, "the floor"


def test_the_exams_network_has_404_weights():
    images = torch.randn(1, 3, 9, 7)
    layers = read_layers(BottleneckCNN(), images)
    convolutions = [layer for layer in layers if layer.kind == "Conv2d"]
    assert [c.parameters for c in convolutions] == [300, 8, 36, 8, 8, 36, 8]
    assert sum(layer.parameters for layer in layers) == 404
    assert [c.shape[1] for c in convolutions] == [4, 2, 2, 4, 2, 2, 4]
    assert all(c.shape[2:] == (9, 7) for c in convolutions)
    last = table(layers).splitlines()[-1]
    assert last.startswith("total") and last.endswith("404")


def test_a_teacher_may_take_other_sizes():
    net = BottleneckCNN(width=6, inner_width=5, depth=1, kernel_size=3, image_channels=2)
    counts = [weight_count(*layer) for layer in ((3, 2, 6), (1, 6, 5), (3, 5, 5), (1, 5, 6))]
    assert [x.numel() for x in net.parameters()] == counts
    again = saved.build(saved.config_of(net))
    assert [x.shape for x in again.parameters()] == [x.shape for x in net.parameters()]


def test_a_block_adds_its_input():
    net = BottleneckCNN(depth=1)
    nn.init.zeros_(net.blocks[0].expand.weight)
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(net(x), net.first(x).relu())


def test_layers_of_any_network_sum_to_its_parameters():
    torch.manual_seed(0)
    shared = nn.Linear(3, 3)
    norm = nn.BatchNorm1d(3)
    net = nn.Sequential(shared, norm, shared).train()
    layers = read_layers(net, torch.randn(4, 3))
    assert [(x.kind, x.parameters) for x in layers] == [("Linear", 12), ("BatchNorm1d", 6)]
    assert net.training and norm.running_mean.eq(0).all(), "reading changes nothing"
    vit = ViT(8, 4, 12, 2, 3, 5)
    layers = read_layers(vit, torch.randn(1, 3, 8, 8))
    assert sum(x.parameters for x in layers) == sum(x.numel() for x in vit.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: output_side(4, 7), r"k must be at most n \+ 2p = 4, got 7"),
        (lambda: output_side(4, 3, s=0), "s must be at least 1, got 0"),
        (lambda: output_shape(4, 3, 0), "l must be at least 1, got 0"),
        (lambda: weight_count(3, 0, 4), "c must be at least 1, got 0"),
        (lambda: BottleneckCNN(inner_width=0), "inner_width must be at least 1, got 0"),
        (lambda: BottleneckCNN(kernel_size=4), "kernel_size must be odd, got 4"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
