import copy

import pytest
import torch
from torch import nn

from dlreview.nn.cache import Cache
from dlreview.nn.decoder import Decoder, DecoderBlock, OptionalDecoderBlock, PostNormDecoderBlock
from dlreview.nn.transformer import Block
from tests.parity import scramble

BLOCKS = [DecoderBlock, PostNormDecoderBlock]


def inputs():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 5, 12, dtype=torch.float64, generator=generator)
    context = torch.randn(2, 7, 8, dtype=torch.float64, generator=generator)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    return x, context, mask


def theirs_of(ours, norm_first):
    layer = nn.TransformerDecoderLayer(
        12, 3, 48, 0.0, "gelu", 1e-6, batch_first=True, norm_first=norm_first
    ).double()
    state = {}
    for mine, other in (("attention", "self_attn"), ("cross_attention", "multihead_attn")):
        part = getattr(ours, mine)
        for leaf in ("weight", "bias"):
            weights = [getattr(getattr(part, f"W_{x}"), leaf) for x in "qkv"]
            state[f"{other}.in_proj_{leaf}"] = torch.cat(weights)
            state[f"{other}.out_proj.{leaf}"] = getattr(part.W_o, leaf)
    pairs = {"linear1": ours.feed_forward.W_1, "linear2": ours.feed_forward.W_2}
    pairs |= {"norm1": ours.attention_norm, "norm2": ours.cross_attention_norm}
    pairs |= {"norm3": ours.feed_forward_norm}
    state |= {
        f"{k}.{leaf}": getattr(m, leaf) for k, m in pairs.items() for leaf in ("weight", "bias")
    }
    layer.load_state_dict(state)
    return layer.eval()


@pytest.mark.parametrize("cls", BLOCKS)
def test_equals_torch(cls):
    ours = scramble(cls(12, 3))
    theirs = theirs_of(ours, cls is DecoderBlock)
    x, _, mask = inputs()
    context = torch.randn(2, 7, 12, dtype=torch.float64)
    triangle = torch.ones(5, 5, dtype=torch.bool).triu(1)
    expected = theirs(x, context, triangle, memory_key_padding_mask=~mask.bool())
    torch.testing.assert_close(
        ours(x, context=context, context_mask=mask), expected, atol=1e-10, rtol=1e-10
    )


@pytest.mark.parametrize(
    "block",
    [cls(12, 3, context_width=8) for cls in (*BLOCKS, OptionalDecoderBlock)] + [Block(12, 3)],
)
def test_word_by_word_equals_all_at_once(block):
    net = scramble(Decoder(copy.deepcopy(block), 3))
    x, context, mask = inputs()
    extra = {"context": context, "context_mask": mask} if isinstance(block, DecoderBlock) else {}
    whole, cache = net(x, **extra), Cache(3, 5)
    parts = [net(x[:, :2], cache=cache, **extra)]
    parts += [net(x[:, i : i + 1], cache=cache) for i in (2, 3, 4)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("cls", BLOCKS)
def test_weights_of_the_context_sum_to_one_and_are_those_of_forward(cls):
    net = scramble(Decoder(cls(12, 3, context_width=8), 2))
    x, context, mask = inputs()
    first, second = net.context_weights(x, context, mask)
    assert first.shape == second.shape == (2, 3, 5, 7)
    torch.testing.assert_close(second.sum(-1), torch.ones(2, 3, 5, dtype=torch.float64))
    assert second[1, ..., 4:].abs().max() == 0
    # A place whose weight is moved changes the output by just this weight.
    block = net.blocks[0]
    seen = []
    hook = block.cross_attention.W_o.register_forward_pre_hook(lambda _, a: seen.append(a[0]))
    net(x, context=context, context_mask=mask)
    hook.remove()
    combined = (first @ block.cross_attention.values(context)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(seen[0], combined, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_a_cache_may_have_the_context_from_the_start(masked):
    net = scramble(Decoder(DecoderBlock(12, 3, context_width=8), 2))
    x, context, mask = inputs()
    mask = mask if masked else None
    cache = net.start(5, context, mask)
    parts = [net(x[:, :3], cache=cache), net(x[:, 3:], cache=cache)]
    whole = net(x, context=context, context_mask=mask)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-12, rtol=1e-12)


def test_a_missing_context_is_told():
    with pytest.raises(ValueError, match="context is missing"):
        Decoder(DecoderBlock(12, 3), 1)(torch.randn(1, 2, 12))
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        Decoder(DecoderBlock(12, 3), 0)
