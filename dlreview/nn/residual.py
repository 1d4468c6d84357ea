"""Residual blocks (He et al. 2015, arXiv:1512.03385): y = f(x + F(x)), eq. 1.

Where width or resolution change, a shortcut W_s transforms x: y = f(W_s x + F(x)), eq. 2. Groups
(ResNeXt): Xie et al. 2017, arXiv:1611.05431. Wide bottlenecks: Zagoruyko & Komodakis 2016,
arXiv:1605.07146. The average-pool shortcut and the zero start: He et al. 2019, arXiv:1812.01187.
Dilation in place of strides: Yu et al. 2017, arXiv:1705.09914. As in most libraries, a bottleneck
halves the resolution in its 3x3 convolution; the paper does it in the 1x1 convolution before.
"""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from dlreview.messages import check_at_least, check_divisible
from dlreview.nn.activation import find_activation
from dlreview.nn.channel_attention import ECA, SqueezeExcite
from dlreview.nn.conv_layer import AveragePool, Blur, Layers, activate
from dlreview.nn.stochastic_depth import drop_path

Features = Float[Tensor, "batch _ _ _"]


class ResidualBlock(nn.Module):
    """Compute f(shortcut(x) + attention(branch(x))); without a shortcut x is added as it is."""

    def __init__(
        self,
        branch: nn.Sequential,
        shortcut: nn.Module | None,
        attention: nn.Module | None,
        activation: str,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.branch, self.shortcut, self.attention = branch, shortcut, attention
        self.f, self.drop_path = find_activation(activation), drop_path

    def forward(self, x: Features) -> Features:
        """Transform."""
        y = self.branch(x)
        if self.attention is not None:
            y = self.attention(y)
        y = drop_path(y, self.drop_path, self.training)
        y += x if self.shortcut is None else self.shortcut(x)
        return activate(self.f, y)


@dataclass(frozen=True)
class Place:
    """Where a block stands: its channels, stride and dilation; `before` is that of the last block.

    `width` is the width of the stage, and `width_out` the number of channels after the block.
    """

    width_in: int
    width: int
    width_out: int
    stride: int = 1
    before: int = 1
    dilation: int = 1


class Projection(nn.Module):
    """A shortcut by a convolution, with a stride where the resolution changes.

    Raises:
        ValueError: `kernel_size` is even or below 1.
    """

    def __init__(self, kernel_size: int = 1) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        self.kernel_size = kernel_size

    def make(self, layers: Layers, place: Place) -> nn.Module:
        """Make the layer; where neither stride nor dilation change, 1x1 pixels are enough."""
        size = 1 if place.stride == place.dilation == 1 else self.kernel_size
        return layers.conv(
            place.width_in,
            place.width_out,
            size,
            place.stride,
            place.before if size > 1 else 1,
            activation="identity",
        )


class AverageProjection(nn.Module):
    """A shortcut by a mean of 2x2 pixels and a 1x1 convolution: no pixel is left out."""

    def __init__(self) -> None:
        super().__init__()

    def make(self, layers: Layers, place: Place) -> nn.Module:
        """Make the layers; at the lower and right edge the mean is of the pixels there are."""
        pool: nn.Module = nn.Identity()
        if place.dilation > 1:  # the same means, at every pixel
            pool = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.AvgPool2d(2, 1))
        elif place.stride > 1:
            pool = nn.AvgPool2d(2, place.stride, ceil_mode=True, count_include_pad=False)
        conv = layers.conv(place.width_in, place.width_out, 1, activation="identity")
        return nn.Sequential(pool, conv)


class BasicBlock(nn.Module):
    """Options of blocks whose branch is two 3x3 convolutions.

    Args:
        shortcut: What transforms x where shapes change; None for a 1x1 projection.
        attention: Channel attention at the end of the branch.
        antialias: What halves the resolution in the branch, after a convolution without stride;
            None for a convolution with stride.
        reduce_first: The first convolution has this many times fewer channels.
        zero_start: Whether the last norm of each branch starts at 0, so that a block starts as f.

    Raises:
        ValueError: `reduce_first` is below 1.
    """

    expansion = 1

    def __init__(
        self,
        shortcut: Projection | AverageProjection | None = None,
        attention: SqueezeExcite | ECA | None = None,
        antialias: AveragePool | Blur | None = None,
        reduce_first: int = 1,
        zero_start: bool = True,
    ) -> None:
        super().__init__()
        check_at_least(1, reduce_first=reduce_first)
        self.shortcut, self.attention = shortcut or Projection(), attention
        self.antialias, self.reduce_first, self.zero_start = antialias, reduce_first, zero_start

    def branch(self, layers: Layers, place: Place) -> nn.Sequential:
        """Make the branch F."""
        first = place.width // self.reduce_first
        return nn.Sequential(
            layers.conv(
                place.width_in, first, 3, place.stride, place.before, antialias=self.antialias
            ),
            layers.conv(first, place.width_out, 3, dilation=place.dilation, activation="identity"),
        )

    def make(self, layers: Layers, place: Place, drop_path: float) -> ResidualBlock:
        """Make a block."""
        check_divisible("width", place.width, "reduce_first", self.reduce_first)
        branch = self.branch(layers, place)
        changes = place.stride != 1 or place.width_in != place.width_out
        shortcut = self.shortcut.make(layers, place) if changes else None
        attention = None if self.attention is None else self.attention.make(place.width_out)
        if self.zero_start:
            last: Any = branch[-1]
            nn.init.zeros_(last.norm.weight)
        return ResidualBlock(branch, shortcut, attention, layers.activation, drop_path)


class Bottleneck(BasicBlock):
    """Options of blocks of 1x1, 3x3 and 1x1 convolutions; the last has four times the width.

    Args:
        groups: Groups of the 3x3 convolution.
        group_width: Channels of a group in a stage of width 64, otherwise in proportion: with 1
            group 64 is the paper's ResNet and 128 a wide one, with 32 groups 4 is ResNeXt 32x4d.
        shortcut: See `BasicBlock`, also for the other arguments.

    Raises:
        ValueError: `groups`, `group_width` or `reduce_first` is below 1.
    """

    expansion = 4

    def __init__(
        self,
        groups: int = 1,
        group_width: int = 64,
        shortcut: Projection | AverageProjection | None = None,
        attention: SqueezeExcite | ECA | None = None,
        antialias: AveragePool | Blur | None = None,
        reduce_first: int = 1,
        zero_start: bool = True,
    ) -> None:
        super().__init__(shortcut, attention, antialias, reduce_first, zero_start)
        check_at_least(1, groups=groups, group_width=group_width)
        self.groups, self.group_width = groups, group_width

    def inner_width(self, width: int) -> int:
        """Return the number of channels of the 3x3 convolution."""
        return width * self.group_width // 64 * self.groups

    def branch(self, layers: Layers, place: Place) -> nn.Sequential:
        """Make the branch F."""
        inner = self.inner_width(place.width)
        check_at_least(1, inner_width=inner)
        first = inner // self.reduce_first
        return nn.Sequential(
            layers.conv(place.width_in, first, 1),
            layers.conv(first, inner, 3, place.stride, place.before, self.groups, self.antialias),
            layers.conv(inner, place.width_out, 1, activation="identity"),
        )
