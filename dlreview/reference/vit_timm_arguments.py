"""The arguments with which timm's VisionTransformer is one of our networks."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from torch import nn

from dlreview.nn.feed_forward import SwiGLU
from dlreview.nn.identity import Identity
from dlreview.nn.norm import RMSNorm
from dlreview.nn.patch_embedding import as_pair
from dlreview.nn.pooling import AttentionPooling, ClassToken, EveryToken, RefinedPooling
from dlreview.nn.positions import LearnedPositions
from dlreview.nn.transformer import Block, BranchNormBlock
from dlreview.nn.vit import ViT
from dlreview.reference.activation import to_timm
from dlreview.reference.timm_parts import POOLINGS

POOLING_NAMES = {cls: name for name, cls in POOLINGS.items()} | {
    EveryToken: "",
    ClassToken: "token",
    AttentionPooling: "map",
    RefinedPooling: "prr",
}


def _require(condition: bool, feature: str) -> None:
    if not condition:
        raise ValueError(f"timm's VisionTransformer has no {feature}")


def check_block(block: Any) -> None:
    """Refuse a block that timm does not have.

    Raises:
        ValueError: names what timm lacks.
    """
    attention, network = block.attention, block.feed_forward
    _require(type(block) in (Block, BranchNormBlock), type(block).__name__)
    _require(attention.head_width in (None, block.width // block.heads), "head_width")
    _require(attention.scale is None, "scale of attention")
    both = (attention.query_norm is None) == (attention.key_norm is None)
    _require(both, "norm of keys or queries only")
    _require(attention.output_bias == network.bias, "bias in only one layer of a block")
    _require(type(block) is Block or block.layer_scale is None, "layer scale in BranchNormBlock")


def check_network(ours: ViT, poolings: Mapping[type, str]) -> None:
    """Refuse parts outside the blocks that timm does not have.

    Raises:
        ValueError: names what timm lacks.
    """
    embedding, positions, pooling = ours.embedding, ours.positions, type(ours.pooling)
    _require(not ours.mask_token, "mask token")
    biased = "input norm after patches with bias, nor patches without both"
    _require(embedding.bias == (ours.input_norm is None), biased)
    one_norm = ours.head_norm is None or isinstance(ours.norm, Identity)
    _require(one_norm, "network with both norm and head_norm")
    _require(pooling in poolings, pooling.__name__)
    if isinstance(positions, LearnedPositions):
        known = positions.prefix in (0, ours.prefix)
        _require(known, f"positions for {positions.prefix} of {ours.prefix} special tokens")
        grid = embedding.grid(*as_pair(ours.image_size, "image_size"))
        _require(tuple(positions.grid) == grid, "positions for another grid than the image's")


def norm_layer_of(norms: Iterable[Any]) -> Any:
    """Return timm's class for `norms`, which must all be of one kind, with its arguments bound."""
    from timm.layers import LayerNorm as TimmLayerNorm
    from timm.layers import RmsNorm

    used = [norm for norm in norms if norm is not None and not isinstance(norm, Identity)]
    kinds = {(type(n), n.eps, n.affine, getattr(n, "offset", True) or not n.affine) for n in used}
    _require(len(kinds) == 1, f"norms of several kinds: {kinds}")
    ((kind, eps, affine, offset),) = kinds
    if kind is RMSNorm and eps is None:  # timm's class needs a number, torch's does not
        return partial(nn.RMSNorm, eps=None, elementwise_affine=affine)
    if kind is RMSNorm:
        return partial(RmsNorm, eps=eps, affine=affine)
    return partial(TimmLayerNorm, eps=eps, affine=affine, **({} if offset else {"bias": False}))


def mlp_arguments(ours: ViT) -> dict[str, Any]:
    """Return timm's arguments for the feed-forward networks of blocks and pooling."""
    from timm.layers import GluMlp, Mlp
    from timm.layers import SwiGLU as TimmSwiGLU

    network: Any = ours.encoder.blocks[0].feed_forward
    hidden, layer = network.hidden_width, Mlp
    if isinstance(network, SwiGLU) and network.packed:
        hidden, layer = 2 * hidden, partial(GluMlp, gate_last=network.gate_last)
    elif isinstance(network, SwiGLU):
        # timm rounds this width up to a multiple of `align_to`, so that the ratio may be that of
        # the pooling's network, which has another width.
        layer = partial(TimmSwiGLU, align_to=hidden)
    if isinstance(ours.pooling, AttentionPooling):
        hidden = ours.pooling.feed_forward.hidden_width
    ratio = hidden / ours.width
    return {
        # timm computes int(width * mlp_ratio).
        "mlp_ratio": ratio if int(ours.width * ratio) == ours.width * ratio else ratio + 1e-6,
        "scale_mlp_norm": network.norm is not None,
        "proj_bias": network.bias,
        "act_layer": to_timm(network.activation),
        "mlp_layer": layer,
    }


def block_arguments(ours: ViT) -> dict[str, Any]:
    """Return timm's arguments for the blocks, except their feed-forward networks and norms."""
    from timm.models.vision_transformer import Block as TimmBlock
    from timm.models.vision_transformer import ResPostBlock

    block: Any = ours.encoder.blocks[0]
    attention = block.attention
    rates = ours.drop_path if isinstance(ours.drop_path, list) else [ours.drop_path]
    return {
        "block_fn": TimmBlock if type(block) is Block else ResPostBlock,
        "qkv_bias": attention.bias,
        "qk_norm": attention.query_norm is not None,
        "scale_attn_norm": attention.output_norm is not None,
        "init_values": None if block.layer_scale is None else block.layer_scale or 1e-5,
        "proj_drop_rate": block.dropout,
        "attn_drop_rate": attention.dropout,
        "drop_path_rate": rates[-1],
    }


def token_arguments(ours: ViT) -> dict[str, Any]:
    """Return timm's arguments for images, patches, special tokens and positions."""
    embedding, positions = ours.embedding, ours.positions
    norm = embedding.norm
    return {
        "img_size": as_pair(ours.image_size, "image_size"),
        "patch_size": as_pair(ours.patch_size, "patch_size"),
        "in_chans": ours.image_channels,
        "class_token": ours.class_token,
        "reg_tokens": ours.registers,
        "pos_embed": "learn" if isinstance(positions, LearnedPositions) else "none",
        "no_embed_class": getattr(positions, "prefix", ours.prefix) == 0 and ours.prefix > 0,
        # Like ours, timm's network then takes other image sizes, if they are divisible by patches.
        "dynamic_img_size": embedding.remainder != "crop",
        "dynamic_img_pad": embedding.remainder == "pad",
        "embed_norm_layer": None if norm is None else norm_layer_of([norm]),
        "pos_drop_rate": getattr(positions, "dropout", 0.0),
        "patch_drop_rate": ours.drop_tokens,
    }


def arguments(ours: ViT, poolings: Mapping[type, str] = POOLING_NAMES) -> dict[str, Any]:
    """Return the arguments with which timm's VisionTransformer is `ours`.

    `poolings` has timm's names for the poolings that may be used. Dropout rates that timm cannot
    express are omitted: they do not change what was learned.

    Raises:
        ValueError: there are none; names what timm lacks.
    """
    block: Any = ours.encoder.blocks[0]
    check_block(block)
    check_network(ours, poolings)
    attention, pooling = block.attention, ours.pooling
    norms = [block.attention_norm, block.feed_forward_norm, ours.norm, ours.head_norm]
    norms += [ours.input_norm, attention.query_norm, attention.key_norm, attention.output_norm]
    norms += [block.feed_forward.norm, getattr(pooling, "norm", None)]
    network = {
        "num_classes": ours.num_classes or 0,
        "global_pool": poolings[type(pooling)],
        "pool_include_prefix": getattr(pooling, "include_prefix", False),
        "embed_dim": ours.width,
        "depth": ours.depth,
        "num_heads": ours.heads,
        "pre_norm": ours.input_norm is not None,
        "final_norm": not (isinstance(ours.norm, Identity) and ours.head_norm is None),
        "fc_norm": ours.head_norm is not None,
        "norm_layer": norm_layer_of(norms),
        "drop_rate": ours.head_dropout,
        "weight_init": "skip",
    }
    return token_arguments(ours) | block_arguments(ours) | mlp_arguments(ours) | network
