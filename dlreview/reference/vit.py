"""timm's VisionTransformer.

Left out: blocks other than `Block` and `ResPostBlock`, differential attention, embeddings other
than `PatchEmbed`, feed-forward layers other than `Mlp`, `GluMlp` and `SwiGLU`.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import nn

from dlreview.nn.attention import MultiHeadAttention
from dlreview.nn.feed_forward import FeedForward, SwiGLU
from dlreview.nn.identity import Identity
from dlreview.nn.norm import LayerNorm, RMSNorm
from dlreview.nn.patch_embedding import PatchEmbedding, as_pair
from dlreview.nn.pooling import (
    AttentionPooling,
    ClassToken,
    EveryToken,
    Max,
    Mean,
    MeanMax,
    RefinedPooling,
)
from dlreview.nn.positions import LearnedPositions, NoPositions
from dlreview.nn.transformer import Block, BranchNormBlock
from dlreview.nn.vit import ViT
from dlreview.reference import Example, Map
from dlreview.reference.activation import from_module, to_timm
from dlreview.reference.weights import SPLIT, Op, Rule, split

FIRST = Op(lambda theirs: theirs[0], lambda ours: ours[None])  # they keep a batch axis
# Names of timm's registry, one for each kind of norm, block and feed-forward layer.
REGISTERED = [
    "vit_base_patch16_224",
    "vit_base_patch16_clip_224",
    "vit_base_patch16_rpn_224",
    "vit_giant_patch14_dinov2",
    "aimv2_large_patch14_224",
]
POOLINGS = {"avg": Mean, "max": Max, "avgmax": MeanMax}


def unpair(size: Iterable[int]) -> int | list[int]:
    """Write (height, width) as one number when they agree."""
    height, width = size
    return height if height == width else [height, width]


def patch_rules(embedding: PatchEmbedding, theirs: str) -> list[Rule]:
    """Pair our projection of a flat patch with their convolution called `theirs`."""
    channels, p, q = embedding.image_channels, embedding.patch_height, embedding.patch_width
    kernel = Op(
        lambda w: rearrange(w, "d c p q -> d (c p q)"),
        lambda w: rearrange(w, "d (c p q) -> d c p q", c=channels, p=p, q=q),
    )
    return [
        ("embedding.E.weight", f"{theirs}.weight", kernel),
        ("embedding.E.bias", f"{theirs}.bias"),
    ]


def norm_from_module(module: Any, field: str = "norm_layer") -> LayerNorm | RMSNorm:
    """Compose a norm of torch.nn or timm.layers.

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


def _norm(module: Any) -> LayerNorm | RMSNorm | None:
    return None if isinstance(module, nn.Identity) else norm_from_module(module)


def _feed_forward(mlp: Any) -> FeedForward | SwiGLU:
    kind = type(mlp).__name__
    if kind not in ("Mlp", "GluMlp", "SwiGLU"):
        raise ValueError(f"mlp_layer={kind} is not supported; supported: Mlp, GluMlp, SwiGLU")
    width, bias = mlp.fc2.out_features, mlp.fc2.bias is not None
    shared: dict[str, Any] = {
        "activation": from_module(mlp.act),
        "bias": bias,
        "dropout": float(mlp.drop1.p),
    }
    hidden, norm = mlp.fc2.in_features, _norm(mlp.norm)
    if kind == "Mlp":
        return FeedForward(width, hidden, norm=norm, **shared)
    packed = kind == "GluMlp"
    return SwiGLU(
        width, hidden, norm=norm, packed=packed, gate_last=packed and mlp.gate_last, **shared
    )


def _block(theirs: Any) -> Block:
    kinds = {"Block": Block, "ResPostBlock": BranchNormBlock}
    kind, attn = type(theirs).__name__, getattr(theirs, "attn", None)
    if kind not in kinds:
        raise ValueError(f"block_fn={kind} is not supported; supported: {', '.join(kinds)}")
    if attn is None or type(attn).__name__ != "Attention":
        raise ValueError(f"attn_layer={type(attn).__name__} is not supported; supported: Attention")
    width = attn.proj.out_features
    attention = MultiHeadAttention(
        width,
        attn.num_heads,
        bias=attn.qkv.bias is not None,
        output_bias=attn.proj.bias is not None,
        dropout=float(attn.attn_drop.p),
        query_norm=_norm(attn.q_norm),
        key_norm=_norm(attn.k_norm),
        output_norm=_norm(attn.norm),
    )
    scale = getattr(getattr(theirs, "ls1", None), "init_values", None)
    return kinds[kind](
        width,
        attn.num_heads,
        attention=attention,
        feed_forward=_feed_forward(theirs.mlp),
        attention_norm=norm_from_module(theirs.norm1),
        feed_forward_norm=norm_from_module(theirs.norm2),
        layer_scale=None if scale is None else float(scale),
        dropout=float(attn.proj_drop.p),
    )


def _pooling(theirs: Any) -> nn.Module:
    pool, kind, everything = theirs.attn_pool, theirs.global_pool, theirs.pool_include_prefix
    if kind == "map":
        feed_forward = _feed_forward(pool.mlp)
        assert isinstance(feed_forward, FeedForward)
        return AttentionPooling(
            theirs.embed_dim, pool.num_heads, norm_from_module(pool.norm), feed_forward, everything
        )
    if kind == "prr":
        inner = ClassToken() if pool.pool == "token" else Mean(include_prefix=True)
        return RefinedPooling(pool.num_heads, inner)
    if kind in POOLINGS:
        return POOLINGS[kind](everything)
    return ClassToken() if kind == "token" else EveryToken()


def build_ours(theirs: Any) -> ViT:
    """Compose ours from the modules of theirs.

    Raises:
        ValueError: a part of theirs is not supported; its argument is named.
    """
    patches = theirs.patch_embed
    if type(patches).__name__ != "PatchEmbed":
        raise ValueError(f"embed_layer={type(patches).__name__} is not supported: use PatchEmbed")
    block = _block(theirs.blocks[0])
    width, grid = theirs.embed_dim, patches.grid_size
    over = [size % patch for size, patch in zip(patches.img_size, patches.patch_size, strict=True)]
    rates = [float(getattr(block.drop_path1, "drop_prob", 0.0)) for block in theirs.blocks]
    even = torch.linspace(0, rates[-1], len(rates)).tolist()
    prefix = 0 if theirs.no_embed_class else theirs.num_prefix_tokens
    return ViT(
        image_size=unpair(patches.img_size),
        patch_size=unpair(patches.patch_size),
        width=width,
        depth=len(theirs.blocks),
        heads=block.heads,
        num_classes=theirs.num_classes,
        image_channels=patches.proj.in_channels,
        class_token=theirs.cls_token is not None,
        registers=theirs.num_reg_tokens,
        embedding=PatchEmbedding(
            unpair(patches.patch_size),
            width,
            patches.proj.in_channels,
            bias=patches.proj.bias is not None,
            remainder="pad" if patches.dynamic_img_pad else "crop" if any(over) else "error",
            norm=_norm(patches.norm),
        ),
        positions=NoPositions()
        if theirs.pos_embed is None
        else LearnedPositions(list(grid), width, prefix, float(theirs.pos_drop.p)),
        input_norm=_norm(theirs.norm_pre),
        block=block,
        norm=_norm(theirs.norm) or Identity(),
        pooling=_pooling(theirs),
        head_norm=_norm(theirs.fc_norm),
        drop_path=rates[-1] if rates == even else rates,
        drop_tokens=float(getattr(theirs.patch_drop, "prob", 0.0)),
        head_dropout=float(theirs.head_drop.p),
    )


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"timm's VisionTransformer has no {what}")


def _norm_layer(norms: Iterable[Any]) -> Any:
    """Find the one kind of norm that timm uses everywhere."""
    from timm.layers import LayerNorm as TimmLayerNorm
    from timm.layers import RmsNorm

    used = [norm for norm in norms if norm is not None and not isinstance(norm, Identity)]
    kinds = {(type(n), n.eps, n.affine, getattr(n, "offset", True) or not n.affine) for n in used}
    _need(len(kinds) == 1, f"norms of several kinds: {kinds}")
    ((kind, eps, affine, offset),) = kinds
    if kind is RMSNorm and eps is None:  # the smallest step of the dtype, as torch has it
        return partial(nn.RMSNorm, eps=None, elementwise_affine=affine)
    if kind is RMSNorm:
        return partial(RmsNorm, eps=eps, affine=affine)
    return partial(TimmLayerNorm, eps=eps, affine=affine, **({} if offset else {"bias": False}))


def arguments(ours: ViT) -> dict[str, Any]:
    """Give the arguments of timm's VisionTransformer that make it `ours`.

    Rates of dropout that timm cannot set so are left out: they do not change what was learned.

    Raises:
        ValueError: there are none; what timm lacks is named.
    """
    from timm.layers import GluMlp, Mlp
    from timm.layers import SwiGLU as TimmSwiGLU
    from timm.models.vision_transformer import Block as TimmBlock
    from timm.models.vision_transformer import ResPostBlock

    block: Any = ours.encoder.blocks[0]
    embedding, positions = ours.embedding, ours.positions
    attention, network, pooling = block.attention, block.feed_forward, ours.pooling
    _need(type(block) in (Block, BranchNormBlock), f"{type(block).__name__}")
    _need(not ours.mask_token, "mask token")
    _need(attention.head_width in (None, ours.width // ours.heads), "head_width")
    _need(attention.scale is None, "scale of attention")
    _need((attention.query_norm is None) == (attention.key_norm is None), "norm of keys only")
    _need(attention.output_bias == network.bias, "bias of one layer of a block only")
    _need(
        embedding.bias == (ours.input_norm is None), "input norm after biased patches, or neither"
    )
    _need(ours.head_norm is None or isinstance(ours.norm, Identity), "norm both of tokens and head")
    _need(type(block) is Block or block.layer_scale is None, "layer scale after BranchNormBlock")
    kind = type(pooling)
    names = {EveryToken: "", ClassToken: "token", AttentionPooling: "map", RefinedPooling: "prr"}
    names |= {cls: name for name, cls in POOLINGS.items()}
    _need(kind in names, f"{kind.__name__}")
    if isinstance(positions, LearnedPositions):
        special = positions.prefix in (0, ours.prefix)
        _need(special, f"positions for {positions.prefix} of {ours.prefix} special tokens")
        _need(tuple(positions.grid) == embedding.grid(*as_pair(ours.image_size, "")), "other grid")
    hidden, layer = network.hidden_width, Mlp
    if isinstance(network, SwiGLU) and network.packed:
        hidden, layer = 2 * hidden, partial(GluMlp, gate_last=network.gate_last)
    elif isinstance(network, SwiGLU):
        # Rounding up to a multiple of itself leaves the pooling a network of another size.
        layer = partial(TimmSwiGLU, align_to=hidden)
    if isinstance(pooling, AttentionPooling):
        hidden = pooling.feed_forward.hidden_width
    ratio = hidden / ours.width
    norms = [block.attention_norm, block.feed_forward_norm, ours.norm, ours.head_norm]
    norms += [ours.input_norm, attention.query_norm, attention.key_norm, attention.output_norm]
    norms += [network.norm, getattr(pooling, "norm", None)]
    rates = ours.drop_path if isinstance(ours.drop_path, list) else [ours.drop_path]
    return {
        "img_size": as_pair(ours.image_size, "image_size"),
        "patch_size": as_pair(ours.patch_size, "patch_size"),
        "in_chans": ours.image_channels,
        "num_classes": ours.num_classes or 0,
        "global_pool": names[kind],
        "embed_dim": ours.width,
        "depth": ours.depth,
        "num_heads": ours.heads,
        # timm takes int(width * mlp_ratio)
        "mlp_ratio": ratio if int(ours.width * ratio) == ours.width * ratio else ratio + 1e-6,
        "qkv_bias": attention.bias,
        "qk_norm": attention.query_norm is not None,
        "scale_attn_norm": attention.output_norm is not None,
        "scale_mlp_norm": network.norm is not None,
        "proj_bias": network.bias,
        "init_values": None if block.layer_scale is None else block.layer_scale or 1e-5,
        "class_token": ours.class_token,
        "reg_tokens": ours.registers,
        "pos_embed": "learn" if isinstance(positions, LearnedPositions) else "none",
        "no_embed_class": getattr(positions, "prefix", ours.prefix) == 0 and ours.prefix > 0,
        "pre_norm": ours.input_norm is not None,
        "final_norm": not (isinstance(ours.norm, Identity) and ours.head_norm is None),
        "fc_norm": ours.head_norm is not None,
        "pool_include_prefix": getattr(pooling, "include_prefix", False),
        # Like ours, take images of other sizes too; this wants sizes that patches cover.
        "dynamic_img_size": embedding.remainder != "crop",
        "dynamic_img_pad": embedding.remainder == "pad",
        "drop_rate": ours.head_dropout,
        "pos_drop_rate": getattr(positions, "dropout", 0.0),
        "patch_drop_rate": ours.drop_tokens,
        "proj_drop_rate": block.dropout,
        "attn_drop_rate": attention.dropout,
        "drop_path_rate": rates[-1],
        "weight_init": "skip",
        "embed_norm_layer": None if embedding.norm is None else _norm_layer([embedding.norm]),
        "norm_layer": _norm_layer(norms),
        "act_layer": to_timm(network.activation),
        "block_fn": TimmBlock if type(block) is Block else ResPostBlock,
        "mlp_layer": layer,
    }


def build_theirs(ours: ViT) -> Any:
    """Make timm's network of the sizes and parts of ours."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(**arguments(ours))


def fits(ours: ViT) -> bool:
    """Tell whether timm can express `ours`."""
    try:
        arguments(ours)
    except ValueError:
        return False
    return True


def table(ours: ViT) -> list[Rule]:
    """Pair the names of the weights."""
    parts = {"attention.W_o": "attn.proj"}
    parts |= {"attention_norm": "norm1", "feed_forward_norm": "norm2"}
    parts |= {f"attention.{n}_norm": f"attn.{n[0]}_norm" for n in ("query", "key")}
    parts |= {"attention.output_norm": "attn.norm", "feed_forward.norm": "mlp.norm"}
    if isinstance(ours.encoder.blocks[0].feed_forward, FeedForward):
        parts |= {"feed_forward.W_1": "mlp.fc1", "feed_forward.W_2": "mlp.fc2"}
    else:
        parts |= {"feed_forward.W_gate": "mlp.fc1_g", "feed_forward.W_value": "mlp.fc1_x"}
        parts |= {"feed_forward.W_in": "mlp.fc1", "feed_forward.W_out": "mlp.fc2"}
    qkv = tuple(f"encoder.blocks.{{i}}.attention.W_{x}.{{leaf}}" for x in "qkv")
    whole = {"embedding.norm": "patch_embed.norm", "input_norm": "norm_pre", "norm": "norm"}
    whole |= {"head_norm": "fc_norm", "head": "head", "pooling.norm": "attn_pool.norm"}
    whole |= {f"pooling.attention.W_{x}": f"attn_pool.{y}" for x, y in (("q", "q"), ("o", "proj"))}
    whole |= {f"pooling.feed_forward.W_{n}": f"attn_pool.mlp.fc{n}" for n in (1, 2)}
    kv = ("pooling.attention.W_k.{leaf}", "pooling.attention.W_v.{leaf}")
    return [
        ("class_embedding", "cls_token"),
        ("register_embeddings", "reg_token"),
        ("positions.table", "pos_embed", FIRST),
        *patch_rules(ours.embedding, "patch_embed.proj"),
        *((f"{mine}.{{leaf}}", f"{theirs}.{{leaf}}") for mine, theirs in whole.items()),
        ("pooling.query", "attn_pool.latent"),
        (kv, "attn_pool.kv.{leaf}", split(2)),
        (qkv, "blocks.{i}.attn.qkv.{leaf}", SPLIT),
        ("encoder.blocks.{i}.attention_scale", "blocks.{i}.ls1.gamma"),
        ("encoder.blocks.{i}.feed_forward_scale", "blocks.{i}.ls2.gamma"),
        *(
            (f"encoder.blocks.{{i}}.{mine}.{{leaf}}", f"blocks.{{i}}.{theirs}.{{leaf}}")
            for mine, theirs in parts.items()
        ),
    ]


MAPS = [
    Map(
        ours="dlreview.nn.vit.ViT",
        theirs="timm.models.vision_transformer.VisionTransformer",
        library="timm",
        build_ours=build_ours,
        build_theirs=build_theirs,
        table=table,
        fits=fits,
        registry=lambda ours: (REGISTERED, arguments(ours)),
    )
]


def _example() -> Any:
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 6}
    return VisionTransformer(**sizes, num_classes=10)


EXAMPLES = [Example(_example, lambda: (torch.randn(8, 3, 32, 32, dtype=torch.float64),))]
