"""Halve and double the resolution of feature maps (row 58)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Downsample(nn.Module):
    """Halve height and width by a convolution with stride 2.

    With `padding` 1 there are zeros on all sides; with 0 only on the right and at the bottom, as in
    the original DDPM. The embedding is an argument so that a `ResNetBlock` can replace this layer;
    it is not used.

    Raises:
        ValueError: `padding` is neither 0 nor 1.
    """

    def __init__(self, width: int, padding: int = 1) -> None:
        super().__init__()
        if padding not in (0, 1):
            raise ValueError(f"padding must be 0 or 1, got {padding}")
        self.padding = padding
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=padding)

    def forward(
        self,
        x: Float[Tensor, "batch width height columns"],
        embedding: Float[Tensor, "#batch embedding"] | None = None,
    ) -> Float[Tensor, "batch width half_height half_columns"]:
        """Halve the resolution."""
        return self.conv(x if self.padding else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double height and width: repeat each pixel, then convolve. The embedding is not used.

    A 3x3 window over repeated pixels covers only 2x2 different pixels. So the weights can be summed
    first, to a transposed convolution of the small map with 4x4 weights: 4/9 of the work.
    """

    taps: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        # In one dimension a pixel contributes to four outputs: its two copies and a neighbour of
        # each, with weights 2, 1 + 2, 0 + 1 and 0 of the three (the columns of `line`). In two
        # dimensions these sums multiply.
        line = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
        self.register_buffer("taps", torch.kron(line, line), persistent=False)

    def forward(
        self,
        x: Float[Tensor, "batch width height columns"],
        embedding: Float[Tensor, "#batch embedding"] | None = None,
    ) -> Float[Tensor, "batch width twice_height twice_columns"]:
        """Double the resolution."""
        if self.is_faster_transposed(x):
            weight = (self.conv.weight.flatten(2) @ self.taps).unflatten(2, (4, 4)).transpose(0, 1)
            return F.conv_transpose2d(x, weight, self.conv.bias, stride=2, padding=1)
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))

    def is_faster_transposed(self, x: Float[Tensor, "batch width height columns"]) -> bool:
        """Whether summing the weights costs less than it saves: for many pixels it does.

        This was measured on CPUs. Half precision would round the sums, and a convolution that has
        been replaced by another layer must be called as it is.
        """
        return (
            x.device.type == "cpu"
            and x.dtype in (torch.float32, torch.float64)
            and x.numel() >= 1024 * x.shape[1]
            and type(self.conv) is nn.Conv2d
        )


class Smooth(nn.Module):
    """Halve or double height and width through the low-pass filter (1, 3, 3, 1) / 8.

    It keeps the image's mean and position, and has no parameters: the filter of StyleGAN2 (Karras
    et al. 2020, arXiv:1912.04958), which NCSN++ uses too. With `twice` it doubles, else it halves.
    """

    kernel: Tensor

    def __init__(self, twice: bool) -> None:
        super().__init__()
        self.twice = twice
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        # Doubling distributes each pixel over four.
        kernel = torch.outer(taps, taps) * (4 if twice else 1)
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(
        self, x: Float[Tensor, "batch width height columns"]
    ) -> Float[Tensor, "batch width new_height new_columns"]:
        """Filter each channel separately."""
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, 4, 4)
        resample = F.conv_transpose2d if self.twice else F.conv2d
        return resample(x, kernel, stride=2, padding=1, groups=channels)
