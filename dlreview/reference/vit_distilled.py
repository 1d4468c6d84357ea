"""timm's VisionTransformerDistilled: DeiT with a distillation token, which is a register of ours.

Not supported: what timm's VisionTransformer has and this class ignores (registers, positions of
patches only, a norm of the head), and its training with two losses.
"""

from typing import Any

import torch

from dlreview.nn.pooling import ClassAndDistillation
from dlreview.nn.positions import LearnedPositions
from dlreview.nn.vit import ViT
from dlreview.reference import vit
from dlreview.reference.maps import Example, Map
from dlreview.reference.vit_timm_arguments import arguments
from dlreview.reference.weights import Rule


def build_ours(theirs: Any) -> ViT:
    """Build ours.

    Raises:
        ValueError: an option of theirs is not supported.
    """
    ignored = {
        "reg_tokens": theirs.num_reg_tokens > 0,
        "no_embed_class": theirs.no_embed_class,
        "fc_norm": any(True for _ in theirs.fc_norm.parameters()),
        "distilled_training": theirs.distilled_training,
    }
    for field, is_set in ignored.items():
        if is_set:
            raise ValueError(f"{field} is not supported in VisionTransformerDistilled")
    special = {"registers": 1, "pooling": ClassAndDistillation()}
    return ViT(**vit.our_arguments(theirs) | special)


def their_arguments(ours: ViT) -> dict[str, Any]:
    """Return the arguments with which timm's class is `ours`.

    Raises:
        ValueError: there are none; names what timm lacks.
    """
    found = arguments(ours, {ClassAndDistillation: "token"})
    two = (ours.class_token, ours.registers) == (True, 1) and ours.head_norm is None
    if not two or not isinstance(ours.positions, LearnedPositions) or ours.positions.prefix != 2:
        raise ValueError("timm's VisionTransformerDistilled has two special tokens with positions")
    return found | {"reg_tokens": 0}


def build_theirs(ours: ViT) -> Any:
    """Build theirs."""
    from timm.models.deit import VisionTransformerDistilled

    return VisionTransformerDistilled(**their_arguments(ours))


def fits(ours: ViT) -> bool:
    """Return whether timm's class can express `ours`."""
    try:
        their_arguments(ours)
    except ValueError:
        return False
    return True


def table(ours: ViT) -> list[Rule]:
    """Pair the names of the weights."""
    others = ("register_embeddings", "head.{leaf}")
    return [
        *(rule for rule in vit.table(ours) if rule[0] not in others),
        ("register_embeddings", "dist_token"),
        ("head.heads.0.{leaf}", "head.{leaf}"),
        ("head.heads.1.{leaf}", "head_dist.{leaf}"),
    ]


MAPS = [
    Map(
        ours="dlreview.nn.vit.ViT",
        theirs="timm.models.deit.VisionTransformerDistilled",
        library="timm",
        build_ours=build_ours,
        build_theirs=build_theirs,
        table=table,
        fits=fits,
        registry=lambda ours: (["deit_tiny_distilled_patch16_224"], their_arguments(ours)),
    )
]


def _example() -> Any:
    from timm.models.deit import VisionTransformerDistilled

    sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 6}
    return VisionTransformerDistilled(**sizes, num_classes=10)


EXAMPLES = [Example(_example, lambda: (torch.randn(8, 3, 32, 32, dtype=torch.float64),))]
