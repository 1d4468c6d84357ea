"""The levels of a U-Net (row 58): down to half the resolution, up again with skip connections.

Ronneberger et al. 2015, arXiv:1505.04597. Blocks at a low resolution are cheap and see much of the
image; the skips carry the details past them. `Down` and `Up` are the levels, `nn.middle` has what
is between them; a `Resample` is the part of a network that makes its levels.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dlreview.nn.resample import Downsample, Upsample
from dlreview.nn.resnet_block import (
    BlockOptions,
    PixelAttention,
    ResNetBlock,
    group_norm,
    start_at_zero,
)

Features = Float[Tensor, "batch _ _ _"]
Embedding = Float[Tensor, "#batch embedding"]


@dataclass(frozen=True)
class Layers:
    """Make the layers of a network, which differ in their widths and share all other options."""

    image_channels: int
    out_channels: int
    blocks_per_level: int
    groups: int | None
    attention_groups: int | None
    dropout: float
    embedding_width: int
    options: BlockOptions
    output_scale: float = 1.0

    def block(self, width_in: int, width_out: int, **changes: Any) -> ResNetBlock:
        """Make a residual block."""
        shared = {
            "groups": self.groups,
            "eps": self.options.eps,
            "activation": self.options.activation,
            "dropout": self.dropout,
            "scale_shift": self.options.scale_shift,
            "output_scale": self.output_scale,
        }
        return ResNetBlock(width_in, width_out, self.embedding_width, **shared | changes)

    def attention(self, width: int, **changes: Any) -> PixelAttention:
        """Make attention between pixels."""
        shared = {
            "head_width": self.options.head_width,
            "groups": self.attention_groups,
            "eps": self.options.eps,
            "output_scale": self.output_scale,
        }
        return PixelAttention(width, **shared | changes)

    def to_image(self, width: int) -> nn.Sequential:
        """Make the layers that turn features into the pixels of a prediction."""
        norm = group_norm(width, self.groups, self.options.eps)
        conv = start_at_zero(nn.Conv2d(width, self.out_channels, 3, padding=1))
        return nn.Sequential(norm, nn.SiLU(), conv)


class Down(nn.Module):
    """Blocks of one resolution, with or without attention, then a step to half of it."""

    def __init__(self, layers: Layers, width_in: int, width: int, attends: bool) -> None:
        super().__init__()
        self.blocks, self.attentions = nn.ModuleList(), nn.ModuleList()
        for _ in range(layers.blocks_per_level):
            self.blocks.append(layers.block(width_in, width))
            self.attentions.append(layers.attention(width) if attends else nn.Identity())
            width_in = width
        self.resample: nn.Module | None = None  # the coarsest level has none

    def forward(
        self, x: Features, embedding: Embedding, skips: list[Tensor], image: Features
    ) -> tuple[Features, Features]:
        """Return the features and the image for the next level; append to the skips."""
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            x = attention(block(x, embedding))
            skips.append(x)
        if self.resample is not None:
            x, image = self.add_image(self.resample(x, embedding), image)
            skips.append(x)
        return x, image

    def add_image(self, x: Features, image: Features) -> tuple[Features, Features]:
        """Add the image at the new resolution to the features; only a pyramid does."""
        return x, image


class Up(nn.Module):
    """Blocks that each read a skip of their resolution, then a step to twice of it.

    `skips` are the widths of these skips, in the order of reading.
    """

    def __init__(
        self, layers: Layers, width_in: int, width: int, skips: list[int], attends: bool
    ) -> None:
        super().__init__()
        self.blocks, self.attentions = nn.ModuleList(), nn.ModuleList()
        for skip in skips:
            self.blocks.append(layers.block(width_in + skip, width))
            self.attentions.append(layers.attention(width) if attends else nn.Identity())
            width_in = width
        self.resample: nn.Module | None = None  # the finest level has none

    def forward(
        self, x: Features, embedding: Embedding, skips: list[Tensor], output: Features | None
    ) -> tuple[Features, Features | None]:
        """Return the features and the output for the next level; take from the skips."""
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            x = attention(block(torch.cat([x, skips.pop()], dim=1), embedding))
        output = self.add_output(x, output)
        return x if self.resample is None else self.resample(x, embedding), output

    def add_output(self, x: Features, output: Features | None) -> Features | None:
        """Add the output of this level to that of the coarser ones; only a pyramid does."""
        return output


class Resample(nn.Module):
    """How resolution is halved on the way down and doubled on the way up, and so the levels."""

    def __init__(self) -> None:
        super().__init__()

    def make_halving(self, layers: Layers, width: int) -> nn.Module:
        """Make the step down, called with (features, embedding)."""
        raise NotImplementedError

    def make_doubling(self, layers: Layers, width: int) -> nn.Module:
        """Make the step up, called with (features, embedding)."""
        raise NotImplementedError

    def make_down(
        self, layers: Layers, width_in: int, width: int, attends: bool, last: bool
    ) -> Down:
        """Make a level of the way down; the last one keeps its resolution."""
        level = Down(layers, width_in, width, attends)
        level.resample = None if last else self.make_halving(layers, width)
        return level

    def make_up(
        self, layers: Layers, width_in: int, width: int, skips: list[int], attends: bool, last: bool
    ) -> Up:
        """Make a level of the way up; the last one keeps its resolution."""
        level = Up(layers, width_in, width, skips, attends)
        level.resample = None if last else self.make_doubling(layers, width)
        return level


class Strided(Resample):
    """Halve by a convolution with stride 2; double by repeating pixels, then a convolution (DDPM).

    Raises:
        ValueError: `padding` (see `Downsample`) is neither 0 nor 1.
    """

    def __init__(self, padding: int = 1) -> None:
        super().__init__()
        if padding not in (0, 1):
            raise ValueError(f"padding must be 0 or 1, got {padding}")
        self.padding = padding

    def make_halving(self, layers: Layers, width: int) -> nn.Module:
        """Make the convolution."""
        return Downsample(width, self.padding)

    def make_doubling(self, layers: Layers, width: int) -> nn.Module:
        """Make the convolution."""
        return Upsample(width)


class ResidualResample(Resample):
    """Resample in a residual block: average four pixels, or repeat each four times (ADM)."""

    def make_halving(self, layers: Layers, width: int) -> nn.Module:
        """Make the block."""
        return layers.block(width, width, resample=nn.AvgPool2d(2))

    def make_doubling(self, layers: Layers, width: int) -> nn.Module:
        """Make the block."""
        return layers.block(width, width, resample=nn.Upsample(scale_factor=2.0))


class DownUp(Resample):
    """Make the way down by one part and the way up by another."""

    def __init__(self, down: Resample, up: Resample) -> None:
        super().__init__()
        self.down, self.up = down, up

    def make_down(self, *arguments: Any, **options: Any) -> Down:
        """See `Resample.make_down`."""
        return self.down.make_down(*arguments, **options)

    def make_up(self, *arguments: Any, **options: Any) -> Up:
        """See `Resample.make_up`."""
        return self.up.make_up(*arguments, **options)
