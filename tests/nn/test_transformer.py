import pytest
import torch
from torch import nn

from dlreview.nn.attention import MultiHeadAttention
from dlreview.nn.feed_forward import FeedForward, SwiGLU
from dlreview.nn.norm import LayerNorm
from dlreview.nn.stochastic_depth import drop_path
from dlreview.nn.transformer import Block, BranchNormBlock, Encoder, PostNormBlock
from dlreview.reference.weights import SPLIT, Rule, copy_weights
from tests.parity import assert_parity, scramble

BATCH, TOKENS, WIDTH, HEADS, HIDDEN = 2, 5, 12, 3, 20


def tokens(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, TOKENS, WIDTH, generator=generator).double()


def table() -> list[Rule]:
    qkv = tuple(f"attention.W_{x}.{{leaf}}" for x in "qkv")
    return [
        (qkv, "self_attn.in_proj_{leaf}", SPLIT),
        ("attention.W_o.{leaf}", "self_attn.out_proj.{leaf}"),
        ("attention_norm.{leaf}", "norm1.{leaf}"),
        ("feed_forward_norm.{leaf}", "norm2.{leaf}"),
        ("feed_forward.W_1.{leaf}", "linear1.{leaf}"),
        ("feed_forward.W_2.{leaf}", "linear2.{leaf}"),
    ]


def pair(norm_first: bool, activation: str = "gelu") -> tuple[Block, nn.Module]:
    theirs = nn.TransformerEncoderLayer(
        WIDTH, HEADS, HIDDEN, 0.0, activation, 1e-3, batch_first=True, norm_first=norm_first
    )
    norms = [LayerNorm(WIDTH, 1e-3) for _ in range(2)]
    network = FeedForward(WIDTH, HIDDEN, activation)
    cls = Block if norm_first else PostNormBlock
    ours = cls(
        WIDTH, HEADS, feed_forward=network, attention_norm=norms[0], feed_forward_norm=norms[1]
    )
    copy_weights(scramble(theirs), ours, table(), "ours")
    # In eval mode theirs may take a fast path without these gradients.
    return ours.train(), theirs.train()


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("how", ["all", "causal", "padded"])
def test_blocks_match_torch(norm_first, activation, how):
    ours, theirs = pair(norm_first, activation)
    x, triangle = tokens(), nn.Transformer.generate_square_subsequent_mask(TOKENS).double()
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    calls = {"all": {}, "causal": {"causal": True}, "padded": {"mask": mask}}
    theirs_too = {
        "all": {},
        "causal": {"src_mask": triangle, "is_causal": True},
        "padded": {"src_key_padding_mask": mask == 0},
    }
    kept = mask.bool() if how == "padded" else torch.ones(BATCH, TOKENS).bool()
    assert_parity(
        ours,
        theirs,
        lambda net: net(x, **calls[how])[kept],
        lambda net: net(x, **theirs_too[how])[kept],
        table(),
    )


def test_a_norm_in_the_wrong_place_is_caught():
    ours, theirs = pair(norm_first=False)
    ours.__class__ = Block
    with pytest.raises(AssertionError, match="not close"):
        assert_parity(ours, theirs, lambda net: net(tokens()), lambda net: net(tokens()), table())


@pytest.mark.parametrize("cls", [Block, PostNormBlock, BranchNormBlock])
def test_branches_are_scaled_and_added(cls):
    block = scramble(cls(WIDTH, HEADS, layer_scale=0.5))
    x, one, two = tokens(), block.attention_norm, block.feed_forward_norm
    attend, network = block.attention, block.feed_forward
    scale, scale_2 = block.attention_scale, block.feed_forward_scale
    if cls is Block:
        x = x + scale * attend(one(x))
        expected = x + scale_2 * network(two(x))
    elif cls is PostNormBlock:
        x = one(x + scale * attend(x))
        expected = two(x + scale_2 * network(x))
    else:
        x = x + scale * one(attend(x))
        expected = x + scale_2 * two(network(x))
    torch.testing.assert_close(block(tokens()), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("gate_last", [False, True])
def test_swiglu_is_its_formula(packed, gate_last):
    net = scramble(SwiGLU(WIDTH, 8, packed=packed, gate_last=gate_last, norm=LayerNorm(8)))
    if packed:
        gate, value = net.W_in(tokens()).chunk(2, dim=-1)
        gate, value = (value, gate) if gate_last else (gate, value)
    else:
        gate, value = net.W_gate(tokens()), net.W_value(tokens())
    expected = net.W_out(net.norm(gate * torch.sigmoid(gate) * value))
    torch.testing.assert_close(net(tokens()), expected, atol=1e-12, rtol=1e-12)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    branch = torch.ones(4000, 2, 3)
    dropped = drop_path(branch, 0.25, training=True)
    assert sorted(set(dropped.flatten().tolist())) == pytest.approx([0, 4 / 3])
    assert torch.equal(dropped[:, :1, :1].expand_as(dropped), dropped)
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)
    assert drop_path(branch, 0.25, training=False) is branch
    assert drop_path(branch, 0.0, training=True) is branch


def test_blocks_do_not_share_weights():
    block = Block(WIDTH, HEADS, drop_path=0.2)
    encoder = Encoder(block, 3)
    kept = [id(p) for p in block.parameters()]
    assert not any(id(p) in kept for p in encoder.parameters())
    assert len(list(encoder.parameters())) == 3 * len(kept)
    first, second = (copied.attention.W_q.weight for copied in encoder.blocks[:2])
    assert not torch.equal(first, second)
    assert encoder.block is block
    assert [copied.drop_path for copied in encoder.blocks] == [0.2] * 3
    rates = [copied.drop_path for copied in Encoder(block, 3, drop_path=0.1).blocks]
    assert rates == pytest.approx([0, 0.05, 0.1])
    rates = [copied.drop_path for copied in Encoder(block, 3, drop_path=[0.1, 0.0, 0.3]).blocks]
    assert rates == [0.1, 0.0, 0.3]


@pytest.mark.parametrize("cls", [Block, PostNormBlock, BranchNormBlock])
def test_attention_weights_are_those_of_forward(cls):
    """The weights times the values give what attention returns in `forward`."""
    encoder = scramble(Encoder(cls(TOKENS, 1), 2))
    x = torch.eye(TOKENS).double()[None]
    weights = encoder.attention_weights(x)
    for block, shown in zip(encoder.blocks, weights, strict=True):
        seen = block.attention_norm(x) if cls is Block else x
        _, _, v = block.attention.project(seen)
        gathered = block.attention.W_o((shown @ v)[:, 0])
        torch.testing.assert_close(gathered, block.attention(seen), atol=1e-12, rtol=1e-12)
        x = block(x)
    torch.testing.assert_close(x, encoder(torch.eye(TOKENS).double()[None]), atol=0, rtol=0)


@pytest.mark.parametrize("cls", [Block, PostNormBlock, BranchNormBlock])
def test_the_first_tokens_can_be_computed_alone(cls):
    encoder = scramble(Encoder(cls(WIDTH, HEADS, layer_scale=0.5), 2))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    for change in ({}, {"mask": mask}):
        gradients = []
        for output in (encoder(tokens(), **change)[:, :2], encoder(tokens(), first=2, **change)):
            encoder.zero_grad()
            output.square().sum().backward()
            gradients.append([output, *(p.grad.clone() for p in encoder.parameters())])
        torch.testing.assert_close(gradients[1], gradients[0], atol=1e-12, rtol=1e-12)
    with pytest.raises(ValueError, match="first 2 does not go with causal attention"):
        encoder(tokens(), causal=True, first=2)


def test_dropout_and_drop_path_act_in_training_only():
    for change in ({"dropout": 0.5}, {"drop_path": 0.5}):
        torch.manual_seed(0)
        block, x = Block(WIDTH, HEADS, **change), torch.randn(9, TOKENS, WIDTH)
        assert not torch.equal(block(x), block(x))
        assert torch.equal(block.eval()(x), block(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Block(10, 4), "width 10 must be divisible by heads 4"),
        (lambda: Block(8, 4, dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
        (lambda: Block(8, 4, drop_path=-0.1), r"drop_path must be in \[0, 1\), got -0.1"),
        (lambda: FeedForward(8, 0), "hidden_width must be at least 1, got 0"),
        (lambda: FeedForward(8, 9, "gelo"), "activation 'gelo' is unknown; did you mean 'gelu'?"),
        (lambda: SwiGLU(0, 9), "^width must be at least 1, got 0"),
        (lambda: Encoder(Block(8, 4), 0), "depth must be at least 1, got 0"),
        (lambda: Encoder(Block(8, 4), 2, [0.1]), r"must have depth 2 rates, got \[0.1\]"),
        (lambda: MultiHeadAttention(8, 3), "width 8 must be divisible by heads 3"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
