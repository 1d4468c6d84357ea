import pytest
import torch
from torch import nn

from dlreview.nn.multihead_attention import MultiheadAttention
from dlreview.reference import from_reference
from tests.parity import assert_parity, assert_round_trip, scramble

BATCH, QUERIES, KEYS, WIDTH, HEADS = 2, 4, 5, 12, 3


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def hidden(*shape: int, seed: int) -> torch.Tensor:
    mask = numbers(*shape, seed=seed) > 0.5
    mask[..., 0] = False  # every query sees a key
    return mask


MASKS = {
    "none": (None, None),
    "padding": (hidden(BATCH, KEYS, seed=3), None),
    "pairs": (None, hidden(QUERIES, KEYS, seed=4)),
    "heads": (hidden(BATCH, KEYS, seed=3), hidden(BATCH * HEADS, QUERIES, KEYS, seed=4)),
    "floats": (numbers(BATCH, KEYS, seed=3), numbers(QUERIES, KEYS, seed=4)),
}


def inputs(net: nn.MultiheadAttention) -> list[torch.Tensor]:
    query = numbers(BATCH, QUERIES, WIDTH)
    return [query, numbers(BATCH, KEYS, net.kdim, seed=1), numbers(BATCH, KEYS, net.vdim, seed=2)]


def call_theirs(net, tensors, padding, pairs, **how):
    """Call torch's class, with its axes swapped if it is not batch first."""
    if net.batch_first:
        return net(*tensors, key_padding_mask=padding, attn_mask=pairs, **how)
    turned = [x.transpose(0, 1) for x in tensors]
    output, weights = net(*turned, key_padding_mask=padding, attn_mask=pairs, **how)
    return output.transpose(0, 1), weights


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"bias": False, "batch_first": True},
        {"kdim": 7, "vdim": 8},
        {"vdim": 8, "bias": False, "batch_first": True},
        {"add_bias_kv": True, "add_zero_attn": True},
        {"kdim": 7, "add_bias_kv": True, "bias": False},
        {"add_zero_attn": True, "batch_first": True},
    ],
)
def test_matches_torch(config, mask):
    theirs = scramble(nn.MultiheadAttention(WIDTH, HEADS, **config))
    ours, tensors = assert_round_trip(theirs, "torch"), inputs(theirs)
    padding, pairs = MASKS[mask]
    masks = {"key_padding_mask": padding, "attn_mask": pairs}
    assert_parity(
        ours,
        theirs,
        lambda net: net(*tensors, **masks),
        lambda net: call_theirs(net, tensors, padding, pairs),
        steps=20 if mask == "none" else 3,
    )
    expected = theirs.eval()
    for how in ({"need_weights": False}, {"average_attn_weights": False}):
        output, weights = ours(*tensors, **masks, **how)
        output_theirs, weights_theirs = call_theirs(expected, tensors, padding, pairs, **how)
        torch.testing.assert_close(output, output_theirs, atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(weights, weights_theirs, atol=1e-10, rtol=1e-10)


def test_self_attention_matches_torch():
    theirs = scramble(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True))
    x = numbers(BATCH, 9, WIDTH)
    assert_parity(
        from_reference(theirs), theirs, lambda net: net(x, x, x), lambda net: net(x, x, x)
    )


def test_a_wrong_scale_is_caught():
    theirs = scramble(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True))
    ours, tensors = from_reference(theirs), inputs(theirs)
    ours.attention.head_width, ours.attention.scale = None, WIDTH**-0.5

    def wrong(net):
        q, k, v = net.attention.project(*tensors)
        heads = ((q @ k.mT) * net.attention.scale).softmax(-1) @ v
        return net.attention.W_o(heads.transpose(1, 2).flatten(2))

    with pytest.raises(AssertionError, match="not close"):
        assert_parity(ours, theirs, wrong, lambda net: net(*tensors)[0])


def test_keeps_the_mode_and_drops_weights_in_training():
    theirs = nn.MultiheadAttention(WIDTH, HEADS, dropout=0.4).train()
    ours = from_reference(theirs)
    assert ours.training and ours.dropout == 0.4
    x = torch.randn(BATCH, KEYS, WIDTH)
    assert not torch.equal(ours(x, x, x)[0], ours(x, x, x)[0])


def test_refuses_a_width_that_heads_do_not_divide():
    with pytest.raises(ValueError, match="width 10 must be divisible by heads 4"):
        MultiheadAttention(10, 4)
