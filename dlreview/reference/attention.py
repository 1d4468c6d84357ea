"""torch.nn.MultiheadAttention. Ours is always batch first."""

from typing import Any

import torch
from torch import nn

from dlreview.nn.multihead_attention import MultiheadAttention
from dlreview.reference.maps import Example, Map
from dlreview.reference.weights import SPLIT, Rule


def build_ours(theirs: Any) -> MultiheadAttention:
    """Build ours."""
    width = theirs.embed_dim
    fused = theirs.in_proj_weight is not None
    ours = MultiheadAttention(
        width,
        theirs.num_heads,
        key_width=None if fused else theirs.kdim,
        value_width=None if fused else theirs.vdim,
        bias=theirs.in_proj_bias is not None,
        key_bias=theirs.bias_k is not None,
        zero_key=theirs.add_zero_attn,
        dropout=float(theirs.dropout),
    )
    ours.their_batch_first = theirs.batch_first
    return ours


def build_theirs(ours: Any) -> nn.MultiheadAttention:
    """Build theirs, batch first unless `ours` was made from one that is not."""
    return nn.MultiheadAttention(
        ours.width,
        ours.heads,
        dropout=ours.dropout,
        bias=ours.bias,
        add_bias_kv=ours.key_bias,
        add_zero_attn=ours.zero_key,
        kdim=ours.key_width,
        vdim=ours.value_width,
        batch_first=getattr(ours, "their_batch_first", True),
    )


def table(ours: MultiheadAttention) -> list[Rule]:
    """Pair the names of the weights: theirs has one matrix if all widths are equal."""
    weights = tuple(f"attention.W_{x}.weight" for x in "qkv")
    fused = all(width in (None, ours.width) for width in (ours.key_width, ours.value_width))
    return [
        *([(weights, "in_proj_weight", SPLIT)] if fused else []),
        *((f"attention.W_{x}.weight", f"{x}_proj_weight") for x in "qkv" if not fused),
        (tuple(f"attention.W_{x}.bias" for x in "qkv"), "in_proj_bias", SPLIT),
        ("attention.W_o.{leaf}", "out_proj.{leaf}"),
        ("b_k", "bias_k"),
        ("b_v", "bias_v"),
    ]


MAPS = [
    Map(
        ours="dlreview.nn.multihead_attention.MultiheadAttention",
        theirs="torch.nn.MultiheadAttention",
        library="torch",
        build_ours=build_ours,
        build_theirs=build_theirs,
        table=table,
    )
]

EXAMPLES = [
    Example(
        lambda: nn.MultiheadAttention(96, 6, batch_first=True),
        lambda: tuple(torch.randn(3, 8, 60, 96, dtype=torch.float64)),
    )
]
