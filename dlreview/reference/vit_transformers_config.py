"""The configuration with which a ViT class of transformers is one of our networks."""

from typing import Any

from dlreview.nn.feed_forward import SwiGLU
from dlreview.nn.norm import LayerNorm
from dlreview.nn.patch_decoder import PatchDecoder
from dlreview.nn.pooling import ClassAndMean, ClassToken, Pooler
from dlreview.nn.positions import LearnedPositions
from dlreview.nn.transformer import Block
from dlreview.nn.vit import ViT
from dlreview.reference.activation import to_transformers

DINO = (
    "Dinov2Model",
    "Dinov2WithRegistersModel",
    "Dinov2ForImageClassification",
    "Dinov2WithRegistersForImageClassification",
)
POOLINGS: dict[str, tuple[type, ...]] = {
    "ViTModel": (ClassToken, Pooler),
    "ViTForMaskedImageModeling": (PatchDecoder,),
    "Dinov2ForImageClassification": (ClassAndMean,),
    "Dinov2WithRegistersForImageClassification": (ClassAndMean,),
}


def is_classifier(kind: str) -> bool:
    """Return whether a class of transformers returns logits."""
    return kind.endswith("ForImageClassification")


def has_registers(kind: str) -> bool:
    """Return whether a class of transformers has register tokens."""
    return kind.startswith("Dinov2WithRegisters")


def swiglu_width(hidden: int) -> int:
    """Return the width of DINOv2's gated layer: two thirds of a plain one, a multiple of 8."""
    return (int(hidden * 2 / 3) + 7) // 8 * 8


def _require(condition: bool, feature: str) -> None:
    if not condition:
        raise ValueError(f"transformers' class has no {feature}")


def check_block(block: Any, dino: bool) -> None:
    """Refuse a block that the classes of transformers do not have.

    Raises:
        ValueError: names what they lack.
    """
    attention, network = block.attention, block.feed_forward
    _require(type(block) is Block, type(block).__name__)
    inner = (attention.query_norm, attention.key_norm, attention.output_norm, network.norm)
    _require(not any(inner) and attention.scale is None, "norm or scale inside attention")
    _require(attention.output_bias and network.bias, "layers without bias")
    missing = "branches without layer scale" if dino else "layer scale"
    _require((block.layer_scale is not None) == dino, missing)
    if isinstance(network, SwiGLU):
        _require(dino and network.activation == "silu", f"SwiGLU of {network.activation}")
        _require(not network.packed, "packed SwiGLU")


def check_network(ours: ViT, kind: str) -> None:
    """Refuse parts outside the blocks that the class `kind` does not have.

    Raises:
        ValueError: names what it lacks.
    """
    block: Any = ours.encoder.blocks[0]
    norms = (block.attention_norm, block.feed_forward_norm, ours.norm)
    plain = all(isinstance(norm, LayerNorm) and norm.offset and norm.affine for norm in norms)
    _require(plain, "norms other than layer norms with scale and offset")
    _require(len({norm.eps for norm in norms}) == 1, "norms of several eps")
    _require(ours.input_norm is None and ours.head_norm is None, "norm of input or head")
    embedding, positions, pooling = ours.embedding, ours.positions, type(ours.pooling)
    _require(ours.class_token, "network without class token")
    _require(embedding.bias and embedding.norm is None, "norm of patches, nor patches without bias")
    learned = isinstance(positions, LearnedPositions) and positions.prefix == 1
    _require(learned, "positions other than learned ones of class token and patches")
    classifier = is_classifier(kind)
    _require((ours.num_classes is not None) == classifier, f"num_classes {ours.num_classes}")
    _require(pooling in POOLINGS.get(kind, (ClassToken,)), pooling.__name__)
    with_registers, decodes = has_registers(kind), kind == "ViTForMaskedImageModeling"
    _require((ours.registers > 0) == with_registers, f"registers {ours.registers}")
    _require(ours.mask_token or not (with_registers or decodes), "network without mask token")
    _require(not ours.mask_token or kind != "ViTForImageClassification", "mask token")
    if isinstance(ours.pooling, PatchDecoder):
        channels = ours.pooling.image_channels
        _require(channels == ours.image_channels, f"decoder of {channels} channels")


def dino_arguments(ours: ViT, kind: str) -> dict[str, Any]:
    """Return the fields that only DINOv2's configurations have.

    Raises:
        ValueError: no `mlp_ratio` gives the hidden width.
    """
    block: Any = ours.encoder.blocks[0]
    hidden, gated = block.feed_forward.hidden_width, isinstance(block.feed_forward, SwiGLU)
    width_of = swiglu_width if gated else int
    ratio = next(r for r in range(1, 4 * hidden) if width_of(ours.width * r) >= hidden)
    _require(width_of(ours.width * ratio) == hidden, f"hidden_width {hidden}")
    special = {"num_register_tokens": ours.registers}
    if not has_registers(kind):
        special = {"use_mask_token": ours.mask_token}
    return {
        "mlp_ratio": ratio,
        "use_swiglu_ffn": gated,
        "layerscale_value": block.layer_scale,
        "drop_path_rate": block.drop_path,
        **special,
    }


def arguments(ours: ViT, kind: str) -> dict[str, Any]:
    """Return the configuration with which the class `kind` of transformers is `ours`.

    Dropout rates that it cannot express are omitted: they do not change what was learned.

    Raises:
        ValueError: there is none; names what the class lacks.
    """
    block: Any = ours.encoder.blocks[0]
    check_block(block, kind in DINO)
    check_network(ours, kind)
    attention, network = block.attention, block.feed_forward
    activation = "gelu" if isinstance(network, SwiGLU) else network.activation
    config: dict[str, Any] = {
        "image_size": _sizes(ours.image_size),
        "patch_size": _sizes(ours.patch_size),
        "num_channels": ours.image_channels,
        "hidden_size": ours.width,
        "num_hidden_layers": ours.depth,
        "num_attention_heads": ours.heads,
        "hidden_act": to_transformers(activation),
        "hidden_dropout_prob": getattr(ours.positions, "dropout", 0.0),
        "attention_probs_dropout_prob": attention.dropout,
        "layer_norm_eps": block.attention_norm.eps,
        "qkv_bias": attention.bias,
    }
    if attention.head_width is not None:
        config["head_dim"] = attention.head_width
    if ours.num_classes is not None:
        config["num_labels"] = ours.num_classes
    if isinstance(ours.pooling, Pooler):
        config["pooler_output_size"] = ours.pooling.output_width
        config["pooler_act"] = to_transformers(ours.pooling.activation)
    if isinstance(ours.pooling, PatchDecoder):
        config["encoder_stride"] = ours.pooling.side
    if kind in DINO:
        return config | dino_arguments(ours, kind)
    return config | {"intermediate_size": network.hidden_width}


def _sizes(size: int | list[int]) -> int | list[int]:
    return size if isinstance(size, int) else list(size)
