import pytest
import torch
from torch import nn

from dlreview.reference.weights import (
    CONV_AS_LINEAR,
    SPLIT,
    TRANSPOSE,
    copy_weights,
    split,
    to_ours,
    to_theirs,
)

TABLE = [
    ("embed.{leaf}", "stem.{leaf}"),
    (
        tuple(f"blocks.{{i}}.W_{p}.{{leaf}}" for p in "qkv"),
        "layers.{i}.attn.qkv.{leaf}",
        SPLIT,
    ),
    ("blocks.{i}.W_o.weight", "layers.{i}.attn.proj.weight", TRANSPOSE),
    ("head.weight", "head.weight", CONV_AS_LINEAR),
    ("gates", ("gate_a", "gate_b"), split(2).flipped),
]


def theirs() -> dict[str, torch.Tensor]:
    state = {"stem.weight": torch.randn(3, 5), "head.weight": torch.randn(2, 3, 1, 1)}
    state |= {f"gate_{x}": torch.randn(2, 7) for x in "ab"}
    for i in (0, 11):
        state |= {
            f"layers.{i}.attn.qkv.weight": torch.randn(9, 3),
            f"layers.{i}.attn.qkv.bias": torch.randn(9),
            f"layers.{i}.attn.proj.weight": torch.randn(4, 3),
        }
    return state


def test_both_directions():
    state = theirs()
    ours = to_ours(state, TABLE)
    assert torch.equal(ours["blocks.11.W_k.weight"], state["layers.11.attn.qkv.weight"][3:6])
    assert torch.equal(ours["blocks.0.W_v.bias"], state["layers.0.attn.qkv.bias"][6:])
    assert torch.equal(ours["blocks.0.W_o.weight"], state["layers.0.attn.proj.weight"].T)
    assert ours["head.weight"].shape == (2, 3) and ours["gates"].shape == (4, 7)
    back = to_theirs(ours, TABLE)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_ops_compose():
    fused = torch.randn(4, 9)  # (in, query key value out), as GPT-2 keeps it
    op = TRANSPOSE.then(SPLIT)
    query, key, value = op.forward(fused)
    assert torch.equal(key, fused[:, 3:6].T)
    assert torch.equal(op.inverse(query, key, value), fused)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(extra=torch.ones(1)), "no rule matches 'extra' of theirs"),
        (lambda s: s.update({"stem.0.weight": torch.ones(1)}), "no rule matches 'stem.0.weight'"),
        (lambda s: s.pop("gate_b"), "theirs lacks 'gate_b', which goes with 'gate_a'"),
    ],
)
def test_uncovered_keys_are_named(change, message):
    state = theirs()
    change(state)
    with pytest.raises(ValueError, match=message):
        to_ours(state, TABLE)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (("stem", "stem.weight"), "their key 'stem.weight' matches two rules"),
        (("gates", "new"), "our key 'gates' matches two rules"),
        (("embed.weight", "new"), "our key 'embed.weight' matches two rules"),
    ],
)
def test_a_key_matches_one_rule_on_either_side(rule, message):
    with pytest.raises(ValueError, match=message):
        to_ours(theirs() | {"new": torch.ones(1)}, [*TABLE, rule])


def test_a_letter_is_an_index_and_the_same_on_both_places():
    table = [("a.{i}.{j}.{i}", "b.{i}.{j}.{i}")]
    assert list(to_ours({"b.10.2.10": torch.ones(1)}, table)) == ["a.10.2.10"]
    for wrong in ("b.10.2.11", "b.x.2.x", "b-10.2.10"):
        with pytest.raises(ValueError, match=wrong):
            to_ours({wrong: torch.ones(1)}, table)


class Fused(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.table = nn.Embedding(5, width)
        self.head = nn.Linear(width, 5, bias=False)
        self.head.weight = self.table.weight
        self.norm = nn.BatchNorm1d(width)


class Apart(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.words = nn.Embedding(5, width)
        self.out = nn.Linear(width, 5, bias=False)
        self.out.weight = self.words.weight
        self.norm = nn.BatchNorm1d(width)
        self.register_buffer("steps", torch.arange(width).float(), persistent=False)


PAIR = [
    (("q.{leaf}", "k.{leaf}", "v.{leaf}"), "qkv.{leaf}", SPLIT),
    ("words.weight", "table.weight"),
    ("out.weight", "head.weight"),
    ("norm.{leaf}", "norm.{leaf}"),
]


def test_copy_weights_keeps_dtypes_flags_mode_and_ties():
    source, target = Fused().bfloat16().eval(), Apart()
    source.norm.float()
    source.qkv.bias.requires_grad_(False)
    copy_weights(source, target, PAIR, "ours")
    assert not target.training
    assert target.k.weight.dtype == torch.bfloat16 and target.norm.running_var.dtype == torch.float
    assert target.norm.num_batches_tracked.dtype == torch.int64
    assert not target.k.bias.requires_grad and target.k.weight.requires_grad
    assert target.out.weight is target.words.weight
    assert target.q.weight.is_contiguous()
    assert target.q.weight.untyped_storage().data_ptr() != source.qkv.weight.data_ptr()

    back = Fused()
    copy_weights(target, back, PAIR, "theirs")
    assert back.head.weight is back.table.weight
    assert not back.qkv.bias.requires_grad
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name])


def test_copy_weights_moves_buffers_that_are_not_saved():
    target = Apart()
    copy_weights(Fused().double(), target, PAIR, "ours")
    assert target.steps.dtype == torch.float64


def test_copy_weights_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"'q.weight' must have shape \(3, 3\), got \(4, 4\)"):
        copy_weights(Fused(), Apart(3), PAIR, "ours")
    with pytest.raises(ValueError, match=r"only one of ours and the table has 'out.weight'"):
        target = Apart()
        del target.out
        copy_weights(Fused(), target, PAIR, "ours")
