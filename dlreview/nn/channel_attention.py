"""Channel attention: scale each channel of a feature map by a gate that all channels decide.

Squeeze-and-excitation: Hu et al. 2018, arXiv:1709.01507, eqs. 2-4. ECA: Wang et al. 2020,
arXiv:1910.03151. The options of each kind are a part of a recipe, which makes the layers of every
block with `make(width)`.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dlreview.messages import check_at_least

Features = Float[Tensor, "batch width height columns"]


class SqueezeExciteLayer(nn.Module):
    """Compute x sigmoid(W_2 relu(W_1 mean(x)))."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.W_1 = nn.Linear(width, hidden_width)
        self.W_2 = nn.Linear(hidden_width, width)

    def forward(self, x: Features) -> Features:
        """Scale the channels."""
        gate = torch.sigmoid(self.W_2(F.relu(self.W_1(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class NeighbourAttentionLayer(nn.Module):
    """Compute x sigmoid(conv(mean(x))), where the convolution runs along the channels."""

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Features) -> Features:
        """Scale the channels."""
        gate = torch.sigmoid(self.conv(x.mean((2, 3))[:, None]))
        return x * gate[:, 0, :, None, None]


class SqueezeExcite(nn.Module):
    """Let a network with one hidden layer decide the gates.

    Args:
        reduction: Width divided by hidden width; the latter is rounded to a multiple of 8.

    Raises:
        ValueError: `reduction` is below 1.
    """

    def __init__(self, reduction: int = 16) -> None:
        super().__init__()
        check_at_least(1, reduction=reduction)
        self.reduction = reduction

    def hidden_width(self, width: int) -> int:
        """Return width / reduction as a multiple of 8, at least 8."""
        return max(8, int(width / self.reduction + 4) // 8 * 8)

    def make(self, width: int) -> SqueezeExciteLayer:
        """Make the layer of a block."""
        return SqueezeExciteLayer(width, self.hidden_width(width))


class ECA(nn.Module):
    """Let the nearest channels decide the gate of each: efficient channel attention."""

    def __init__(self) -> None:
        super().__init__()

    def kernel_size(self, width: int) -> int:
        """Return the odd number of channels next to (log2(width) + 1) / 2, at least 3 (eq. 12)."""
        half = int((math.log2(width) + 1) / 2)
        return max(half if half % 2 else half + 1, 3)

    def make(self, width: int) -> NeighbourAttentionLayer:
        """Make the layer of a block."""
        return NeighbourAttentionLayer(self.kernel_size(width))
