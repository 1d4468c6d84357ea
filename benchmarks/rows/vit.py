"""ViT and timm's VisionTransformer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pair import Pair, Row


def vit(device: str, batch: int, **sizes: int) -> Pair:
    """Build a classifier and random images."""
    from timm.models.vision_transformer import VisionTransformer

    theirs = VisionTransformer(**sizes).to(device)
    images = torch.randn(batch, 3, sizes["img_size"], sizes["img_size"], device=device)
    label = torch.randint(sizes["num_classes"], (batch,), device=device)
    return Pair(theirs, (images,), loss=lambda logits: F.cross_entropy(logits.float(), label))


SMALL = {"img_size": 32, "patch_size": 4, "embed_dim": 192, "depth": 6, "num_heads": 3}
BASE = {"img_size": 224, "patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12}
ROWS = [
    Row("ViT-B/16 batch 128", cuda=lambda: vit("cuda", 128, num_classes=1000, **BASE)),
    Row("ViT 192x6 batch 16", cpu=lambda: vit("cpu", 16, num_classes=10, **SMALL)),
]
