"""torchvision's ResNet, which has timm's names of the weights; also ResNeXt and wide ResNet.

Not supported: norms other than `BatchNorm2d` and `GroupNorm`, and dilation of a stage before one
with a stride.
"""

from functools import partial
from typing import Any

import torch
from torch import nn

from dlreview.nn.conv_layer import GroupNormOptions, MaxPool
from dlreview.nn.pooling import Mean
from dlreview.nn.residual import BasicBlock, Bottleneck, Projection
from dlreview.nn.resnet import ResNet
from dlreview.reference.maps import Example, Map
from dlreview.reference.resnet import table
from dlreview.reference.resnet_parts import (
    activation_of,
    blocks_from_modules,
    norm_from_module,
    num_classes_from_module,
    stages_of,
    stem_from_modules,
    width_of,
)
from dlreview.reference.resnet_timm_arguments import stem_arguments
from dlreview.saved import config_of

WIDTHS = [64, 128, 256, 512]


def build_ours(theirs: Any) -> ResNet:
    """Build ours from the modules of theirs.

    Raises:
        ValueError: a part of theirs is not supported; names its argument.
    """
    stages = stages_of(theirs)
    widths = [width_of(stage[0]) for stage in stages]
    strides = [stage[0].stride for stage in stages[1:]]
    if strides != sorted(strides, reverse=True):
        dilated = [stride == 1 for stride in strides]
        raise ValueError(f"replace_stride_with_dilation={dilated} is not supported: last ones only")
    pool = theirs.avgpool
    if type(pool) is not nn.AdaptiveAvgPool2d or pool.output_size not in (1, (1, 1)):
        raise ValueError(f"avgpool={pool} is not supported: use {nn.AdaptiveAvgPool2d(1)}")
    return ResNet(
        widths=widths,
        depths=[len(stage) for stage in stages],
        num_classes=num_classes_from_module(theirs.fc),
        image_channels=theirs.conv1.in_channels,
        block=blocks_from_modules(stages, widths)[0],
        stem=stem_from_modules(theirs),
        norm=norm_from_module(theirs.bn1),
        activation=activation_of(theirs),
        dilated_stages=strides.count(1),
    )


def _require(condition: bool, feature: str) -> None:
    if not condition:
        raise ValueError(f"torchvision's ResNet has no {feature}")


def arguments(ours: ResNet) -> dict[str, Any]:
    """Return the arguments with which torchvision's ResNet is `ours`.

    Dropout rates, which it cannot express, are omitted: they do not change what was learned.

    Raises:
        ValueError: there are none; names what torchvision lacks.
    """
    from torchvision.models import resnet

    _require(ours.widths == WIDTHS, f"widths {ours.widths}")
    _require(ours.dilated_stages <= 3, f"dilated_stages {ours.dilated_stages}")
    _require(ours.activation == "relu", f"activation {ours.activation}")
    _require(ours.pixel_mean is None, "pixel_mean")
    _require(type(ours.pooling) is Mean, f"pooling {type(ours.pooling).__name__}")
    stem = stem_arguments(ours.stem)
    pool = isinstance(ours.stem.pool, MaxPool) and ours.stem.pool.antialias is None
    _require(stem["stem_type"] == "" and pool, "stem other than a 7x7 one with a max pool")
    block: Any = ours.blocks[0]
    _require(all(config_of(one) == config_of(block) for one in ours.blocks), "different blocks")
    grouped = type(block) is Bottleneck
    sizes = (block.groups, block.group_width) if grouped else (1, 64)
    options: dict[str, Any] = {"shortcut": Projection(), "zero_start": block.zero_start}
    plain = Bottleneck(*sizes, **options) if grouped else BasicBlock(**options)
    _require(config_of(block) == config_of(plain), "such parts in its blocks")
    norm, dilated = ours.norm, ours.dilated_stages
    layer: Any = nn.BatchNorm2d
    if isinstance(norm, GroupNormOptions):
        layer = partial(_group_norm, groups=norm.groups, eps=norm.eps)
    elif (norm.eps, norm.momentum) != (1e-5, 0.1):
        layer = partial(nn.BatchNorm2d, eps=norm.eps, momentum=norm.momentum)
    return {
        "block": resnet.Bottleneck if grouped else resnet.BasicBlock,
        "layers": list(ours.depths),
        "num_classes": ours.num_classes or 1,
        "zero_init_residual": False,
        "groups": sizes[0],
        "width_per_group": sizes[1],
        "replace_stride_with_dilation": [stage >= 3 - dilated for stage in range(3)],
        "norm_layer": layer,
    }


def _group_norm(width: int, groups: int, eps: float) -> nn.GroupNorm:
    return nn.GroupNorm(groups, width, eps)


def build_theirs(ours: ResNet) -> Any:
    """Build torchvision's network with the sizes and parts of ours."""
    from torchvision.models.resnet import ResNet as Theirs

    theirs = Theirs(**arguments(ours))
    if not ours.num_classes:
        theirs.fc = nn.Identity()
    if ours.image_channels != 3:
        theirs.conv1 = nn.Conv2d(ours.image_channels, 64, 7, 2, 3, bias=False)
    return theirs


def fits(ours: ResNet) -> bool:
    """Return whether torchvision can express `ours`."""
    try:
        arguments(ours)
    except ValueError:
        return False
    return True


MAPS = [
    Map(
        ours="dlreview.nn.resnet.ResNet",
        theirs="torchvision.models.resnet.ResNet",
        library="torchvision",
        build_ours=build_ours,
        build_theirs=build_theirs,
        table=table,
        fits=fits,
    )
]


def _example() -> Any:
    from torchvision.models import resnet18

    return resnet18(num_classes=10)


EXAMPLES = [Example(_example, lambda: (torch.randn(1, 3, 224, 224, dtype=torch.float64),))]
