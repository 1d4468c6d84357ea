"""The levels of a U-Net (row 58): go down to half the resolution, come up and read the skips.

Ronneberger et al. 2015, arXiv:1505.04597. A "pyramid" carries the image itself down beside the
features and adds up the output on the way up (Song et al. 2021, arXiv:2011.13456, appendix H).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dlreview.nn.resample import Downsample, Smooth, Upsample
from dlreview.nn.resnet_block import PixelAttention, ResNetBlock, group_norm, start_at_zero

Features = Float[Tensor, "batch _ _ _"]
Embedding = Float[Tensor, "#batch embedding"]
ROOT_2 = math.sqrt(2)  # divides sums in a pyramid, so that their variance stays


@dataclass(frozen=True)
class Parts:
    """Make the parts of a network from what is alike all over it.

    `kind` is how a level changes its resolution: "conv", "residual" or "pyramid"; of the last, the
    groups go by the width.
    """

    embedding_width: int
    groups: int | None
    head_width: int | None
    eps: float
    activation: str
    dropout: float
    scale_shift: bool
    padding: int

    def block(self, width_in: int, width: int, kind: str, **options: Any) -> ResNetBlock:
        """Make a residual block."""
        if kind == "pyramid":
            options = {"groups": None, "output_scale": ROOT_2} | options
        options = {"groups": self.groups, "dropout": self.dropout} | options
        options |= {"scale_shift": self.scale_shift, "activation": self.activation}
        return ResNetBlock(width_in, width, self.embedding_width, eps=self.eps, **options)

    def attention(self, width: int, kind: str) -> PixelAttention:
        """Make attention between pixels."""
        groups, scale = (32, ROOT_2) if kind == "pyramid" else (self.groups, 1.0)
        return PixelAttention(width, self.head_width, groups, self.eps, output_scale=scale)

    def halve(self, width: int, kind: str) -> nn.Module:
        """Make the step down."""
        if kind == "conv":
            return Downsample(width, self.padding)
        pool = Smooth(twice=False) if kind == "pyramid" else nn.AvgPool2d(2)
        return self.block(width, width, kind, resample=pool, project=kind == "pyramid")

    def double(self, width: int, kind: str) -> nn.Module:
        """Make the step up."""
        if kind == "conv":
            return Upsample(width)
        repeat = Smooth(twice=True) if kind == "pyramid" else nn.Upsample(scale_factor=2.0)
        return self.block(width, width, kind, resample=repeat, project=kind == "pyramid")

    def to_image(self, width: int, channels: int, groups: int | None) -> nn.Sequential:
        """Make pixels of features."""
        norm = group_norm(width, groups, self.eps)
        conv = start_at_zero(nn.Conv2d(width, channels, 3, padding=1))
        return nn.Sequential(norm, nn.SiLU(), conv)


class Down(nn.Module):
    """Blocks of one resolution, each with its attention or none, then the step to half of it.

    `skips` are the widths of all features that the way up will read; here they grow. Of a pyramid
    `image_channels` are halved too, and join the features.
    """

    def __init__(
        self,
        parts: Parts,
        width: int,
        blocks: int,
        attention: bool,
        kind: str,
        last: bool,
        image_channels: int,
        skips: list[int],
    ) -> None:
        super().__init__()
        self.blocks, self.attentions = nn.ModuleList(), nn.ModuleList()
        for _ in range(blocks):
            self.blocks.append(parts.block(skips[-1], width, kind))
            self.attentions.append(parts.attention(width, kind) if attention else nn.Identity())
            skips.append(width)
        self.resample = self.from_image = None
        if not last:
            self.resample = parts.halve(width, kind)
            skips.append(width)
            if kind == "pyramid":
                self.smooth = Smooth(twice=False)
                self.from_image = nn.Conv2d(image_channels, width, 1)

    def forward(
        self, x: Features, embedding: Embedding, skips: list[Tensor], image: Features
    ) -> tuple[Features, Features]:
        """Return the features and the image for the next level; append to the skips."""
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            x = attention(block(x, embedding))
            skips.append(x)
        if self.resample is not None:
            x = self.resample(x, embedding)
            if self.from_image is not None:
                image = self.smooth(image)
                x = x + self.from_image(image)
            skips.append(x)
        return x, image


class Waist(nn.Module):
    """Two blocks at the narrowest place, attention between them; `groups` 0 is without a norm."""

    def __init__(
        self, parts: Parts, width: int, attention: bool, groups: int | None, scale: float
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            parts.block(width, width, "conv", output_scale=scale) for _ in range(2)
        )
        self.attention: nn.Module = nn.Identity()
        if attention:
            self.attention = PixelAttention(
                width,
                parts.head_width,
                parts.groups if groups is None else groups,
                parts.eps,
                normalise=groups != 0,
                output_scale=scale,
            )

    def forward(self, x: Features, embedding: Embedding) -> Features:
        """Keep the shape."""
        first, second = self.blocks
        return second(self.attention(first(x, embedding)), embedding)


class Up(nn.Module):
    """Blocks that each read a skip of their resolution, then the step to twice of it.

    `skips` shrink by the widths that are read. A pyramid doubles the output that smaller levels
    have made, and adds its own `image_channels` to it; it attends once, after its last block.
    """

    def __init__(
        self,
        parts: Parts,
        width_in: int,
        width: int,
        blocks: int,
        attention: bool,
        kind: str,
        last: bool,
        image_channels: int,
        skips: list[int],
    ) -> None:
        super().__init__()
        self.blocks, self.attentions = nn.ModuleList(), nn.ModuleList()
        pyramid = kind == "pyramid"
        for i in range(blocks):
            skip = skips.pop()
            # Where a pyramid attends, diffusers counts the groups of the first norm otherwise.
            odd = {"in_groups": min(width_in + skip // 4, 32)} if pyramid and attention else {}
            self.blocks.append(parts.block(width_in + skip, width, kind, **odd))
            here = attention and (not pyramid or i == blocks - 1)
            self.attentions.append(parts.attention(width, kind) if here else nn.Identity())
            width_in = width
        self.resample = None if last else parts.double(width, kind)
        self.smooth = Smooth(twice=True) if pyramid else None
        self.to_image = (
            parts.to_image(width, image_channels, None) if pyramid and not last else None
        )

    def forward(
        self, x: Features, embedding: Embedding, skips: list[Tensor], output: Features | None
    ) -> tuple[Features, Features | None]:
        """Return the features and the output so far for the next level; take from the skips."""
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            x = attention(block(torch.cat([x, skips.pop()], dim=1), embedding))
        if self.smooth is not None and output is not None:
            output = self.smooth(output)
        if self.to_image is not None:
            output = self.to_image(x) if output is None else self.to_image(x) + output
        return x if self.resample is None else self.resample(x, embedding), output
