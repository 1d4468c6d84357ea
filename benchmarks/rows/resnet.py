"""ResNet and timm's. Ours always orders memory by channels last; theirs as its user says."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pair import Pair, Row


def resnet(device: str, batch: int, side: int, order: torch.memory_format, **sizes: Any) -> Pair:
    """Build a classifier and random images."""
    from timm.models import resnet

    theirs = resnet.ResNet(block=getattr(resnet, sizes.pop("block")), **sizes).to(
        device, memory_format=order
    )
    images = torch.randn(batch, 3, side, side, device=device).contiguous(memory_format=order)
    label = torch.randint(sizes["num_classes"], (batch,), device=device)
    return Pair(theirs, (images,), loss=lambda logits: F.cross_entropy(logits.float(), label))


SMALL = {"block": "BasicBlock", "layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256)}
R50 = {"block": "Bottleneck", "layers": (3, 4, 6, 3), "num_classes": 1000}
ROWS = [
    Row(
        "ResNet-50 batch 256",
        cuda=lambda: resnet("cuda", 256, 224, torch.channels_last, **R50),
    ),
    *(
        Row(
            f"ResNet batch 16{name}",
            cpu=lambda order=order: resnet("cpu", 16, 64, order, num_classes=10, **SMALL),
        )
        for name, order in (
            ("", torch.contiguous_format),
            (", timm's in channels-last, too", torch.channels_last),
        )
    ),
]
