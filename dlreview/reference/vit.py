"""timm's VisionTransformer.

Not supported: blocks other than `Block` and `ResPostBlock`, differential attention, embeddings
other than `PatchEmbed`, feed-forward layers other than `Mlp`, `GluMlp` and `SwiGLU`.
"""

from typing import Any

import torch

from dlreview.nn.feed_forward import FeedForward
from dlreview.nn.identity import Identity
from dlreview.nn.patch_embedding import PatchEmbedding
from dlreview.nn.positions import LearnedPositions, NoPositions
from dlreview.nn.vit import ViT
from dlreview.reference.maps import Example, Map
from dlreview.reference.patches import FIRST, patch_rules, unpair
from dlreview.reference.timm_parts import block_from_module, optional_norm, pooling_from_module
from dlreview.reference.vit_timm_arguments import arguments
from dlreview.reference.weights import SPLIT, Rule, split

# Names of timm's registry, one for each kind of norm, block and feed-forward layer.
REGISTERED = [
    "vit_base_patch16_224",
    "vit_base_patch16_clip_224",
    "vit_base_patch16_rpn_224",
    "vit_giant_patch14_dinov2",
    "aimv2_large_patch14_224",
]


def embedding_of(theirs: Any) -> PatchEmbedding:
    """Build our patch embedding.

    Raises:
        ValueError: the class of theirs is not supported.
    """
    if type(theirs).__name__ != "PatchEmbed":
        raise ValueError(f"embed_layer={type(theirs).__name__} is not supported: use PatchEmbed")
    sizes = zip(theirs.img_size, theirs.patch_size, strict=True)
    remainder = "crop" if any(size % patch for size, patch in sizes) else "error"
    return PatchEmbedding(
        unpair(theirs.patch_size),
        theirs.proj.out_channels,
        theirs.proj.in_channels,
        bias=theirs.proj.bias is not None,
        remainder="pad" if theirs.dynamic_img_pad else remainder,
        norm=optional_norm(theirs.norm),
    )


def positions_of(theirs: Any) -> NoPositions | LearnedPositions:
    """Build our positions."""
    if theirs.pos_embed is None:
        return NoPositions()
    grid, dropout = list(theirs.patch_embed.grid_size), float(theirs.pos_drop.p)
    prefix = 0 if theirs.no_embed_class else theirs.num_prefix_tokens
    return LearnedPositions(grid, theirs.embed_dim, prefix, dropout)


def our_arguments(theirs: Any) -> dict[str, Any]:
    """Read our arguments from the modules of theirs.

    Raises:
        ValueError: a part of theirs is not supported; names its argument.
    """
    patches, embedding = theirs.patch_embed, embedding_of(theirs.patch_embed)
    block = block_from_module(theirs.blocks[0])
    rates = [float(getattr(block.drop_path1, "drop_prob", 0.0)) for block in theirs.blocks]
    even = torch.linspace(0, rates[-1], len(rates), device="cpu").tolist()
    return {
        "image_size": unpair(patches.img_size),
        "patch_size": unpair(patches.patch_size),
        "width": theirs.embed_dim,
        "depth": len(theirs.blocks),
        "heads": block.heads,
        "num_classes": theirs.num_classes,
        "image_channels": patches.proj.in_channels,
        "class_token": theirs.cls_token is not None,
        "registers": theirs.num_reg_tokens,
        "embedding": embedding,
        "positions": positions_of(theirs),
        "input_norm": optional_norm(theirs.norm_pre),
        "block": block,
        "norm": optional_norm(theirs.norm) or Identity(),
        "pooling": pooling_from_module(theirs),
        "head_norm": optional_norm(theirs.fc_norm),
        "drop_path": rates[-1] if rates == even else rates,
        "drop_tokens": float(getattr(theirs.patch_drop, "prob", 0.0)),
        "head_dropout": float(theirs.head_drop.p),
    }


def build_ours(theirs: Any) -> ViT:
    """Build ours.

    Raises:
        ValueError: see `our_arguments`.
    """
    return ViT(**our_arguments(theirs))


def build_theirs(ours: ViT) -> Any:
    """Build timm's network with the sizes and parts of ours."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(**arguments(ours))


def fits(ours: ViT) -> bool:
    """Return whether timm can express `ours`."""
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


REFUSED = {
    "timm.Eva": "its attention has rotary positions (DINOv3, EVA-02) or keys without bias "
    "(EVA), which our blocks lack; the nearest class is timm's VisionTransformer",
    "timm.Beit": "its attention has relative positions, which our blocks lack; the nearest "
    "class is timm's VisionTransformer",
}
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
