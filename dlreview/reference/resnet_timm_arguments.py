"""The arguments with which timm's ResNet is one of our networks."""

from functools import partial
from typing import Any

from torch import nn

from dlreview.nn.channel_attention import ECA, SqueezeExcite
from dlreview.nn.conv_layer import AveragePool, Blur, GroupNormOptions, MaxPool
from dlreview.nn.pooling import Max, Mean, MeanAndMax, MeanMax
from dlreview.nn.residual import AverageProjection, BasicBlock, Bottleneck
from dlreview.nn.resnet import ResNet
from dlreview.nn.stem import Stem
from dlreview.reference.activation import to_timm
from dlreview.saved import config_of

POOLINGS = {Mean: "avg", Max: "max", MeanMax: "avgmax", MeanAndMax: "catavgmax"}


def _require(condition: bool, feature: str) -> None:
    if not condition:
        raise ValueError(f"timm's ResNet has no {feature}")


def stem_arguments(stem: Stem) -> dict[str, Any]:
    """Return timm's arguments for the stem, without antialiasing.

    Raises:
        ValueError: timm has no such stem.
    """
    widths, sizes, strides = list(stem.widths), list(stem.kernel_sizes), list(stem.strides)
    replaced = stem.pool is None
    if replaced:  # by a convolution
        last = (sizes.pop(), strides.pop(), widths.pop() == widths[-1] if widths[1:] else False)
        _require(last == (3, 2, True), f"stem without pool and with convolutions {stem.widths}")
    arguments: dict[str, Any] = {"replace_stem_pool": replaced}
    if len(widths) == 1:
        _require((widths, sizes, strides) == ([64], [7], [2]), f"stem of one convolution {widths}")
        return arguments | {"stem_type": "", "stem_width": 64}
    known = (sizes, strides) == ([3, 3, 3], [2, 1, 1])
    _require(known, f"stem with kernels {sizes} and strides {strides}")
    first, width, last_width = widths
    kinds = {width: "deep", 3 * (width // 4): "deep_tiered"}
    _require(first in kinds and last_width == 2 * width, f"stem with widths {widths}")
    return arguments | {"stem_type": kinds[first], "stem_width": width}


def antialias_arguments(ours: ResNet) -> dict[str, Any]:
    """Return timm's argument for antialiasing, which is one for the stem and all blocks.

    Raises:
        ValueError: they differ, or there are dilated stages or a stem without pool, too.
    """
    from timm.layers import BlurPool2d

    pool, antialias = ours.stem.pool, type(ours.blocks[0].antialias)
    kind: type = type(None)
    if isinstance(pool, MaxPool):
        kind = type(pool.antialias)
    elif isinstance(pool, AveragePool):
        kind = AveragePool
    _require(kind is antialias, f"{antialias.__name__} in blocks with {kind.__name__} in the stem")
    alone = ours.dilated_stages == 0 or kind is type(None)
    _require(alone, "antialiasing in a network with dilated stages")
    theirs: dict[type, Any] = {AveragePool: nn.AvgPool2d, Blur: BlurPool2d}
    return {"aa_layer": theirs.get(kind)}


def block_arguments(blocks: list[BasicBlock]) -> dict[str, Any]:
    """Return timm's arguments for the blocks.

    Raises:
        ValueError: timm has no such blocks, or not in one network.
    """
    from timm.layers import EcaModule, SEModule
    from timm.models.resnet import BasicBlock as TimmBasicBlock
    from timm.models.resnet import Bottleneck as TimmBottleneck

    names = ("shortcut", "attention", "antialias", "reduce_first", "zero_start")
    shared = [
        {name: value for name, value in config_of(block)["init_args"].items() if name in names}
        for block in blocks
    ]
    _require(all(one == shared[0] for one in shared), "blocks with different parts")
    first, kinds = blocks[0], [type(block) for block in blocks]
    _require(set(kinds) <= {BasicBlock, Bottleneck}, "blocks other than basic and bottleneck")
    sizes = {(b.groups, b.group_width) if isinstance(b, Bottleneck) else (1, 64) for b in blocks}
    _require(len(sizes) == 1, f"blocks with different groups {sorted(sizes)}")
    ((groups, group_width),) = sizes
    attention: Any = EcaModule if isinstance(first.attention, ECA) else None
    if isinstance(first.attention, SqueezeExcite):
        reduction = first.attention.reduction
        attention = SEModule if reduction == 16 else partial(SEModule, rd_ratio=1 / reduction)
    classes = {BasicBlock: TimmBasicBlock, Bottleneck: TimmBottleneck}
    average = isinstance(first.shortcut, AverageProjection)
    return {
        "block": classes[kinds[0]] if len(set(kinds)) == 1 else [classes[kind] for kind in kinds],
        "cardinality": groups,
        "base_width": group_width,
        "block_reduce_first": first.reduce_first,
        "avg_down": average,
        "down_kernel_size": 1 if average else getattr(first.shortcut, "kernel_size", 1),
        "zero_init_last": first.zero_start,
        "block_args": {} if attention is None else {"attn_layer": attention},
    }


def norm_layer_of(ours: ResNet) -> Any:
    """Return timm's class of the norms, with its arguments bound."""
    from timm.layers import GroupNorm

    norm = ours.norm
    if isinstance(norm, GroupNormOptions):
        return partial(GroupNorm, num_groups=norm.groups, eps=norm.eps)
    return partial(nn.BatchNorm2d, eps=norm.eps, momentum=norm.momentum)


def arguments(ours: ResNet) -> dict[str, Any]:
    """Return the arguments with which timm's ResNet is `ours`.

    Raises:
        ValueError: there are none; names what timm lacks.
    """
    _require(len(ours.widths) == 4, f"network of {len(ours.widths)} stages")
    _require(ours.dilated_stages <= 2, f"dilated_stages {ours.dilated_stages}")
    _require(ours.pixel_mean is None, "pixel_mean")
    _require(type(ours.pooling) in POOLINGS, f"pooling {type(ours.pooling).__name__}")
    network = {
        "layers": list(ours.depths),
        "channels": list(ours.widths),
        "num_classes": ours.num_classes or 0,
        "in_chans": ours.image_channels,
        "output_stride": 32 >> ours.dilated_stages,
        "global_pool": POOLINGS[type(ours.pooling)],
        "act_layer": to_timm(ours.activation),
        "norm_layer": norm_layer_of(ours),
        "drop_rate": ours.head_dropout,
        "drop_path_rate": ours.drop_path,
    }
    stem = stem_arguments(ours.stem) | antialias_arguments(ours)
    return network | stem | block_arguments(ours.blocks)
