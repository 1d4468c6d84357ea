import pytest
import torch
from torch import nn

from dlreview.nn.attention import (
    MultiHeadAttention,
    attention_weights,
    causal_mask,
    combine_heads,
    compute_attention,
    split_heads,
)
from dlreview.nn.norm import LayerNorm, RMSNorm
from tests.parity import scramble

CLOSE = {"atol": 1e-12, "rtol": 1e-12}
BATCH, QUERIES, KEYS, WIDTH, HEADS = 2, 4, 5, 12, 3


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def by_hand(q, k, v, visible):
    """Row 25 with loops and exp; `visible` (batch, heads, queries, keys)."""
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=q.dtype)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                scores = torch.stack([(q[b, h, i] * key).sum() for key in k[b, h]])
                weights = (scores / q.shape[-1] ** 0.5).exp() * visible[b, h, i]
                out[b, h, i] = (weights[:, None] * v[b, h]).sum(0) / weights.sum()
    return out


def test_heads_split_the_width_in_order():
    x = numbers(BATCH, QUERIES, WIDTH)
    heads = split_heads(x, HEADS)
    assert heads.shape == (BATCH, HEADS, QUERIES, WIDTH // HEADS)
    assert torch.equal(heads[:, 1], x[..., 4:8])
    assert torch.equal(combine_heads(heads), x)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("queries", [QUERIES, KEYS])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_the_formula(causal, queries, masked):
    q, k = numbers(BATCH, HEADS, queries, 4), numbers(BATCH, HEADS, KEYS, 4, seed=1)
    v = numbers(BATCH, HEADS, KEYS, 6, seed=2)
    mask = torch.tensor([[1, 0, 1, 1, 0], [1, 1, 0, 0, 1]])[:, None, None] if masked else None
    visible = torch.ones(BATCH, HEADS, queries, KEYS).double()
    if masked:
        visible = visible * mask
    if causal:
        visible = visible * causal_mask(queries, KEYS, q.device)
    expected = by_hand(q, k, v, visible)
    torch.testing.assert_close(compute_attention(q, k, v, mask, causal), expected, **CLOSE)
    weights = attention_weights(q, k, mask, causal)
    torch.testing.assert_close(weights @ v, expected, **CLOSE)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), **CLOSE)


def test_the_last_query_is_at_the_position_of_the_last_key():
    """So a decoder can compute only its newest words."""
    q, k, v = (numbers(BATCH, HEADS, KEYS, 4, seed=i) for i in range(3))
    whole = compute_attention(q, k, v, causal=True)
    torch.testing.assert_close(
        compute_attention(q[:, :, -2:], k, v, causal=True), whole[:, :, -2:], **CLOSE
    )


def test_a_mask_of_floats_is_added_to_the_scores():
    q, k, v = (numbers(BATCH, HEADS, KEYS, 4, seed=i) for i in range(3))
    bias = numbers(1, HEADS, KEYS, KEYS, seed=3)
    expected = ((q @ k.mT) / 2 + bias).softmax(-1) @ v
    torch.testing.assert_close(compute_attention(q, k, v, bias), expected, **CLOSE)
    torch.testing.assert_close(attention_weights(q, k, bias) @ v, expected, **CLOSE)
    triangle = causal_mask(KEYS, KEYS, q.device)
    expected = ((q @ k.mT) / 2 + bias).masked_fill(~triangle, -torch.inf).softmax(-1) @ v
    torch.testing.assert_close(compute_attention(q, k, v, bias, causal=True), expected, **CLOSE)


def test_a_query_that_sees_no_key_gives_no_nan():
    q = numbers(BATCH, HEADS, KEYS, 4).requires_grad_()
    mask = torch.ones(BATCH, 1, KEYS, KEYS, dtype=torch.bool)
    mask[0, :, 2] = False
    weights = attention_weights(q, q, mask)
    assert torch.equal(weights[0, :, 2], torch.zeros(HEADS, KEYS).double())
    (weights @ q).sum().backward()
    assert q.grad.isfinite().all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", [None, "keys", "pairs", "heads"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"bias": False, "output_bias": False},
        {"key_width": 7},
        {"key_width": 7, "value_width": 8, "head_width": 5, "scale": 0.3},
        {"query_norm": LayerNorm(4), "key_norm": RMSNorm(4), "output_norm": LayerNorm(WIDTH)},
    ],
)
def test_returned_weights_are_those_of_the_fused_kernel(change, mask, causal):
    net = scramble(MultiHeadAttention(WIDTH, HEADS, **change))
    query = numbers(BATCH, QUERIES, WIDTH)
    key = numbers(BATCH, KEYS, change.get("key_width", WIDTH), seed=1)
    value = numbers(BATCH, KEYS, change.get("value_width") or key.shape[-1], seed=2)
    shapes = {"keys": [BATCH, KEYS], "pairs": [BATCH, QUERIES, KEYS]}
    shapes["heads"] = [BATCH, HEADS, QUERIES, KEYS]
    if mask is not None:
        mask = numbers(*shapes[mask], seed=3) > -0.5
        mask[..., 0] = True
    _, _, v = net.project(query, key, value)
    heads = combine_heads(net.weights(query, key, mask, causal) @ v)
    shown = net.W_o(heads if net.output_norm is None else net.output_norm(heads))
    torch.testing.assert_close(net(query, key, value, mask, causal), shown, **CLOSE)


def test_without_keys_tokens_attend_to_themselves():
    """Also if the three projections are one product (many tokens), and also in gradients."""
    net = scramble(MultiHeadAttention(WIDTH, HEADS))
    for tokens in (2, 40):
        x = numbers(BATCH, tokens, WIDTH)
        outputs, gradients = [], []
        for call in (lambda x: net(x), lambda x: net(x, x), lambda x: net(x, x, x)):
            net.zero_grad()
            outputs.append(call(x))
            outputs[-1].square().sum().backward()
            gradients.append([p.grad.clone() for p in net.parameters()])
        for output, gradient in zip(outputs[1:], gradients[1:], strict=True):
            torch.testing.assert_close(output, outputs[0], **CLOSE)
            torch.testing.assert_close(gradient, gradients[0], **CLOSE)


def test_the_shapes_in_the_exam():
    """Rows 98-100: features of a ViT, 64 wide, read by a decoder of width 128."""
    net = MultiHeadAttention(128, 4, key_width=64, value_width=64)
    theirs = nn.MultiheadAttention(128, 4, kdim=64, vdim=64)
    assert net.W_q.weight.shape == theirs.q_proj_weight.shape == (128, 128)
    assert net.W_k.weight.shape == theirs.k_proj_weight.shape == (128, 64)
    assert net(torch.randn(1, 1, 128), torch.randn(1, 9, 64)).shape == (1, 1, 128)


def test_dropout_acts_in_training_only():
    net = MultiHeadAttention(WIDTH, HEADS, dropout=0.5)
    x = torch.randn(BATCH, KEYS, WIDTH)
    assert not torch.equal(net(x), net(x))
    assert torch.equal(net.eval()(x), net(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 10, "heads": 4}, "width 10 must be divisible by heads 4"),
        ({"width": 0, "heads": 4}, "width must be at least 1, got 0"),
        ({"width": 8, "heads": 0}, "heads must be at least 1, got 0"),
        ({"width": 8, "heads": 2, "key_width": -1}, "key_width must be at least 1, got -1"),
        ({"width": 8, "heads": 2, "dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(**arguments)
