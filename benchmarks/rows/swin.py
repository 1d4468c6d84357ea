"""Swin and timm's SwinTransformer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pair import Pair, Row


def swin(device: str, batch: int, **sizes: Any) -> Pair:
    """Build a classifier and random images."""
    from timm.models.swin_transformer import SwinTransformer

    # Both without stochastic depth, which timm has by default.
    theirs = SwinTransformer(drop_path_rate=0.0, **sizes).to(device)
    images = torch.randn(batch, 3, sizes["img_size"], sizes["img_size"], device=device)
    label = torch.randint(sizes["num_classes"], (batch,), device=device)
    return Pair(theirs, (images,), loss=lambda logits: F.cross_entropy(logits.float(), label))


SMALL = {"img_size": 56, "patch_size": 2, "depths": (2, 2), "num_heads": (3, 6)}
TINY = {"img_size": 224, "patch_size": 4, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}
ROWS = [
    Row("Swin-T batch 128", cuda=lambda: swin("cuda", 128, num_classes=1000, **TINY)),
    Row("Swin 96x(2, 2) batch 16", cpu=lambda: swin("cpu", 16, num_classes=10, **SMALL)),
]
