"""The middle of a U-Net: a new one changes nothing, a trained one reads the embedding."""

import pytest
import torch
from torch import nn

from dlreview.nn.group_norm import GroupNorm
from dlreview.nn.hourglass import Layers
from dlreview.nn.middle import AttentionMiddle, MiddlePart, NoMiddle, PlainMiddle
from dlreview.nn.resnet_block import BlockOptions
from tests.parity import scramble

WIDTH, EMBEDDING = 6, 5
LAYERS = Layers(
    image_channels=3,
    out_channels=2,
    blocks_per_level=1,
    groups=2,
    attention_groups=3,
    dropout=0.0,
    embedding_width=EMBEDDING,
    options=BlockOptions(),
)


def inputs():
    generator = torch.Generator().manual_seed(0)
    options = {"dtype": torch.float64, "generator": generator}
    return torch.randn(2, WIDTH, 3, 4, **options), torch.randn(2, EMBEDDING, **options)


@pytest.mark.parametrize(
    ("part", "sums"), [(PlainMiddle, 2), (AttentionMiddle, 3)], ids=["plain", "attention"]
)
def test_a_new_middle_only_divides_by_its_scale(part, sums):
    """Each branch starts at zero, and each sum is divided."""
    x, embedding = inputs()
    for scale in (1.0, 1.5):
        middle = part(scale).make(LAYERS, WIDTH).double()
        torch.testing.assert_close(middle(x, embedding), x / scale**sums, atol=1e-12, rtol=1e-12)


def test_attention_is_between_the_blocks():
    """Without the attention's part, which is x + attention(x), both kinds are the same."""
    x, embedding = inputs()
    attends = scramble(AttentionMiddle(groups=2).make(LAYERS, WIDTH))
    plain = PlainMiddle().make(LAYERS, WIDTH).double().eval()
    plain.blocks.load_state_dict(attends.blocks.state_dict())
    first, second = attends.blocks
    h = attends.attention(first(x, embedding))
    torch.testing.assert_close(attends(x, embedding), second(h, embedding))
    assert not torch.allclose(attends(x, embedding), plain(x, embedding))
    for parameter in attends.attention.attention.W_o.parameters():
        nn.init.zeros_(parameter)
    torch.testing.assert_close(attends(x, embedding), plain(x, embedding))


@pytest.mark.parametrize("part", [PlainMiddle(), AttentionMiddle()])
def test_the_embedding_acts_on_its_own_image(part):
    x, embedding = inputs()
    middle = scramble(part.make(LAYERS, WIDTH))
    changed = embedding.clone()
    changed[1] += 1
    one, other = middle(x, embedding), middle(x, changed)
    torch.testing.assert_close(one[0], other[0])
    assert not torch.allclose(one[1], other[1])


@pytest.mark.parametrize(("groups", "expected"), [(None, 3), (2, 2), (0, None)])
def test_the_groups_of_the_attention(groups, expected):
    norm = AttentionMiddle(groups=groups).make(LAYERS, WIDTH).attention.norm
    assert (norm.num_groups if isinstance(norm, GroupNorm) else None) == expected
    assert expected or isinstance(norm, nn.Identity)


def test_no_middle():
    assert NoMiddle().make(LAYERS, WIDTH) is None
    with pytest.raises(NotImplementedError):
        MiddlePart().make(LAYERS, WIDTH)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PlainMiddle(0.0), "output_scale must not be 0"),
        (lambda: AttentionMiddle(0.0), "output_scale must not be 0"),
        (lambda: AttentionMiddle(groups=-1), "groups must be at least 0, got -1"),
        (
            lambda: AttentionMiddle(groups=4).make(LAYERS, WIDTH),
            "width 6 must be divisible by groups 4",
        ),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
