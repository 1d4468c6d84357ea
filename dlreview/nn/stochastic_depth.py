"""Stochastic depth (Huang et al. 2016, arXiv:1603.09382): skip residual branches at random."""

from jaxtyping import Float
from torch import Tensor


def drop_path(
    branch: Float[Tensor, "batch *shape"], rate: float, training: bool
) -> Float[Tensor, "batch *shape"]:
    """Set a sample's whole branch to zero with probability `rate`, else divide it by 1 - rate."""
    if rate == 0 or not training:
        return branch
    keep = branch.new_empty(branch.shape[0], *[1] * (branch.ndim - 1)).bernoulli_(1 - rate)
    return branch * keep.div_(1 - rate)
