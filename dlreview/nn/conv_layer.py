"""The layers of convolutional networks: a convolution without bias, a norm, an activation.

Batch norm: Ioffe & Szegedy 2015, arXiv:1502.03167. Group norm: Wu & He 2018, arXiv:1803.08494.
Antialiasing: Zhang 2019, arXiv:1904.11486.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dlreview.messages import check_at_least, check_divisible
from dlreview.nn.activation import find_activation, identity
from dlreview.nn.group_norm import GroupNorm

Features = Float[Tensor, "batch _ _ _"]


class BatchNormOptions(nn.Module):
    """Options of all batch norms of a network.

    `momentum` is the weight of a new batch in the running statistics; None averages all batches.

    Raises:
        ValueError: `eps` is negative.
    """

    def __init__(self, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        check_at_least(0, eps=eps)
        self.eps, self.momentum = eps, momentum

    def make(self, width: int) -> nn.BatchNorm2d:
        """Make a norm."""
        return nn.BatchNorm2d(width, self.eps, self.momentum)


class GroupNormOptions(nn.Module):
    """Options of all group norms of a network, which need no statistics of a batch.

    Raises:
        ValueError: `groups` is below 1 or `eps` is negative.
    """

    def __init__(self, groups: int = 32, eps: float = 1e-5) -> None:
        super().__init__()
        check_at_least(1, groups=groups)
        check_at_least(0, eps=eps)
        self.groups, self.eps = groups, eps

    def make(self, width: int) -> GroupNorm:
        """Make a norm.

        Raises:
            ValueError: `groups` does not divide `width`.
        """
        check_divisible("width", width, "groups", self.groups)
        return GroupNorm(self.groups, width, self.eps)


class AveragePool(nn.Module):
    """Halve height and width by the mean of 2x2 pixels."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Features) -> Features:
        """Pool."""
        return F.avg_pool2d(x, 2)


class Blur(nn.Module):
    """Halve height and width through the low-pass filter (1, 2, 1) / 4; edges are reflected."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", torch.outer(taps, taps), persistent=False)

    def forward(self, x: Features) -> Features:
        """Filter each channel separately, then take every second pixel."""
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], 1, 3, 3)
        x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(x, kernel, stride=2, groups=x.shape[1])


class MaxPool(nn.Module):
    """Halve height and width by the largest of 3x3 pixels.

    With `antialias` the largest values are taken around every pixel, and `antialias` halves.
    """

    def __init__(self, antialias: Blur | None = None) -> None:
        super().__init__()
        self.antialias = antialias

    def forward(self, x: Features) -> Features:
        """Pool."""
        if self.antialias is None:
            return F.max_pool2d(x, 3, stride=2, padding=1)
        return self.antialias(F.max_pool2d(x, 3, stride=1, padding=1))


class ConvLayer(nn.Module):
    """Compute antialias(f(norm(conv(x)))); without `antialias` f(norm(conv(x)))."""

    def __init__(
        self, conv: nn.Conv2d, norm: nn.Module, activation: str, antialias: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv, self.norm, self.antialias = conv, norm, antialias
        self.f = find_activation(activation)

    def forward(self, x: Features) -> Features:
        """Transform."""
        y = activate(self.f, self.norm(self.conv(x)))
        return y if self.antialias is None else self.antialias(y)


def activate(f: object, x: Features) -> Features:
    """Apply an activation; ReLU in place, for which a norm or a sum before it must be unused."""
    if f is F.relu:
        return F.relu_(x)
    return x if f is identity else f(x)  # type: ignore[operator]


@dataclass(frozen=True)
class Layers:
    """What the layers of one network have in common, and how they are made."""

    norm: BatchNormOptions | GroupNormOptions
    activation: str

    def conv(
        self,
        width_in: int,
        width: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        antialias: nn.Module | None = None,
        activation: str | None = None,
    ) -> ConvLayer:
        """Make a layer; with `antialias` this halves the resolution, not the convolution's stride.

        Raises:
            ValueError: `groups` does not divide a width, or the activation is unknown.
        """
        check_divisible("width", width_in, "groups", groups)
        check_divisible("width", width, "groups", groups)
        smooth = antialias if stride == 2 else None
        conv = nn.Conv2d(
            width_in,
            width,
            kernel_size,
            stride=stride if smooth is None else 1,
            padding=dilation * (kernel_size - 1) // 2,
            dilation=dilation,
            groups=groups,
            bias=False,
        )
        return ConvLayer(conv, self.norm.make(width), activation or self.activation, smooth)
