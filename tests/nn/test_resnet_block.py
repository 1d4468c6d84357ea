"""Pixel attention with two projections equals pixel attention with four."""

import subprocess
import sys
import textwrap

import pytest
import torch
from einops import rearrange

from dlreview.nn.resnet_block import PixelAttention


@pytest.mark.parametrize("head_width", [None, 7])
@pytest.mark.parametrize(
    "images", [5, 17]
)  # from 16 on with two products instead of the fused kernel
def test_folded_attention_equals_attention(head_width, images):
    net = PixelAttention(12, head_width, groups=3).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(images, 12, 4, 6, dtype=torch.float64).to(memory_format=torch.channels_last)
    tokens = rearrange(x, "b c h w -> b (h w) c")
    assert not net.can_fold(tokens)
    net.attention.scale = 0.7 if head_width else None
    expected = net(x)
    with torch.no_grad():
        assert net.can_fold(tokens)
        assert not net.can_fold(tokens[:1])
        torch.testing.assert_close(net(x), expected, rtol=1e-11, atol=1e-11)


def test_attention_that_cannot_be_folded():
    tokens = torch.randn(5, 24, 12)
    with torch.no_grad():
        assert not PixelAttention(12, 4, groups=3).can_fold(tokens)
        net = PixelAttention(12, groups=3)
        assert net.can_fold(tokens)
        assert not net.can_fold(tokens.bfloat16())
        net.attention.W_v = torch.nn.Sequential(net.attention.W_v)
        assert not net.can_fold(tokens)


def test_a_compiled_graph_folds_too():
    """In a process of its own: shape checks on hints are no part of what is compiled."""
    script = """
        import torch
        from dlreview.nn.resnet_block import PixelAttention

        net, products = PixelAttention(12, groups=3).double(), []
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter)

        def count(graph, inputs):
            products.extend(node for node in graph.graph.nodes if node.target is torch.bmm)
            return graph.forward

        x = torch.randn(17, 12, 4, 6).double().to(memory_format=torch.channels_last)
        with torch.no_grad():
            fast = torch.compile(net, backend=count, fullgraph=True)
            torch.testing.assert_close(fast(x), net(x), rtol=1e-12, atol=1e-12)
        assert len(products) == 2
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=300)
