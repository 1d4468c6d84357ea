"""What a decoder keeps of the tokens that it has read: keys and values, and which are padding.

Row 25: the query of a new token meets the keys of all earlier tokens. They do not change, so that
each is computed once. The room is taken once, and no step copies what earlier steps wrote.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from dlreview.messages import check_at_least

New = Float[Tensor, "batch heads new head_width"]
All = Float[Tensor, "batch heads tokens head_width"]
Projection = tuple[Float[Tensor, "outputs width"], Float[Tensor, " outputs"] | None]


class LayerCache:
    """Keys and values of one layer: those of the tokens, and those of a context.

    `context` are the keys, values and mask of the cross-attention, None until it has computed
    them. `projection` are the weights of queries, keys and values in one matrix, so that they need
    not be joined for every token.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.context: tuple[Tensor, Tensor, Tensor | None] | None = None
        self.projection: Projection | None = None

    def append(self, k: New, v: New) -> tuple[All, All]:
        """Keep the keys and values of new tokens; return those of all tokens.

        Raises:
            ValueError: there is no room for them.
        """
        first, length = self.length, self.length + k.shape[2]
        if length > self.capacity:
            raise ValueError(f"capacity of cache is {self.capacity}, got {length} tokens")
        if self.keys is None or self.values is None:
            self.keys = k.new_empty(*k.shape[:2], self.capacity, k.shape[3])
            self.values = v.new_empty(*v.shape[:2], self.capacity, v.shape[3])
        self.keys.narrow(2, first, k.shape[2]).copy_(k)  # faster than by index
        self.values.narrow(2, first, v.shape[2]).copy_(v)
        self.length = length
        return self.keys.narrow(2, 0, length), self.values.narrow(2, 0, length)

    def project(self, join: Callable[[], Projection]) -> Projection:
        """Return the joined weights of the layer, which `join` makes at the first call."""
        if self.projection is None:
            self.projection = join()
        return self.projection

    def reorder(self, rows: Int[Tensor, " new_batch"]) -> None:
        """Let row i be what row `rows[i]` was."""
        if self.keys is not None and self.values is not None:
            if len(rows) != len(self.keys):
                self.keys = self.keys.index_select(0, rows)
                self.values = self.values.index_select(0, rows)
            else:
                used = slice(self.length)  # index_select is faster than [rows] on a CPU
                self.keys[:, :, used] = self.keys[:, :, used].index_select(0, rows)
                self.values[:, :, used] = self.values[:, :, used].index_select(0, rows)
        if self.context is not None:
            k, v, mask = self.context
            self.context = k[rows], v[rows], None if mask is None else mask[rows]


class Cache:
    """The caches of all layers, with room for `capacity` tokens in each row.

    `mask` is 1 at tokens and 0 at padding, None if there is no padding. It may be known before its
    tokens are read.

    Raises:
        ValueError: a size is below 1.
    """

    def __init__(self, depth: int, capacity: int) -> None:
        check_at_least(1, depth=depth, capacity=capacity)
        self.capacity = capacity
        self.layers = [LayerCache(capacity) for _ in range(depth)]
        self.mask: Shaped[Tensor, "batch tokens"] | None = None

    @property
    def length(self) -> int:
        """Number of tokens that were read."""
        return self.layers[0].length

    def extend_mask(
        self, new: Shaped[Tensor, "batch new"] | None, rows: int, count: int, device: torch.device
    ) -> Shaped[Tensor, "batch tokens"] | None:
        """Keep the mask of `count` new tokens; return that of all, None without padding.

        Raises:
            ValueError: the mask has another number of rows, or that of the new tokens is known.
        """
        if new is None and self.mask is None:
            return None
        mask = self.mask
        if mask is None:
            mask = torch.ones(rows, self.length, dtype=torch.bool, device=device)
        if len(mask) != rows:
            raise ValueError(f"mask of cache must have {rows} rows, got {len(mask)}")
        missing = self.length + count - mask.shape[1]
        if new is not None and missing != count:
            raise ValueError("mask must be None: the cache knows that of these tokens")
        if missing > 0:
            if new is None:
                new = torch.ones(rows, missing, dtype=torch.bool, device=device)
            mask = torch.cat([mask.bool(), new.bool()], dim=1)
        self.mask = mask
        return mask[:, : self.length + count]

    def reorder(self, rows: Int[Tensor, " new_batch"]) -> None:
        """Let row i be what row `rows[i]` was: as beam search follows its best texts."""
        for layer in self.layers:
            layer.reorder(rows)
        self.mask = None if self.mask is None else self.mask[rows]
