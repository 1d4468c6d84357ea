"""Dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487, section 2.3).

It keeps the estimate of x_0 in [-1, 1] as clipping does, but leaves fewer pixels at the ends.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dlreview.messages import check_at_least


@dataclass(frozen=True)
class DynamicThreshold:
    """Clamp each sample to [-s, s] and divide it by s, where s is a quantile of its own |x_0|.

    s is the `quantile` of the absolute values, but at least 1 and at most `largest`. It is a `clip`
    of the samplers.

    Raises:
        ValueError: `quantile` is not in (0, 1], or `largest` is below 1.
    """

    quantile: float = 0.995
    largest: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1:
            raise ValueError(f"quantile must be in (0, 1], got {self.quantile}")
        check_at_least(1, largest=self.largest)

    def __call__(self, x0: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch *shape"]:
        """Threshold."""
        s = x0.reshape(len(x0), -1).abs().quantile(self.quantile, dim=1).clamp(1, self.largest)
        s = s.reshape(-1, *[1] * (x0.ndim - 1))
        return x0.clamp(-s, s) / s
