"""Draw from a fixed distribution in constant time (Walker 1974; Vose 1991, doi 10.1109/32.92917).

A table has n cells of equal probability, and each cell has at most two outcomes. To draw, choose a
cell at random, then its own outcome with the probability in the table, else its other outcome.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int32, UInt32

UNIT = 2**32  # probabilities are 32-bit fractions


def alias_table(
    weights: Float[np.ndarray, " outcomes"],
) -> tuple[UInt32[np.ndarray, " outcomes"], Int32[np.ndarray, " outcomes"]]:
    """Return (threshold, other): cell i has outcome i if u < threshold[i] / 2^32, else other[i].

    Args:
        weights: not negative, proportional to the probabilities.

    Raises:
        ValueError: a weight is negative or not finite, or all are zero.
    """
    total = weights.sum()
    if not (np.isfinite(total) and total > 0 and weights.min() >= 0):
        raise ValueError("weights must be finite and not negative, and not all zero")
    share = weights.astype(np.float64) * (len(weights) / total)
    other = np.arange(len(weights), dtype=np.int32)
    small = [int(i) for i in np.flatnonzero(share < 1)]
    large = [int(i) for i in np.flatnonzero(share >= 1)]
    while small and large:
        i, j = small.pop(), large[-1]
        other[i] = j
        share[j] -= 1 - share[i]
        if share[j] < 1:
            small.append(large.pop())
    # The shares that remain are 1 up to rounding: the other outcome of such a cell is its own.
    return np.minimum(share * UNIT, UNIT - 1).astype(np.uint32), other
