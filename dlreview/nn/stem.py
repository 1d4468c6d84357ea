"""Stems: the convolutions with which a network enters an image, before its first stage.

The 7x7 stem: He et al. 2015, arXiv:1512.03385, table 1. The deep stem: He et al. 2019,
arXiv:1812.01187, figure 2b.
"""

from torch import nn

from dlreview.messages import check_at_least
from dlreview.nn.conv_layer import AveragePool, Layers, MaxPool


class Stem(nn.Module):
    """Options of any stem: convolutions one after another, then `pool`, if any.

    Args:
        widths: Channels after each convolution.
        kernel_sizes: Their odd kernel sizes in pixels.
        strides: Their strides.
        pool: What halves the resolution at the end; None for nothing.

    Raises:
        ValueError: The lists differ in length, a number is below 1, or a kernel size is even.
    """

    def __init__(
        self,
        widths: list[int],
        kernel_sizes: list[int],
        strides: list[int],
        pool: MaxPool | AveragePool | None = None,
    ) -> None:
        super().__init__()
        for name, sizes in (("kernel_sizes", kernel_sizes), ("strides", strides)):
            if len(sizes) != len(widths):
                raise ValueError(f"{name} must be {len(widths)} numbers, like widths, got {sizes}")
        check_at_least(1, widths=min(widths, default=0), strides=min(strides, default=0))
        if any(size < 1 or size % 2 == 0 for size in kernel_sizes):
            raise ValueError(f"kernel_sizes must be odd, got {kernel_sizes}")
        self.widths, self.kernel_sizes, self.strides = widths, kernel_sizes, strides
        self.pool = pool

    def make(self, layers: Layers, image_channels: int) -> nn.Sequential:
        """Make the layers."""
        made, width_in = nn.Sequential(), image_channels
        for width, size, stride in zip(self.widths, self.kernel_sizes, self.strides, strict=True):
            made.append(layers.conv(width_in, width, size, stride))
            width_in = width
        return made if self.pool is None else made.append(self.pool)


class ImageNetStem(Stem):
    """A 7x7 convolution with stride 2 and a max pool: for images of 200 pixels and more.

    `pool` None stands for the max pool.
    """

    def __init__(self, width: int = 64, pool: MaxPool | AveragePool | None = None) -> None:
        super().__init__([width], [7], [2], pool or MaxPool())
        self.width = width


class SmallImageStem(Stem):
    """A 3x3 convolution at full resolution: for images of 8 to 64 pixels (section 4.2)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__([width], [3], [1])
        self.width = width


class DeepStem(Stem):
    """Three 3x3 convolutions in place of the 7x7 one, the first with stride 2, and a pool.

    `widths` None stands for [32, 32, 64], and `pool` None for the max pool.
    """

    def __init__(
        self, widths: list[int] | None = None, pool: MaxPool | AveragePool | None = None
    ) -> None:
        super().__init__(widths or [32, 32, 64], [3, 3, 3], [2, 1, 1], pool or MaxPool())
