"""Parts of Swin (Liu et al. 2021, arXiv:2103.14030): a block, and the step between two stages."""

from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from dlreview.nn.attention import (
    MultiHeadAttention,
    attention_weights,
    combine_heads,
    compute_attention,
)
from dlreview.nn.feed_forward import FeedForward
from dlreview.nn.norm import LayerNorm, RMSNorm
from dlreview.nn.patch_embedding import as_pair
from dlreview.nn.stochastic_depth import drop_path
from dlreview.nn.windows import RelativePositions, TokenMap, Windows, resize_table

Norm = LayerNorm | RMSNorm
WindowSize = int | list[int] | list[list[int]]


def window_sizes(window_size: WindowSize, stages: int) -> list[tuple[int, int]]:
    """Return the window (height, width) of every stage; two numbers are one window.

    Raises:
        ValueError: it is neither one window nor one for each stage.
    """
    if isinstance(window_size, int) or (
        len(window_size) == 2 and all(isinstance(size, int) for size in window_size)
    ):
        return [as_pair(cast(list[int], window_size), "window_size")] * stages
    if len(window_size) != stages:
        raise ValueError(
            f"window_size must be one window or one for each of {stages} stages, got {window_size}"
        )
    return [as_pair(size, "window_size") for size in window_size]


class SwinBlock(nn.Module):
    """Attend within windows, then transform each token; norms come first (eq. 3).

    `grid` is the size of the map to train on; for other sizes the mask of shifted windows is
    computed at each call. `norm` is copied. `dropout` drops features of both branches, `drop_path`
    whole branches.
    """

    mask: Tensor | None

    def __init__(
        self,
        windows: Windows,
        grid: tuple[int, int],
        attention: MultiHeadAttention,
        feed_forward: FeedForward,
        norm: Norm,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.windows, self.grid = windows, grid
        self.dropout, self.drop_path = dropout, drop_path
        self.attention_norm = norm.of_width(attention.width)
        self.attention = attention
        self.positions = RelativePositions(list(windows.size), attention.heads)
        self.feed_forward_norm = norm.of_width(attention.width)
        self.feed_forward = feed_forward
        mask = windows.mask(*grid) if any(windows.shift) else None
        self.register_buffer("mask", mask, persistent=False)

    def bias(self, rows: int, columns: int) -> Float[Tensor, "#windows heads tokens tokens"]:
        """Return what is added to the scores of a map of this size."""
        bias = self.positions()
        if not any(self.windows.shift):
            return bias[None]
        mask = self.mask
        if mask is None or (rows, columns) != self.grid:
            mask = self.windows.mask(rows, columns, bias.device)
        return bias + mask.to(bias.dtype)[:, None]

    @torch.no_grad()
    def resize(self, windows: Windows, grid: tuple[int, int]) -> None:
        """Take other windows and another map to train on; interpolate the relative positions."""
        old, mask = self.positions, windows.mask(*grid) if any(windows.shift) else None
        self.positions = RelativePositions(list(windows.size), old.heads).to(old.table.device)
        table = resize_table(old.table, self.windows.size, windows.size)
        self.positions.table = nn.Parameter(table.clone(), requires_grad=old.table.requires_grad)
        self.windows, self.grid = windows, grid
        self.mask = None if mask is None else mask.to(table)

    def attend(self, x: TokenMap) -> TokenMap:
        """Let tokens attend within their windows (eq. 4)."""
        attention, (rows, columns) = self.attention, (x.shape[1], x.shape[2])
        q, k, v = attention.project(self.windows.split(x))
        bias, rate = self.bias(rows, columns), attention.dropout if self.training else 0.0
        images = q.shape[0] // bias.shape[0]
        if bias.requires_grad:  # few fused kernels have a gradient for it
            q, k = (y.unflatten(0, (images, -1)) for y in (q, k))
            weights = attention_weights(q, k, bias).flatten(0, 1)
            heads = (F.dropout(weights, rate) if rate else weights) @ v
        else:
            if bias.shape[0] > 1:
                bias = bias.expand(images, -1, -1, -1, -1).flatten(0, 1)
            heads = compute_attention(q, k, v, bias, dropout=rate)
        return self.windows.join(attention.W_o(combine_heads(heads)), rows, columns)

    def add(self, x: TokenMap, branch: TokenMap) -> TokenMap:
        """Add a branch to the tokens, after dropout."""
        if self.dropout:
            branch = F.dropout(branch, self.dropout, self.training)
        return x + drop_path(branch, self.drop_path, self.training)

    def forward(self, x: TokenMap) -> TokenMap:
        """Transform the map."""
        x = self.add(x, self.attend(self.attention_norm(x)))
        return self.add(x, self.feed_forward(self.feed_forward_norm(x)))


class PatchMerging(nn.Module):
    """Concatenate 2 x 2 neighbours and project their 4C features to 2C (section 3.1).

    `norm` is copied. A map with an odd side is padded with zeros.
    """

    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        self.width = width
        self.norm = norm.of_width(4 * width)
        self.W = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: TokenMap) -> Float[Tensor, "batch half_rows half_columns twice_width"]:
        """Halve the resolution."""
        if x.shape[1] % 2 or x.shape[2] % 2:
            x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        return self.W(self.norm(rearrange(x, "b (r h) (c w) d -> b r c (w h d)", h=2, w=2)))
