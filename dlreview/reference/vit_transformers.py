"""transformers' ViT and DINOv2, with and without registers, and what they are the body of.

The weights have the names of transformers 5, or those of 4.x if that is installed.
"""

import importlib
import re
from functools import partial
from math import isqrt
from typing import Any

import torch
from einops import rearrange
from torch import nn

from dlreview.nn.attention import MultiHeadAttention
from dlreview.nn.feed_forward import FeedForward, SwiGLU
from dlreview.nn.norm import LayerNorm
from dlreview.nn.patch_decoder import PatchDecoder
from dlreview.nn.patch_embedding import PatchEmbedding, as_pair
from dlreview.nn.pooling import ClassAndMean, Pooler
from dlreview.nn.positions import LearnedPositions
from dlreview.nn.transformer import Block
from dlreview.nn.vit import ViT
from dlreview.reference.activation import from_transformers
from dlreview.reference.maps import Example, maps_of_classes
from dlreview.reference.patches import FIRST, patch_rules, unpair
from dlreview.reference.vit_transformers_config import (
    DINO,
    arguments,
    has_registers,
    is_classifier,
    swiglu_width,
)
from dlreview.reference.weights import CONV_AS_LINEAR, SAME, Op, Rule, split

# Where the class with a head keeps its body.
BODIES = {
    "ViTForImageClassification": "vit",
    "ViTForMaskedImageModeling": "vit",
    "Dinov2ForImageClassification": "dinov2",
    "Dinov2WithRegistersForImageClassification": "dinov2_with_registers",
}
MASK = Op(lambda m: rearrange(m, "1 d -> 1 1 d"), lambda m: rearrange(m, "1 1 d -> 1 d"))


def embedding_of(config: Any) -> PatchEmbedding:
    """Build our patch embedding."""
    patch_size = unpair(as_pair(config.patch_size, "patch_size"))
    return PatchEmbedding(patch_size, config.hidden_size, config.num_channels, remainder="crop")


def positions_of(config: Any, kind: str) -> LearnedPositions:
    """Build our positions.

    Raises:
        ValueError: DINOv2's images are neither square nor made of a square number of patches.
    """
    height, width = as_pair(config.image_size, "image_size")
    grid = embedding_of(config).grid(height, width)
    if kind in DINO and height != width:
        # Their class assumes that the table is one of a square grid.
        side = isqrt(grid[0] * grid[1])
        if side * side != grid[0] * grid[1]:
            raise ValueError(f"image_size={config.image_size}: {grid} patches are no square number")
        grid = (side, side)
    return LearnedPositions(
        list(grid),
        config.hidden_size,
        dropout=float(config.hidden_dropout_prob),
        antialias=has_registers(kind),
        in_float32=kind in DINO,
    )


def block_of(config: Any, dino: bool) -> Block:
    """Build our block.

    Raises:
        ValueError: the activation is not supported.
    """
    width, heads, eps = config.hidden_size, config.num_attention_heads, config.layer_norm_eps
    head_width = getattr(config, "head_dim", None) or width // heads
    attention = MultiHeadAttention(
        width,
        heads,
        head_width=None if head_width * heads == width else head_width,
        bias=config.qkv_bias,
        dropout=float(config.attention_probs_dropout_prob),
    )
    hidden = int(width * config.mlp_ratio) if dino else config.intermediate_size
    return Block(
        width,
        heads,
        attention=attention,
        feed_forward=SwiGLU(width, swiglu_width(hidden))
        if dino and config.use_swiglu_ffn
        else FeedForward(width, hidden, from_transformers(config.hidden_act)),
        attention_norm=LayerNorm(width, float(eps)),
        feed_forward_norm=LayerNorm(width, float(eps)),
        layer_scale=float(config.layerscale_value) if dino else None,
        dropout=0.0 if dino else float(config.hidden_dropout_prob),
        drop_path=float(config.drop_path_rate) if dino else 0.0,
    )


def pooling_of(theirs: Any, kind: str) -> nn.Module | None:
    """Build our pooling; None stands for the class token.

    Raises:
        ValueError: the activation of their pooler is not supported.
    """
    config = theirs.config
    if kind == "ViTForMaskedImageModeling":
        return PatchDecoder(config.hidden_size, config.encoder_stride, config.num_channels)
    if kind in DINO:
        return ClassAndMean(config.hidden_size) if is_classifier(kind) else None
    if getattr(theirs, "pooler", None) is None:
        return None
    activation = from_transformers(config.pooler_act, "pooler_act")
    return Pooler(config.hidden_size, theirs.pooler.dense.out_features, activation)


def build_ours(theirs: Any) -> ViT:
    """Build ours from the configuration and the parts of theirs.

    Raises:
        ValueError: see `positions_of`, `block_of` and `pooling_of`.
    """
    kind, config = type(theirs).__name__, theirs.config
    body = getattr(theirs, BODIES[kind]) if kind in BODIES else theirs
    return ViT(
        image_size=unpair(as_pair(config.image_size, "image_size")),
        patch_size=unpair(as_pair(config.patch_size, "patch_size")),
        width=config.hidden_size,
        depth=config.num_hidden_layers,
        heads=config.num_attention_heads,
        num_classes=theirs.num_labels if is_classifier(kind) else None,
        image_channels=config.num_channels,
        registers=getattr(config, "num_register_tokens", 0),
        mask_token=body.embeddings.mask_token is not None,
        embedding=embedding_of(config),
        positions=positions_of(config, kind),
        block=block_of(config, kind in DINO),
        norm=LayerNorm(config.hidden_size, float(config.layer_norm_eps)),
        pooling=pooling_of(theirs, kind),
    )


def build_theirs(ours: ViT, kind: str) -> Any:
    """Build the class `kind` of transformers with the sizes and parts of ours."""
    import transformers

    config = arguments(ours, kind)
    cls = getattr(transformers, kind)
    made = cls.config_class(**config)
    if kind == "ViTModel":
        pooler = isinstance(ours.pooling, Pooler)
        return cls(made, add_pooling_layer=pooler, use_mask_token=ours.mask_token)
    return cls(made)


def fits(ours: ViT, kind: str) -> bool:
    """Return whether the class `kind` of transformers can express `ours`."""
    try:
        arguments(ours, kind)
    except ValueError:
        return False
    return True


def has_old_names(kind: str) -> bool:
    """Return whether the installed transformers names weights as 4.x did."""
    prefix = re.sub("(Model|For[A-Z].*)$", "", kind)
    name = {"Dinov2": "dinov2", "Dinov2WithRegisters": "dinov2_with_registers"}.get(prefix, "vit")
    module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    return any(hasattr(module, f"{start}SelfAttention") for start in ("ViT", prefix))


def decoder_or_pooler(ours: ViT) -> list[Rule]:
    """Pair the names of the pooling's weights."""
    if not isinstance(ours.pooling, PatchDecoder):
        return [("pooling.W.{leaf}", "pooler.dense.{leaf}")]
    return [
        ("pooling.W.weight", "decoder.0.weight", CONV_AS_LINEAR),
        ("pooling.W.bias", "decoder.0.bias"),
    ]


def table(ours: ViT, kind: str, old_names: bool | None = None) -> list[Rule]:
    """Pair the names of the weights with those of transformers 5, or 4.x if `old_names`."""
    old = has_old_names(kind) if old_names is None else old_names
    dino, body = kind in DINO, f"{BODIES[kind]}." if kind in BODIES else ""
    layer = f"{body}encoder.layer.{{i}}" if dino or old else f"{body}layers.{{i}}"
    projections = ("q_proj", "k_proj", "v_proj", "o_proj")
    if old:
        projections = ("attention.query", "attention.key", "attention.value", "output.dense")
    parts = {
        f"attention.W_{x}": f"attention.{name}" for x, name in zip("qkvo", projections, strict=True)
    }
    norms = ("norm1", "norm2") if dino else ("layernorm_before", "layernorm_after")
    parts |= {"attention_norm": norms[0], "feed_forward_norm": norms[1]}
    outer = ("intermediate.dense", "output.dense") if old and not dino else ("mlp.fc1", "mlp.fc2")
    parts |= {"feed_forward.W_1": outer[0], "feed_forward.W_2": outer[1]}
    gates = tuple(f"encoder.blocks.{{i}}.feed_forward.W_{x}.{{leaf}}" for x in ("gate", "value"))
    gated: list[Rule]
    if old:
        parts["feed_forward.W_out"] = "mlp.weights_out"
        gated = [(gates, f"{layer}.mlp.weights_in.{{leaf}}", split(2))]
    else:
        parts["feed_forward.W_out"] = "mlp.down_proj"
        parts |= {"feed_forward.W_gate": "mlp.gate_proj", "feed_forward.W_value": "mlp.up_proj"}
        gated = []
    return [
        ("class_embedding", f"{body}embeddings.cls_token"),
        ("register_embeddings", f"{body}embeddings.register_tokens"),
        ("mask_embedding", f"{body}embeddings.mask_token", MASK if dino else SAME),
        ("positions.table", f"{body}embeddings.position_embeddings", FIRST),
        *patch_rules(ours.embedding, f"{body}embeddings.patch_embeddings.projection"),
        *(
            (f"encoder.blocks.{{i}}.{mine}.{{leaf}}", f"{layer}.{theirs}.{{leaf}}")
            for mine, theirs in parts.items()
        ),
        *gated,
        ("encoder.blocks.{i}.attention_scale", f"{layer}.layer_scale1.lambda1"),
        ("encoder.blocks.{i}.feed_forward_scale", f"{layer}.layer_scale2.lambda1"),
        ("norm.{leaf}", f"{body}layernorm.{{leaf}}"),
        *decoder_or_pooler(ours),
        ("head.{leaf}", "classifier.{leaf}"),
    ]


IN_TIMM = "timm has this architecture in a class that is supported, for example "
REFUSED = {
    "transformers.ViTMAE": f"{IN_TIMM}'vit_base_patch16_224.mae'",
    "transformers.SiglipVision": f"{IN_TIMM}'vit_base_patch16_siglip_224.webli'",
    "transformers.CLIPVision": f"{IN_TIMM}'vit_base_patch16_clip_224.openai'",
    "transformers.DeiT": f"{IN_TIMM}'deit_base_distilled_patch16_224.fb_in1k'",
    "transformers.Beit": "its attention has relative positions, which our blocks lack; the "
    "nearest class is transformers.ViTModel",
    "transformers.DINOv3ViT": "its attention has rotary positions, which our blocks lack; "
    "the nearest class is transformers.Dinov2WithRegistersModel",
}
KINDS = ("ViTModel", "ViTForImageClassification", "ViTForMaskedImageModeling", *DINO)
MAPS = maps_of_classes("dlreview.nn.vit.ViT", KINDS, build_ours, build_theirs, table, fits)


def _example(kind: str) -> Any:
    import transformers

    cls = getattr(transformers, kind)
    sizes = {"image_size": 32, "patch_size": 4, "hidden_size": 96, "num_attention_heads": 6}
    sizes |= {"num_hidden_layers": 4, "intermediate_size": 384}
    config = cls.config_class(**sizes | ({} if kind in DINO else {"encoder_stride": 4}))
    config._attn_implementation = "sdpa"  # the softmax of "eager" is in float32
    return cls(config)


def _call_ours(net: Any, images: Any) -> Any:
    if net.num_classes is not None or isinstance(net.pooling, PatchDecoder):
        return net(images)
    tokens = net.tokens(images)
    return tokens, net.pooling(tokens, net.prefix)


def _call_theirs(net: Any, images: Any) -> Any:
    output = net(images)
    for name in ("logits", "reconstruction"):
        if hasattr(output, name):
            return getattr(output, name)
    return output.last_hidden_state, output.pooler_output


EXAMPLES = [
    Example(
        partial(_example, kind),
        lambda: (torch.randn(8, 3, 32, 32, dtype=torch.float64),),
        _call_ours,
        _call_theirs,
    )
    for kind in KINDS
]
