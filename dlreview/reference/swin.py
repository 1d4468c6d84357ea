"""timm's SwinTransformer.

Not supported: embeddings other than `PatchEmbed`, poolings other than the mean, the maximum, the
average of both and none.
"""

from typing import Any

import torch

from dlreview.nn.norm import LayerNorm
from dlreview.nn.patch_embedding import PatchEmbedding, as_pair
from dlreview.nn.pooling import EveryToken
from dlreview.nn.swin import Swin
from dlreview.nn.swin_block import window_sizes
from dlreview.reference.maps import Example, Map
from dlreview.reference.patches import patch_rules, unpair
from dlreview.reference.timm_parts import POOLINGS, norm_from_module, optional_norm
from dlreview.reference.vit_timm_arguments import norm_layer_of
from dlreview.reference.weights import SPLIT, Rule

REGISTERED = ["swin_tiny_patch4_window7_224"]
POOLING_NAMES: dict[Any, str] = {cls: name for name, cls in POOLINGS.items()} | {EveryToken: ""}


def unlist(values: list[Any]) -> Any:
    """Write a list of equal values as one value."""
    return values[0] if all(value == values[0] for value in values) else values


def embedding_of(patches: Any) -> PatchEmbedding:
    """Build our patch embedding.

    Raises:
        ValueError: the class of theirs is not supported.
    """
    if type(patches).__name__ != "PatchEmbed":
        raise ValueError(f"embed_layer={type(patches).__name__} is not supported: use PatchEmbed")
    sizes = zip(patches.img_size, patches.patch_size, strict=True)
    return PatchEmbedding(
        unpair(patches.patch_size),
        patches.proj.out_channels,
        patches.proj.in_channels,
        bias=patches.proj.bias is not None,
        remainder="crop" if any(size % patch for size, patch in sizes) else "pad",
        norm=optional_norm(patches.norm),
    )


def windows_of(theirs: Any) -> list[tuple[int, int]]:
    """Return the window of each stage, before it is made smaller to fit a small map."""
    grid, old = theirs.patch_embed.grid_size, theirs._ref_grid_size
    # After a change of the image size theirs scales the windows of its first size.
    return [
        (max(1, h * grid[0] // old[0]), max(1, w * grid[1] // old[1]))
        for h, w in theirs._ref_window_sizes
    ]


def build_ours(theirs: Any) -> Swin:
    """Build ours from the modules of theirs.

    Raises:
        ValueError: a part of theirs is not supported; names its argument.
    """
    firsts = [stage.blocks[0] for stage in theirs.layers]
    blocks = [block for stage in theirs.layers for block in stage.blocks]
    attentions = [block.attn for block in firsts]
    patches, pool = theirs.patch_embed, theirs.head.global_pool.pool_type
    if pool not in POOLING_NAMES.values():
        raise ValueError(f"global_pool={pool!r} is not supported; supported: avg, max, avgmax, ''")
    widths = [attn.qkv.out_features // 3 // attn.num_heads for attn in attentions]
    usual = all(
        width * attn.num_heads == attn.dim for width, attn in zip(widths, attentions, strict=True)
    )
    rates = [float(getattr(block.drop_path1, "drop_prob", 0.0)) for block in blocks]
    even = torch.linspace(0, rates[-1], len(rates), device="cpu").tolist()
    windows = unlist(windows_of(theirs))
    return Swin(
        image_size=unpair(patches.img_size),
        patch_size=unpair(patches.patch_size),
        width=patches.proj.out_channels,
        depths=[len(stage.blocks) for stage in theirs.layers],
        heads=[attn.num_heads for attn in attentions],
        window_size=unpair(windows) if isinstance(windows, tuple) else [[*w] for w in windows],
        num_classes=theirs.num_classes,
        image_channels=patches.proj.in_channels,
        head_width=None if usual else unlist(widths),
        hidden_ratio=unlist([float(block.mlp_ratio) for block in firsts]),
        bias=attentions[0].qkv.bias is not None,
        always_partition=firsts[0].always_partition,
        embedding=embedding_of(patches),
        norm=norm_from_module(theirs.norm),
        pooling=POOLINGS[pool]() if pool else EveryToken(),
        dropout=float(attentions[0].proj_drop.p),
        attention_dropout=float(attentions[0].attn_drop.p),
        drop_path=rates[-1] if rates == even else rates,
        head_dropout=float(theirs.head.drop.p),
    )


def check(ours: Swin) -> None:
    """Refuse what timm does not have.

    Raises:
        ValueError: names what timm lacks.
    """
    embedding, pooling = ours.embedding, type(ours.pooling)
    missing = {
        f"activation {ours.activation!r}": ours.activation != "gelu",
        f"pooling {pooling.__name__}": pooling not in POOLING_NAMES,
        "patches without bias": not embedding.bias,
        "patches without norm": embedding.norm is None,
        "padding of incomplete patches": ours.embedding.remainder == "pad" and incomplete(ours),
        "list of drop_path": isinstance(ours.drop_path, list),
    }
    for feature, lacks in missing.items():
        if lacks:
            raise ValueError(f"timm's SwinTransformer has no {feature}")


def incomplete(ours: Swin) -> bool:
    """Return whether patches do not divide the images."""
    sizes = as_pair(ours.image_size, "image_size"), as_pair(ours.patch_size, "patch_size")
    return any(size % patch for size, patch in zip(*sizes, strict=True))


def arguments(ours: Swin) -> dict[str, Any]:
    """Return the arguments with which timm's SwinTransformer is `ours`.

    Raises:
        ValueError: there are none; names what timm lacks.
    """
    check(ours)
    windows = unlist(window_sizes(ours.window_size, len(ours.depths)))
    return {
        "img_size": as_pair(ours.image_size, "image_size"),
        "patch_size": as_pair(ours.patch_size, "patch_size"),
        "in_chans": ours.image_channels,
        "num_classes": ours.num_classes or 0,
        "global_pool": POOLING_NAMES[type(ours.pooling)],
        "embed_dim": ours.width,
        "depths": tuple(ours.depths),
        "num_heads": tuple(ours.heads),
        "head_dim": ours.head_width,
        "window_size": windows,
        "always_partition": ours.always_partition,
        # Like ours, timm's network then takes other image sizes, if they are divisible by patches.
        "dynamic_img_size": ours.embedding.remainder != "crop",
        "mlp_ratio": ours.hidden_ratio,
        "qkv_bias": ours.bias,
        "drop_rate": ours.head_dropout,
        "proj_drop_rate": ours.dropout,
        "attn_drop_rate": ours.attention_dropout,
        "drop_path_rate": ours.drop_path,
        "norm_layer": norm_layer_of([ours.output_norm, ours.embedding.norm]),
        "weight_init": "skip",
    }


def registered(ours: Swin) -> tuple[list[str], dict[str, Any]]:
    """Return the names of timm's registry that make `ours`, and their arguments.

    Raises:
        ValueError: the norms are not those of timm's registered networks.
    """
    norm = ours.output_norm
    if not (isinstance(norm, LayerNorm) and norm.affine and norm.offset and norm.eps == 1e-5):
        raise ValueError("timm's registry has Swin only with LayerNorm of eps 1e-5")
    return REGISTERED, arguments(ours)


def build_theirs(ours: Swin) -> Any:
    """Build timm's network with the sizes and parts of ours."""
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(**arguments(ours))


def fits(ours: Swin) -> bool:
    """Return whether timm can express `ours`."""
    try:
        arguments(ours)
    except ValueError:
        return False
    return True


def table(ours: Swin) -> list[Rule]:
    """Pair the names of the weights."""
    parts = {"attention_norm": "norm1", "feed_forward_norm": "norm2", "attention.W_o": "attn.proj"}
    parts |= {"feed_forward.W_1": "mlp.fc1", "feed_forward.W_2": "mlp.fc2"}
    pairs = {f"stages.{{i}}.{{j}}.{ours}": f"layers.{{i}}.blocks.{{j}}.{theirs}"
             for ours, theirs in parts.items()}  # fmt: skip
    pairs |= {
        "stages.{i}.merging.norm": "layers.{i}.downsample.norm",
        "stages.{i}.merging.W": "layers.{i}.downsample.reduction",
        "embedding.norm": "patch_embed.norm",
        "output_norm": "norm",
        "head": "head.fc",
    }
    qkv = tuple(f"stages.{{i}}.{{j}}.attention.W_{x}.{{leaf}}" for x in "qkv")
    biases = ".attn.relative_position_bias_table"
    return [
        *patch_rules(ours.embedding, "patch_embed.proj"),
        *((f"{mine}.{{leaf}}", f"{theirs}.{{leaf}}") for mine, theirs in pairs.items()),
        (qkv, "layers.{i}.blocks.{j}.attn.qkv.{leaf}", SPLIT),
        ("stages.{i}.{j}.positions.table", "layers.{i}.blocks.{j}" + biases),
    ]


IN_TIMM = "timm has this architecture in a class that is supported, for example "
COSINE = "its attention scores are cosines, which our blocks lack; the nearest class is "
REFUSED = {
    "transformers.Swinv2": f"{COSINE}timm's SwinTransformer",
    "timm.SwinTransformerV2": f"{COSINE}timm's SwinTransformer",
    "transformers.Swin": f"{IN_TIMM}'swin_tiny_patch4_window7_224.ms_in1k'",
    "torchvision.SwinTransformer": f"{IN_TIMM}'swin_tiny_patch4_window7_224.ms_in1k'",
}
MAPS = [
    Map(
        ours="dlreview.nn.swin.Swin",
        theirs="timm.models.swin_transformer.SwinTransformer",
        library="timm",
        build_ours=build_ours,
        build_theirs=build_theirs,
        table=table,
        fits=fits,
        registry=registered,
    )
]


def _example() -> Any:
    from timm.models.swin_transformer import SwinTransformer

    sizes = {"img_size": 32, "patch_size": 2, "embed_dim": 48, "window_size": 4}
    return SwinTransformer(**sizes, depths=(2, 2), num_heads=(3, 6), num_classes=10)


EXAMPLES = [Example(_example, lambda: (torch.randn(8, 3, 32, 32, dtype=torch.float64),))]
