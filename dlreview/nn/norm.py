"""Normalisation of one token at a time, by its own mean and spread.

Layer norm: Ba et al. 2016, arXiv:1607.06450. RMS norm: Zhang & Sennrich 2019, arXiv:1910.07467.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LayerNorm(nn.Module):
    """Give every token mean 0 and variance 1, then a learned scale and offset.

    `affine=False` learns neither, `offset=False` no offset.

    Raises:
        ValueError: `width` is not positive.
    """

    def __init__(
        self, width: int, eps: float = 1e-6, affine: bool = True, offset: bool = True
    ) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be positive, not {width}")
        self.width, self.eps, self.affine, self.offset = width, eps, affine, offset
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine and offset else None

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Normalise."""
        return F.layer_norm(x, (self.width,), self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """Divide every token by its root mean square, then scale it; the mean stays.

    `eps` None is the smallest step of the dtype from 1 on, as in torch.nn.RMSNorm.

    Raises:
        ValueError: `width` is not positive.
    """

    def __init__(self, width: int, eps: float | None = 1e-6, affine: bool = True) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be positive, not {width}")
        self.width, self.eps, self.affine = width, eps, affine
        self.weight = nn.Parameter(torch.ones(width)) if affine else None

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Normalise."""
        return F.rms_norm(x, (self.width,), self.weight, self.eps)
