import pytest
import torch

from dlreview.metrics.attention_shapes import AttentionShapes, first_word_shapes
from dlreview.nn.attention import MultiHeadAttention
from dlreview.nn.captioner import VisionEncoderDecoder
from dlreview.nn.decoder import DecoderBlock
from dlreview.nn.gpt import GPT
from dlreview.nn.vit import ViT


def captioner(features, width, context_width=None):
    """Build a captioner of pictures of 9 patches and a class token."""
    encoder = ViT(12, 4, features, 1, 2, image_channels=1)
    block = DecoderBlock(width, 2, context_width=context_width)
    return VisionEncoderDecoder(encoder, GPT(11, width, 1, 2, max_length=6, block=block))


def shapes(net):
    return first_word_shapes(net, torch.randn(2, 1, 12, 12), torch.tensor([[2], [2]]))


K = 10  # features of a picture
OF_9A = {"W_Q": (128, 128), "W_K": (128, 128), "W_V": (128, 128)}
OF_9B = {"Q": (1, 128), "K": (K, 128), "V": (K, 128)}


def test_the_exams_problem_9a_and_9b():
    assert shapes(captioner(128, 128)) == AttentionShapes(**OF_9A, **OF_9B, projection=None)


def test_the_exams_problem_9c_both_ways():
    projected = AttentionShapes(**OF_9A, **OF_9B, projection=(64, 128))
    assert shapes(captioner(64, 128)) == projected
    wide = OF_9A | {"W_K": (64, 128), "W_V": (64, 128)}
    assert shapes(captioner(64, 128, 64)) == AttentionShapes(**wide, **OF_9B, projection=None)


@pytest.mark.parametrize(("features", "width"), [(6, 10), (10, 6)])
def test_any_widths(features, width):
    found = shapes(captioner(features, width, features))
    weights = [found.W_Q, found.W_K, found.W_V]
    assert weights == [(width, width), (features, width), (features, width)]
    computed = [found.Q, found.K, found.V]
    assert computed == [(1, width), (K, width), (K, width)]


def test_a_broken_module_is_seen():
    net = captioner(128, 128)
    net.decoder.decoder.blocks[0].cross_attention = MultiHeadAttention(128, 2, head_width=32)
    found = shapes(net)
    assert found.W_Q == found.W_K == found.W_V and found.W_V == (128, 64)
    assert [found.Q, found.K, found.V] == [(1, 64), (K, 64), (K, 64)]
    blind = captioner(128, 128)
    tokens = blind.encoder.tokens
    blind.encoder.tokens = lambda images: tokens(images)[:, :1]  # the class token only
    assert shapes(blind).K == (1, 128)
