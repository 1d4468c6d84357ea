"""Our stems, blocks, norms and poolings, built from those of timm's or torchvision's ResNet."""

from itertools import count
from typing import Any

from torch import nn

from dlreview.messages import one_line
from dlreview.nn.channel_attention import ECA, SqueezeExcite
from dlreview.nn.conv_layer import (
    AveragePool,
    BatchNormOptions,
    Blur,
    GroupNormOptions,
    MaxPool,
)
from dlreview.nn.pooling import Max, Mean, MeanAndMax, MeanMax
from dlreview.nn.residual import AverageProjection, BasicBlock, Bottleneck, Projection
from dlreview.nn.stem import DeepStem, ImageNetStem, Stem
from dlreview.reference.activation import from_module

ACTIVATIONS = ("relu", "act1", "act2", "act3")  # torchvision's and timm's names
PLAIN = {"fc1": "Conv2d", "bn": "Identity", "act": "ReLU", "fc2": "Conv2d", "gate": "Sigmoid"}


def norm_from_module(module: Any) -> BatchNormOptions | GroupNormOptions:
    """Read the options of a norm.

    Raises:
        ValueError: it is neither a batch norm nor a group norm, or has no scale or no statistics.
    """
    kind = type(module).__name__
    if kind == "BatchNorm2d" and module.affine and module.track_running_stats:
        return BatchNormOptions(module.eps, module.momentum)
    if kind in ("GroupNorm", "GroupNorm1") and module.affine:
        return GroupNormOptions(module.num_groups, module.eps)
    raise ValueError(f"norm_layer={module} is not supported; supported: BatchNorm2d, GroupNorm")


def antialias_from_module(module: Any) -> AveragePool | Blur | None:
    """Build our antialiasing; return None for an identity.

    Raises:
        ValueError: it is of another kind, or does not halve the resolution.
    """
    kind = type(module).__name__
    if kind == "Identity":
        return None
    if kind == "AvgPool2d" and module.kernel_size == module.stride == 2:
        return AveragePool()
    sizes = (getattr(module, name, None) for name in ("filt_size", "stride", "pad_mode"))
    if kind == "BlurPool2d" and tuple(sizes) == (3, 2, "reflect"):
        return Blur()
    supported = "AvgPool2d and BlurPool2d of stride 2, thus output_stride=32"
    raise ValueError(f"aa_layer={module} is not supported; supported: {supported}")


def attention_from_modules(layers: list[Any], widths: list[int]) -> SqueezeExcite | ECA | None:
    """Read the options of the channel attention of blocks with these numbers of channels.

    Raises:
        ValueError: it is of another kind, or its sizes do not follow from the widths.
    """
    first = layers[0]
    if first is None:
        return None
    kind, parts = type(first).__name__, {k: type(m).__name__ for k, m in first.named_children()}
    if kind == "EcaModule" and parts == {"conv": "Conv1d", "gate": "Sigmoid"}:
        eca, sizes = ECA(), [layer.conv.kernel_size[0] for layer in layers]
        if sizes == [eca.kernel_size(width) for width in widths]:
            return eca
    if (
        kind == "SEModule"
        and parts == PLAIN
        and not first.add_maxpool
        and first.fc1.bias is not None
    ):
        hidden = [layer.fc1.out_channels for layer in layers]
        for reduction in (16, *range(1, max(widths) + 1)):  # several may give the same widths
            found = SqueezeExcite(reduction)
            if hidden == [found.hidden_width(width) for width in widths]:
                return found
    raise ValueError(f"attn_layer={first} is not supported; supported: plain SEModule, EcaModule")


def shortcut_from_modules(layers: list[Any]) -> Projection | AverageProjection:
    """Read the kind of the shortcuts of a network.

    Raises:
        ValueError: a kernel has an even size.
    """
    if any(len(layer) == 3 for layer in layers):
        return AverageProjection()
    size = max((layer[0].kernel_size[0] for layer in layers), default=1)
    if size % 2 == 0:
        raise ValueError(f"down_kernel_size={size} is not supported: use an odd number")
    return Projection(size)


def width_of(block: Any) -> int:
    """Return the width of the stage of a block.

    Raises:
        ValueError: the block is of another class.
    """
    kind = type(block).__name__
    if kind not in ("BasicBlock", "Bottleneck"):
        raise ValueError(f"block={kind} is not supported; supported: BasicBlock, Bottleneck")
    if kind == "BasicBlock":
        return int(block.conv2.out_channels)
    return int(block.conv3.out_channels) // Bottleneck.expansion


def group_width_of(stages: list[Any], widths: list[int]) -> int:
    """Return the `group_width` that gives the widths of all bottlenecks.

    Raises:
        ValueError: there is none.
    """
    pairs = [
        (width, stage[0].conv2.out_channels // stage[0].conv2.groups)
        for stage, width in zip(stages, widths, strict=True)
        if hasattr(stage[0], "conv3")
    ]
    for found in count(1):
        inner = [width * found // 64 for width, _ in pairs]
        if inner == [size for _, size in pairs]:
            return found
        if any(have > size for have, (_, size) in zip(inner, pairs, strict=True)):
            raise ValueError("base_width is not supported: use a whole number")
    raise AssertionError("count does not end")


def blocks_from_modules(stages: list[Any], widths: list[int]) -> list[BasicBlock]:
    """Read the options of the blocks of each stage.

    Raises:
        ValueError: a part is not supported; names its argument.
    """
    every = [block for stage in stages for block in stage]
    if any(hasattr(getattr(block, "drop_block", None), "drop_prob") for block in every):
        raise ValueError("drop_block_rate above 0 is not supported: use 0")
    outputs = [getattr(block, "bn3", block.bn2).weight.shape[0] for block in every]
    smooth = [antialias_from_module(getattr(block, "aa", nn.Identity())) for block in every]
    shortcuts = [block.downsample for block in every if block.downsample is not None]
    layers = [getattr(block, "se", None) for block in every]
    shared: dict[str, Any] = {
        "shortcut": shortcut_from_modules(shortcuts),
        "attention": attention_from_modules(layers, outputs),
        "antialias": next((part for part in smooth if part is not None), None),
    }
    blocks, group_width = list[BasicBlock](), group_width_of(stages, widths)
    for stage, width in zip(stages, widths, strict=True):
        first = stage[0].conv1.out_channels
        if hasattr(stage[0], "conv3"):
            inner, groups = stage[0].conv2.out_channels, stage[0].conv2.groups
            blocks.append(Bottleneck(groups, group_width, **shared, reduce_first=inner // first))
        else:
            blocks.append(BasicBlock(**shared, reduce_first=width // first))
    return blocks


def stages_of(theirs: Any) -> list[Any]:
    """Return the four stages.

    Raises:
        ValueError: one of them was replaced.
    """
    stages = {name: getattr(theirs, name) for name in ("layer1", "layer2", "layer3", "layer4")}
    for name, stage in stages.items():
        if not isinstance(stage, nn.Sequential) or len(stage) == 0:
            raise ValueError(f"{name}={type(stage).__name__} is not supported: use blocks")
    return list(stages.values())


def activation_of(theirs: Any) -> str:
    """Read the activation, which is one for the stem and all blocks.

    Raises:
        ValueError: there are several, or it is not supported.
    """
    modules = {
        name: module
        for name, module in theirs.named_modules()
        if name.rpartition(".")[2] in ACTIVATIONS
    }
    found = sorted({from_module(module) for module in modules.values()})
    if len(found) > 1:
        raise ValueError(
            f"activations {', '.join(found)} in one network are not supported: use one"
        )
    return found[0]


def num_classes_from_module(fc: Any) -> int | None:
    """Return the number of classes, None for an identity: users replace the classifier.

    Raises:
        ValueError: it is neither a linear layer with bias nor an identity.
    """
    if type(fc) is nn.Identity:
        return None
    if type(fc) is nn.Linear and fc.bias is not None:
        return fc.out_features
    problem = f"fc={one_line(str(fc), 100)} is not supported"
    raise ValueError(f"{problem}: use Linear with bias or Identity")


def check_plain(conv: nn.Conv2d) -> None:
    """Refuse a convolution of the stem that ours cannot be.

    Raises:
        ValueError: it has a bias, groups or dilation, or does not keep the middle of its kernel.
    """
    size = conv.kernel_size[0]
    wanted = nn.Conv2d(
        conv.in_channels, conv.out_channels, size, conv.stride[0], size // 2, bias=False
    )
    if size % 2 == 0 or conv.extra_repr() != wanted.extra_repr():
        raise ValueError(f"conv1={conv} is not supported: use {wanted}")


def pool_from_module(module: Any) -> MaxPool | AveragePool | None:
    """Build what halves the resolution at the end of the stem; return None for an identity.

    Raises:
        ValueError: ours has no such pool.
    """
    kind, pool, smooth = type(module), module, None
    if kind is nn.Sequential and len(module) == 2:
        pool, smooth = module[0], antialias_from_module(module[1])
    if type(pool) is nn.MaxPool2d and (smooth is None or isinstance(smooth, Blur)):
        wanted = nn.MaxPool2d(3, 1 if smooth else 2, 1)
        if pool.extra_repr() == wanted.extra_repr():
            return MaxPool(smooth)
    elif kind is nn.Identity:
        return None
    elif kind is nn.AvgPool2d:
        return AveragePool() if antialias_from_module(module) else None
    raise ValueError(f"maxpool={module} is not supported: use {nn.MaxPool2d(3, 2, 1)}")


def stem_from_modules(theirs: Any) -> Stem:
    """Read the options of the stem.

    Raises:
        ValueError: a convolution, the pool or the antialiasing is not supported.
    """
    convs = [theirs.conv1]
    if isinstance(theirs.conv1, nn.Sequential):
        convs = [layer for layer in theirs.conv1 if isinstance(layer, nn.Conv2d)]
    pool: MaxPool | AveragePool | None = None
    last: Any = theirs.maxpool
    if isinstance(last, nn.Sequential) and isinstance(last[0], nn.Conv2d):
        if len(last) != 3:
            raise ValueError("replace_stem_pool=True is not supported with aa_layer: use one")
        convs.append(last[0])
    else:
        pool = pool_from_module(last)
    for conv in convs:
        check_plain(conv)
    widths = [conv.out_channels for conv in convs]
    sizes, strides = [c.kernel_size[0] for c in convs], [c.stride[0] for c in convs]
    if pool is not None and (sizes, strides) == ([7], [2]):
        return ImageNetStem(widths[0], pool)
    if pool is not None and (sizes, strides) == ([3, 3, 3], [2, 1, 1]):
        return DeepStem(widths, pool)
    return Stem(widths, sizes, strides, pool)


def pooling_from_module(module: Any, width: int) -> Mean | MeanAndMax:
    """Build our pooling.

    Raises:
        ValueError: it is of another kind, or there is none.
    """
    kind = module.pool_type.removeprefix("fast") or ("avg" if module.pool_type else "")
    if kind == "catavgmax":
        return MeanAndMax(width)
    poolings = {"avg": Mean, "max": Max, "avgmax": MeanMax}
    if kind not in poolings:
        known = ", ".join([*poolings, "catavgmax"])
        raise ValueError(f"global_pool={module.pool_type!r} is not supported; supported: {known}")
    return poolings[kind]()
