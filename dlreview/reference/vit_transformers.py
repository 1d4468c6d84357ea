"""transformers' ViTModel, ViTForImageClassification, Dinov2Model and Dinov2WithRegistersModel.

Keys are those of transformers 5, or of 4.x when that is installed.
"""

import importlib
from collections.abc import Callable
from functools import partial
from math import isqrt
from typing import Any

import torch
from einops import rearrange

from dlreview.nn.attention import MultiHeadAttention
from dlreview.nn.feed_forward import FeedForward, SwiGLU
from dlreview.nn.norm import LayerNorm
from dlreview.nn.patch_embedding import PatchEmbedding, as_pair
from dlreview.nn.pooling import ClassToken, Pooler
from dlreview.nn.positions import LearnedPositions
from dlreview.nn.transformer import Block
from dlreview.nn.vit import ViT
from dlreview.reference import Example, Map
from dlreview.reference.activation import from_transformers, to_transformers
from dlreview.reference.vit import FIRST, patch_rules, unpair
from dlreview.reference.weights import SAME, Op, Rule, split

DINO = ("Dinov2Model", "Dinov2WithRegistersModel")
MASK = Op(lambda m: rearrange(m, "1 d -> 1 1 d"), lambda m: rearrange(m, "1 1 d -> 1 d"))


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"transformers' class has no {what}")


def swiglu_width(hidden: int) -> int:
    """Give the width of DINOv2's gated layer for that of a plain one: two thirds, in eights."""
    return (int(hidden * 2 / 3) + 7) // 8 * 8


def build_ours(theirs: Any) -> ViT:
    """Compose ours from the configuration and the parts of theirs.

    Raises:
        ValueError: the activation is not supported, or DINOv2's images are neither square nor made
            of a square number of patches.
    """
    kind, config = type(theirs).__name__, theirs.config
    body = theirs.vit if kind == "ViTForImageClassification" else theirs
    dino, width, heads = kind in DINO, config.hidden_size, config.num_attention_heads
    image_size = as_pair(config.image_size, "image_size")
    patch_size = as_pair(config.patch_size, "patch_size")
    embedding = PatchEmbedding(unpair(patch_size), width, config.num_channels, remainder="crop")
    grid = embedding.grid(*image_size)
    if dino and image_size[0] != image_size[1]:
        # Theirs then takes the table for one of a square grid.
        side = isqrt(grid[0] * grid[1])
        if side * side != grid[0] * grid[1]:
            raise ValueError(f"image_size={config.image_size}: {grid} patches are no square number")
        grid = (side, side)
    attention_dropout = float(config.attention_probs_dropout_prob)
    dropout, eps = float(config.hidden_dropout_prob), float(config.layer_norm_eps)
    head_width = getattr(config, "head_dim", None) or width // heads
    attention = MultiHeadAttention(
        width,
        heads,
        head_width=None if head_width * heads == width else head_width,
        bias=config.qkv_bias,
        dropout=attention_dropout,
    )
    hidden = int(width * config.mlp_ratio) if dino else config.intermediate_size
    gated = dino and config.use_swiglu_ffn
    pooler = getattr(body, "pooler", None)
    if pooler is not None:
        pooled = (pooler.dense.out_features, from_transformers(config.pooler_act, "pooler_act"))
    return ViT(
        image_size=unpair(image_size),
        patch_size=unpair(patch_size),
        width=width,
        depth=config.num_hidden_layers,
        heads=heads,
        num_classes=theirs.num_labels if kind == "ViTForImageClassification" else None,
        image_channels=config.num_channels,
        registers=getattr(config, "num_register_tokens", 0),
        mask_token=body.embeddings.mask_token is not None,
        embedding=embedding,
        positions=LearnedPositions(
            list(grid),
            width,
            dropout=dropout,
            antialias=kind == "Dinov2WithRegistersModel",
            in_float32=dino,
        ),
        block=Block(
            width,
            heads,
            attention=attention,
            feed_forward=SwiGLU(width, swiglu_width(hidden))
            if gated
            else FeedForward(width, hidden, from_transformers(config.hidden_act)),
            attention_norm=LayerNorm(width, eps),
            feed_forward_norm=LayerNorm(width, eps),
            layer_scale=float(config.layerscale_value) if dino else None,
            dropout=0.0 if dino else dropout,
            drop_path=float(config.drop_path_rate) if dino else 0.0,
        ),
        norm=LayerNorm(width, eps),
        pooling=None if pooler is None else Pooler(width, *pooled),
    )


def arguments(ours: ViT, kind: str) -> dict[str, Any]:
    """Give the configuration with which the class `kind` of transformers is `ours`.

    Rates of dropout that it has not are left out: they do not change what was learned.

    Raises:
        ValueError: there is none; what the class lacks is named.
    """
    block: Any = ours.encoder.blocks[0]
    attention, network, positions = block.attention, block.feed_forward, ours.positions
    dino, width, pooling = kind in DINO, ours.width, ours.pooling
    norms = (block.attention_norm, block.feed_forward_norm, ours.norm)
    _need(type(block) is Block, type(block).__name__)
    _need(ours.class_token, "network without class token")
    _need(
        all(isinstance(norm, LayerNorm) and norm.offset and norm.affine for norm in norms), "norm"
    )
    _need(len({norm.eps for norm in norms}) == 1, "norms of several eps")
    _need(ours.input_norm is None and ours.head_norm is None, "norm of input or head")
    _need(ours.embedding.bias and ours.embedding.norm is None, "such embedding")
    _need(isinstance(positions, LearnedPositions) and positions.prefix == 1, "such positions")
    inner = (attention.query_norm, attention.key_norm, attention.output_norm, network.norm)
    _need(not any(inner) and attention.scale is None, "norm or scale inside attention")
    _need(attention.output_bias and network.bias, "layers without bias")
    _need((block.layer_scale is not None) == dino, "layer scale" if not dino else "unscaled branch")
    gated = isinstance(network, SwiGLU)
    _need(not gated or (dino and network.activation == "silu"), f"SwiGLU of {network.activation}")
    _need(not gated or not network.packed, "packed SwiGLU")
    classifier = kind == "ViTForImageClassification"
    _need((ours.num_classes is not None) == classifier, "such head")
    _need(
        type(pooling) is ClassToken or (kind == "ViTModel" and type(pooling) is Pooler), "pooling"
    )
    _need((ours.registers > 0) == (kind == "Dinov2WithRegistersModel"), "such registers")
    _need(ours.mask_token or kind != "Dinov2WithRegistersModel", "network without mask token")
    _need(not (ours.mask_token and classifier), "mask token")
    config: dict[str, Any] = {
        "image_size": _sizes(ours.image_size),
        "patch_size": _sizes(ours.patch_size),
        "num_channels": ours.image_channels,
        "hidden_size": width,
        "num_hidden_layers": ours.depth,
        "num_attention_heads": ours.heads,
        "hidden_act": to_transformers("gelu" if gated else network.activation),
        "hidden_dropout_prob": getattr(positions, "dropout", 0.0),
        "attention_probs_dropout_prob": attention.dropout,
        "layer_norm_eps": norms[0].eps,
        "qkv_bias": attention.bias,
    }
    if attention.head_width is not None:
        config["head_dim"] = attention.head_width
    if classifier:
        config["num_labels"] = ours.num_classes
    if type(pooling) is Pooler:
        config["pooler_output_size"] = pooling.output_width
        config["pooler_act"] = to_transformers(pooling.activation)
    if not dino:
        return config | {"intermediate_size": network.hidden_width}
    of_hidden = swiglu_width if gated else int
    ratios = (
        r
        for r in range(1, 4 * network.hidden_width)
        if of_hidden(width * r) >= network.hidden_width
    )
    ratio = next(ratios)
    _need(of_hidden(width * ratio) == network.hidden_width, f"hidden_width {network.hidden_width}")
    config |= {"mlp_ratio": ratio, "use_swiglu_ffn": gated, "layerscale_value": block.layer_scale}
    config["drop_path_rate"] = block.drop_path
    if kind == "Dinov2WithRegistersModel":
        return config | {"num_register_tokens": ours.registers}
    return config | {"use_mask_token": ours.mask_token}


def _sizes(size: int | list[int]) -> int | list[int]:
    return size if isinstance(size, int) else list(size)


def build_theirs(ours: ViT, kind: str) -> Any:
    """Make the class `kind` of transformers with the sizes and parts of ours."""
    import transformers

    config = arguments(ours, kind)
    cls = getattr(transformers, kind)
    made = cls.config_class(**config)
    if kind == "ViTModel":
        pooler = isinstance(ours.pooling, Pooler)
        return cls(made, add_pooling_layer=pooler, use_mask_token=ours.mask_token)
    return cls(made)


def fits(ours: ViT, kind: str) -> bool:
    """Tell whether the class `kind` of transformers can express `ours`."""
    try:
        arguments(ours, kind)
    except ValueError:
        return False
    return True


def has_old_names(kind: str) -> bool:
    """Tell whether the installed transformers names weights as 4.x did."""
    folder = {"Dinov2Model": "dinov2", "Dinov2WithRegistersModel": "dinov2_with_registers"}
    name = folder.get(kind, "vit")
    module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    return any(
        hasattr(module, f"{prefix}SelfAttention") for prefix in ("ViT", kind[: -len("Model")])
    )


def table(ours: ViT, kind: str, old_names: bool | None = None) -> list[Rule]:
    """Pair the names of the weights with those of transformers 5, or 4.x if `old_names`."""
    old = has_old_names(kind) if old_names is None else old_names
    dino, body = kind in DINO, "vit." if kind == "ViTForImageClassification" else ""
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
        ("pooling.W.{leaf}", "pooler.dense.{leaf}"),
        ("head.{leaf}", "classifier.{leaf}"),
    ]


def _map(kind: str) -> Map:
    def bound(function: Callable[..., Any]) -> Callable[[Any], Any]:
        return lambda ours: function(ours, kind)

    return Map(
        ours="dlreview.nn.vit.ViT",
        theirs=f"transformers.{kind}",
        library="transformers",
        build_ours=build_ours,
        build_theirs=bound(build_theirs),
        table=bound(table),
        fits=bound(fits),
    )


MAPS = [_map(kind) for kind in ("ViTModel", "ViTForImageClassification", *DINO)]


def _example(kind: str) -> Any:
    import transformers

    cls = getattr(transformers, kind)
    sizes = {"image_size": 32, "patch_size": 4, "hidden_size": 96, "num_attention_heads": 6}
    config = cls.config_class(**sizes, num_hidden_layers=4, intermediate_size=384)
    config._attn_implementation = "sdpa"  # the eager one takes its softmax in float32
    return cls(config)


def _ours(net: Any, images: Any) -> Any:
    if net.num_classes is not None:
        return net(images)
    tokens = net.tokens(images)
    return tokens, net.pooling(tokens, net.prefix)


def _theirs(net: Any, images: Any) -> Any:
    output = net(images)
    if hasattr(output, "logits"):
        return output.logits
    return output.last_hidden_state, output.pooler_output


EXAMPLES = [
    Example(
        partial(_example, kind),
        lambda: (torch.randn(8, 3, 32, 32, dtype=torch.float64),),
        _ours,
        _theirs,
    )
    for kind in ("ViTModel", "ViTForImageClassification", *DINO)
]
