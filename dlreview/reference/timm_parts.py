"""Our norms, feed-forward networks, blocks and poolings, built from the modules of timm's ViT."""

from typing import Any

from torch import nn

from dlreview.nn.attention import MultiHeadAttention
from dlreview.nn.feed_forward import FeedForward, SwiGLU
from dlreview.nn.norm import LayerNorm, RMSNorm
from dlreview.nn.pooling import (
    AttentionPooling,
    ClassToken,
    EveryToken,
    Max,
    Mean,
    MeanMax,
    RefinedPooling,
)
from dlreview.nn.transformer import Block, BranchNormBlock
from dlreview.reference.activation import from_module

POOLINGS = {"avg": Mean, "max": Max, "avgmax": MeanMax}
BLOCKS = {"Block": Block, "ResPostBlock": BranchNormBlock}


def norm_from_module(module: Any, field: str = "norm_layer") -> LayerNorm | RMSNorm:
    """Build our norm from one of torch.nn or timm.layers.

    Raises:
        ValueError: it is neither a layer norm nor an RMS norm over the width.
    """
    kind = type(module).__name__
    if kind not in ("LayerNorm", "RmsNorm", "RMSNorm") or len(module.normalized_shape) != 1:
        raise ValueError(f"{field}={module} is not supported; supported: LayerNorm, RmsNorm")
    (width,) = module.normalized_shape
    affine = module.weight is not None
    if kind == "LayerNorm":
        return LayerNorm(width, module.eps, affine, affine and module.bias is not None)
    return RMSNorm(width, module.eps, affine)


def optional_norm(module: Any) -> LayerNorm | RMSNorm | None:
    """Build our norm; return None for an identity."""
    return None if isinstance(module, nn.Identity) else norm_from_module(module)


def feed_forward_from_module(mlp: Any) -> FeedForward | SwiGLU:
    """Build our feed-forward network.

    Raises:
        ValueError: its class is not supported.
    """
    kind = type(mlp).__name__
    if kind not in ("Mlp", "GluMlp", "SwiGLU"):
        raise ValueError(f"mlp_layer={kind} is not supported; supported: Mlp, GluMlp, SwiGLU")
    arguments: dict[str, Any] = {
        "width": mlp.fc2.out_features,
        "hidden_width": mlp.fc2.in_features,
        "activation": from_module(mlp.act),
        "bias": mlp.fc2.bias is not None,
        "dropout": float(mlp.drop1.p),
        "norm": optional_norm(mlp.norm),
    }
    if kind == "Mlp":
        return FeedForward(**arguments)
    packed = kind == "GluMlp"
    return SwiGLU(**arguments, packed=packed, gate_last=packed and mlp.gate_last)


def block_from_module(theirs: Any) -> Block:
    """Build our block.

    Raises:
        ValueError: its class, or that of its attention, is not supported.
    """
    kind, attn = type(theirs).__name__, getattr(theirs, "attn", None)
    if kind not in BLOCKS:
        raise ValueError(f"block_fn={kind} is not supported; supported: {', '.join(BLOCKS)}")
    if attn is None or type(attn).__name__ != "Attention":
        raise ValueError(f"attn_layer={type(attn).__name__} is not supported; supported: Attention")
    width = attn.proj.out_features
    attention = MultiHeadAttention(
        width,
        attn.num_heads,
        bias=attn.qkv.bias is not None,
        output_bias=attn.proj.bias is not None,
        dropout=float(attn.attn_drop.p),
        query_norm=optional_norm(attn.q_norm),
        key_norm=optional_norm(attn.k_norm),
        output_norm=optional_norm(attn.norm),
    )
    scale = getattr(getattr(theirs, "ls1", None), "init_values", None)
    return BLOCKS[kind](
        width,
        attn.num_heads,
        attention=attention,
        feed_forward=feed_forward_from_module(theirs.mlp),
        attention_norm=norm_from_module(theirs.norm1),
        feed_forward_norm=norm_from_module(theirs.norm2),
        layer_scale=None if scale is None else float(scale),
        dropout=float(attn.proj_drop.p),
    )


def pooling_from_module(theirs: Any) -> nn.Module:
    """Build our pooling from that of a whole network of timm."""
    pool, kind, include_prefix = theirs.attn_pool, theirs.global_pool, theirs.pool_include_prefix
    if kind == "map":
        feed_forward = feed_forward_from_module(pool.mlp)
        assert isinstance(feed_forward, FeedForward)
        norm = norm_from_module(pool.norm)
        return AttentionPooling(
            theirs.embed_dim, pool.num_heads, norm, feed_forward, include_prefix
        )
    if kind == "prr":
        inner = ClassToken() if pool.pool == "token" else Mean(include_prefix=True)
        return RefinedPooling(pool.num_heads, inner)
    if kind in POOLINGS:
        return POOLINGS[kind](include_prefix)
    return ClassToken() if kind == "token" else EveryToken()
