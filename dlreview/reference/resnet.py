"""timm's ResNet, with basic and bottleneck blocks, also grouped, wide, with deep stems, SE and ECA.

Not supported: norms other than `BatchNorm2d` and `GroupNorm`, attention other than `SEModule` and
`EcaModule`, antialiasing other than `BlurPool2d` and `AvgPool2d`, drop block, networks without
pooling.
"""

from typing import Any

import torch

from dlreview.nn.conv_layer import GroupNormOptions
from dlreview.nn.residual import AverageProjection
from dlreview.nn.resnet import ResNet
from dlreview.reference.maps import Example, Map
from dlreview.reference.resnet_parts import (
    activation_of,
    blocks_from_modules,
    norm_from_module,
    num_classes_from_module,
    pooling_from_module,
    stages_of,
    stem_from_modules,
    width_of,
)
from dlreview.reference.resnet_timm_arguments import arguments
from dlreview.reference.weights import CONV_AS_LINEAR, Rule

# Names of timm's registry by the classes of the blocks, their attention and antialiasing, and the
# norm: what a folder's arguments cannot hold.
REGISTERED = {
    "BasicBlock": "resnet18",
    "BasicBlock SqueezeExcite": "seresnet18",
    "BasicBlock Blur": "resnetblur18",
    "BasicBlock AveragePool": "resnetaa34d",
    "Bottleneck": "resnet50",
    "Bottleneck GroupNormOptions": "resnet50_gn",
    "Bottleneck SqueezeExcite": "seresnet50",
    "Bottleneck SqueezeExcite4": "resnetrs50",
    "Bottleneck ECA": "ecaresnet26t",
    "Bottleneck Blur": "resnetblur50",
    "Bottleneck AveragePool": "resnetaa50",
    "Bottleneck SqueezeExcite AveragePool": "seresnetaa50d",
    "BasicBlock BasicBlock Bottleneck BasicBlock": "test_resnet",
}


def registered(ours: ResNet) -> list[str]:
    """Return the name of timm's registry for the parts of ours, if there is one."""
    blocks = [type(block).__name__ for block in ours.blocks]
    words, first = blocks[:1] if len(set(blocks)) == 1 else blocks, ours.blocks[0]
    if isinstance(ours.norm, GroupNormOptions):
        words.append("GroupNormOptions")
    if first.attention is not None:
        reduction = getattr(first.attention, "reduction", 16)
        words.append(type(first.attention).__name__ + str(reduction if reduction != 16 else ""))
    if first.antialias is not None:
        words.append(type(first.antialias).__name__)
    name = REGISTERED.get(" ".join(words))
    return [] if name is None else [name]


def build_ours(theirs: Any) -> ResNet:
    """Build ours from the modules of theirs.

    Raises:
        ValueError: a part of theirs is not supported; names its argument.
    """
    stages = stages_of(theirs)
    widths = [width_of(stage[0]) for stage in stages]
    blocks = blocks_from_modules(stages, widths)
    strides = [stage[0].stride for stage in stages[1:]]
    return ResNet(
        widths=widths,
        depths=[len(stage) for stage in stages],
        num_classes=num_classes_from_module(theirs.fc),
        image_channels=next(theirs.conv1.parameters()).shape[1],
        block=blocks[-1] if len({type(block) for block in blocks}) == 1 else blocks,
        stem=stem_from_modules(theirs),
        norm=norm_from_module(theirs.bn1),
        activation=activation_of(theirs),
        pooling=pooling_from_module(theirs.global_pool, theirs.num_features),
        dilated_stages=strides.count(1),
        drop_path=float(getattr(stages[-1][-1].drop_path, "drop_prob", 0.0)),
        head_dropout=float(theirs.drop_rate),
    )


def build_theirs(ours: ResNet) -> Any:
    """Build timm's network with the sizes and parts of ours."""
    from timm.models.resnet import ResNet as Theirs

    return Theirs(**arguments(ours))


def fits(ours: ResNet) -> bool:
    """Return whether timm can express `ours`."""
    try:
        arguments(ours)
    except ValueError:
        return False
    return True


def conv_rules(mine: str, conv: str, norm: str) -> list[Rule]:
    """Pair the names of a convolution with its norm."""
    rules = [(f"{mine}.conv.weight", f"{conv}.weight")]
    return [*rules, (f"{mine}.norm.{{leaf}}", f"{norm}.{{leaf}}")]


def stem_rules(ours: ResNet) -> list[Rule]:
    """Pair the names of the stem's weights; where theirs stand depends on their number."""
    widths, rules = list(ours.stem.widths), list[Rule]()
    if ours.stem.pool is None and len(widths) > 1:  # the last one replaces the pool
        widths.pop()
        rules += conv_rules(f"stem_layers.{len(widths)}", "maxpool.0", "maxpool.1")
    last = len(widths) - 1
    for i in range(last):
        rules += conv_rules(f"stem_layers.{i}", f"conv1.{3 * i}", f"conv1.{3 * i + 1}")
    return rules + conv_rules(
        f"stem_layers.{last}", f"conv1.{3 * last}" if last else "conv1", "bn1"
    )


def table(ours: ResNet) -> list[Rule]:
    """Pair the names of the weights."""
    rules = [*stem_rules(ours), ("head.{leaf}", "fc.{leaf}")]
    for stage, block in enumerate(ours.blocks):
        mine, other = f"stages.{stage}.{{i}}", f"layer{stage + 1}.{{i}}"
        for k in range(3):
            rules += conv_rules(f"{mine}.branch.{k}", f"{other}.conv{k + 1}", f"{other}.bn{k + 1}")
        shortcut = f"{other}.downsample"
        if isinstance(block.shortcut, AverageProjection):
            rules += conv_rules(f"{mine}.shortcut.1", f"{shortcut}.1", f"{shortcut}.2")
        else:
            rules += conv_rules(f"{mine}.shortcut", f"{shortcut}.0", f"{shortcut}.1")
        for n in (1, 2):
            gate = f"{mine}.attention.W_{n}", f"{other}.se.fc{n}"
            rules.append((f"{gate[0]}.weight", f"{gate[1]}.weight", CONV_AS_LINEAR))
            rules.append((f"{gate[0]}.bias", f"{gate[1]}.bias"))
        rules.append((f"{mine}.attention.conv.weight", f"{other}.se.conv.weight"))
    return rules


MAPS = [
    Map(
        ours="dlreview.nn.resnet.ResNet",
        theirs="timm.models.resnet.ResNet",
        library="timm",
        build_ours=build_ours,
        build_theirs=build_theirs,
        table=table,
        fits=fits,
        registry=lambda ours: (registered(ours), arguments(ours)),
    )
]


def _example() -> Any:
    from timm.models.resnet import BasicBlock
    from timm.models.resnet import ResNet as Theirs

    return Theirs(BasicBlock, (2, 2, 2, 2), num_classes=10, channels=(16, 32, 64, 128))


EXAMPLES = [Example(_example, lambda: (torch.randn(4, 3, 64, 64, dtype=torch.float64),))]
