"""Normalisation of every token by its own statistics.

Layer norm: Ba et al. 2016, arXiv:1607.06450. RMS norm: Zhang & Sennrich 2019, arXiv:1910.07467.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dlreview.messages import check_at_least


class LayerNorm(nn.Module):
    """Normalise every token to mean 0 and variance 1, then apply a learned scale and offset.

    With `affine=False` there is neither, with `offset=False` only the scale.

    Raises:
        ValueError: `width` is below 1.
    """

    def __init__(
        self, width: int, eps: float = 1e-6, affine: bool = True, offset: bool = True
    ) -> None:
        super().__init__()
        check_at_least(1, width=width)
        self.width, self.eps, self.affine, self.offset = width, eps, affine, offset
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine and offset else None

    def of_width(self, width: int) -> "LayerNorm":
        """Make a new norm with the same options for another width."""
        return LayerNorm(width, self.eps, self.affine, self.offset)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Normalise."""
        return F.layer_norm(x, (self.width,), self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """Divide every token by its root mean square, then scale it; no mean is subtracted.

    `eps` None stands for `torch.finfo(dtype).eps`, as in torch.nn.RMSNorm.

    Raises:
        ValueError: `width` is below 1.
    """

    def __init__(self, width: int, eps: float | None = 1e-6, affine: bool = True) -> None:
        super().__init__()
        check_at_least(1, width=width)
        self.width, self.eps, self.affine = width, eps, affine
        self.weight = nn.Parameter(torch.ones(width)) if affine else None

    def of_width(self, width: int) -> "RMSNorm":
        """Make a new norm with the same options for another width."""
        return RMSNorm(width, self.eps, self.affine)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Normalise."""
        return F.rms_norm(x, (self.width,), self.weight, self.eps)
