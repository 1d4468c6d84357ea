"""transformers' ResNetModel and ResNetForImageClassification.

Not supported: strides in the first convolution of a bottleneck and in the first stage; activations
other than ReLU, because their branches have ReLU whatever `hidden_act` is.
"""

from functools import partial
from typing import Any

import torch

from dlreview.nn.conv_layer import BatchNormOptions, MaxPool
from dlreview.nn.pooling import Mean
from dlreview.nn.residual import BasicBlock, Bottleneck, Projection
from dlreview.nn.resnet import ResNet
from dlreview.nn.stem import ImageNetStem
from dlreview.reference.maps import Example, Map
from dlreview.reference.resnet_parts import norm_from_module
from dlreview.reference.weights import Rule
from dlreview.saved import config_of

BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


def build_ours(theirs: Any) -> ResNet:
    """Build ours from the configuration of theirs.

    Raises:
        ValueError: a field has a value that is not supported.
    """
    config, classifier = theirs.config, hasattr(theirs, "classifier")
    block = BLOCKS[config.layer_type]()
    for name in ("downsample_in_first_stage", "downsample_in_bottleneck"):
        if getattr(config, name) and (name != "downsample_in_bottleneck" or block.expansion > 1):
            raise ValueError(f"{name}=True is not supported: use False")
    if config.hidden_act != "relu":
        raise ValueError(f"hidden_act={config.hidden_act!r} is not supported: use 'relu'")
    if any(size % block.expansion for size in config.hidden_sizes):
        raise ValueError(f"hidden_sizes={config.hidden_sizes} must be divisible by 4")
    body = theirs.resnet if classifier else theirs
    return ResNet(
        widths=[size // block.expansion for size in config.hidden_sizes],
        depths=list(config.depths),
        num_classes=theirs.num_labels if classifier else None,
        image_channels=config.num_channels,
        block=block,
        stem=ImageNetStem(config.embedding_size),
        norm=norm_from_module(body.embedder.embedder.normalization),
    )


def _require(condition: bool, feature: str) -> None:
    if not condition:
        raise ValueError(f"transformers' ResNet has no {feature}")


def arguments(ours: ResNet, kind: str) -> dict[str, Any]:
    """Return the configuration with which the class `kind` of transformers is `ours`.

    Dropout rates, which it cannot express, are omitted: they do not change what was learned.

    Raises:
        ValueError: there is none; names what the class lacks.
    """
    classifier = kind == "ResNetForImageClassification"
    _require((ours.num_classes is not None) == classifier, f"num_classes {ours.num_classes}")
    stem, norm, blocks = ours.stem, ours.norm, ours.blocks
    first = (stem.kernel_sizes, stem.strides) == ([7], [2])
    pool = isinstance(stem.pool, MaxPool) and stem.pool.antialias is None
    _require(first and pool, "stem other than a 7x7 convolution and a max pool")
    batch_norm = isinstance(norm, BatchNormOptions) and (norm.eps, norm.momentum) == (1e-5, 0.1)
    _require(batch_norm, "norm other than a batch norm with eps 1e-5 and momentum 0.1")
    _require(ours.activation == "relu", f"activation {ours.activation}")
    _require(ours.pixel_mean is None, "pixel_mean")
    _require(type(ours.pooling) is Mean, f"pooling {type(ours.pooling).__name__}")
    _require(ours.dilated_stages == 0, f"dilated_stages {ours.dilated_stages}")
    plain = {type(block): config_of(type(block)(shortcut=Projection())) for block in blocks}
    same = [config_of(b)["init_args"] | {"zero_start": True} for b in blocks]
    _require(len(plain) == 1, "blocks of several kinds")
    ((block, wanted),) = plain.items()
    _require(all(one == wanted["init_args"] for one in same), "groups or parts in its blocks")
    kinds = {cls: name for name, cls in BLOCKS.items()}
    return {
        "num_channels": ours.image_channels,
        "embedding_size": stem.widths[0],
        "hidden_sizes": ours.feature_widths,
        "depths": list(ours.depths),
        "layer_type": kinds[block],
        **({"num_labels": ours.num_classes} if classifier else {}),
    }


def build_theirs(ours: ResNet, kind: str) -> Any:
    """Build the class `kind` of transformers with the sizes of ours."""
    import transformers

    return getattr(transformers, kind)(transformers.ResNetConfig(**arguments(ours, kind)))


def fits(ours: ResNet, kind: str) -> bool:
    """Return whether the class `kind` of transformers can express `ours`."""
    try:
        arguments(ours, kind)
    except ValueError:
        return False
    return True


def table(ours: ResNet, kind: str) -> list[Rule]:
    """Pair the names of the weights."""
    body = "resnet." if kind == "ResNetForImageClassification" else ""
    block = f"{body}encoder.stages.{{s}}.layers.{{i}}"
    pairs = {
        "stem_layers.0": f"{body}embedder.embedder",
        "stages.{s}.{i}.branch.{k}": f"{block}.layer.{{k}}",
        "stages.{s}.{i}.shortcut": f"{block}.shortcut",
    }
    rules: list[Rule] = [("head.{leaf}", "classifier.1.{leaf}")]
    for mine, other in pairs.items():
        rules.append((f"{mine}.conv.weight", f"{other}.convolution.weight"))
        rules.append((f"{mine}.norm.{{leaf}}", f"{other}.normalization.{{leaf}}"))
    return rules


KINDS = ("ResNetModel", "ResNetForImageClassification")
MAPS = [
    Map(
        ours="dlreview.nn.resnet.ResNet",
        theirs=f"transformers.{kind}",
        library="transformers",
        build_ours=build_ours,
        build_theirs=partial(build_theirs, kind=kind),
        table=partial(table, kind=kind),
        fits=partial(fits, kind=kind),
    )
    for kind in KINDS
]


def _example(kind: str) -> Any:
    import transformers

    sizes = {"embedding_size": 16, "hidden_sizes": [64, 128], "depths": [2, 2]}
    return getattr(transformers, kind)(transformers.ResNetConfig(**sizes, num_labels=10))


def _call_theirs(net: Any, images: Any) -> Any:
    output = net(images)
    return output.logits if hasattr(output, "logits") else output.pooler_output.flatten(1)


EXAMPLES = [
    Example(
        partial(_example, kind),
        lambda: (torch.randn(4, 3, 64, 64, dtype=torch.float64),),
        call_theirs=_call_theirs,
    )
    for kind in KINDS
]
