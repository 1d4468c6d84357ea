"""Positions: vectors that encode the position of a token (rows 20-24), or a timestep.

Sinusoids: Vaswani et al. 2017, arXiv:1706.03762; of a timestep: Ho et al. 2020, arXiv:2006.11239.
Learned tables over a grid of patches, interpolated to other sizes: Dosovitskiy et al. 2021,
arXiv:2010.11929. `dlreview.metrics.positions` measures the four requirements of row 24.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from dlreview.messages import check_at_least


def integer_code(length: int) -> Float[Tensor, "length 1"]:
    """Number the positions 0, 1, 2 ... (row 20): unique, but the values grow with the length."""
    return torch.arange(length, dtype=torch.float32)[:, None]


def binary_code(length: int, bits: int | None = None) -> Float[Tensor, "length bits"]:
    """Write the positions in binary, highest bit first (row 20).

    `bits` is by default the number that the last position needs.

    Raises:
        ValueError: The last position does not fit in `bits`.
    """
    needed = max(1, (length - 1).bit_length())
    bits = needed if bits is None else bits
    if bits < needed:
        raise ValueError(f"bits must be at least {needed} for length {length}, got {bits}")
    shifts = torch.arange(bits - 1, -1, -1)
    return (torch.arange(length)[:, None] >> shifts & 1).float()


def sinusoids(
    position: Shaped[Tensor, "*shape"], width: int, max_period: int | float = 10000
) -> Float[Tensor, "*shape {width}"]:
    """Encode positions by waves of growing length (row 21), in float64 for any input dtype.

    PE(pos, 2i) = sin(pos / max_period^(2i/width)) and PE(pos, 2i+1) = cos of the same angle. With
    an odd width the last sine has no cosine.

    Raises:
        ValueError: `width` is below 1.
    """
    check_at_least(1, width=width)
    twice_i = torch.arange(0, width, 2, dtype=torch.float64, device=position.device)
    angle = position.double()[..., None] / max_period ** (twice_i / width)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)[..., :width]


def timestep_embedding(
    t: Shaped[Tensor, " batch"],
    width: int,
    max_period: int | float = 10000,
    flip_sin_to_cos: bool = False,
    downscale_freq_shift: int | float = 1,
    scale: int | float = 1,
) -> Float[Tensor, "batch {width}"]:
    """Encode timesteps by sines, then cosines (with `flip_sin_to_cos` cosines, then sines).

    The i-th of `width // 2` frequencies is max_period^(-i / (width // 2 - downscale_freq_shift)),
    in float32 as diffusers computes it; an odd width ends with a zero. `scale` multiplies the
    angles.

    Raises:
        ValueError: `width` is below 2, or the exponent's denominator is zero.
    """
    half = width // 2
    if half < 1 or half == downscale_freq_shift:
        raise ValueError(
            f"width {width} is too small for downscale_freq_shift {downscale_freq_shift}"
        )
    i = torch.arange(half, dtype=torch.float32, device=t.device)
    frequency = torch.exp(-math.log(max_period) * i / (half - downscale_freq_shift))
    angle = scale * (t.float()[:, None] * frequency)
    waves = [angle.cos(), angle.sin()] if flip_sin_to_cos else [angle.sin(), angle.cos()]
    return F.pad(torch.cat(waves, dim=-1), (0, width % 2))


class Sinusoids(nn.Module):
    """Add sinusoids (row 21) to tokens; nothing is learned, and any length works."""

    def __init__(self, width: int, max_period: int | float = 10000) -> None:
        super().__init__()
        check_at_least(1, width=width)
        self.width = width
        self.max_period = max_period

    def forward(
        self, x: Float[Tensor, "batch tokens width"], first: int = 0
    ) -> Float[Tensor, "batch tokens width"]:
        """Add the sinusoids of positions `first`, `first` + 1, ... to the tokens."""
        position = torch.arange(first, first + x.shape[1], device=x.device)
        return x + sinusoids(position, self.width, self.max_period).to(x.dtype)


class SinusoidTable(nn.Module):
    """Add sinusoids (row 21) from a table of `length` positions, which is saved but not learned.

    The sines of row 21 come first and then its cosines, as Marian stores them. A network that
    learns its weights can do the same with either order.

    Raises:
        ValueError: A size is below 1.
    """

    table: Tensor

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        check_at_least(1, length=length, width=width)
        self.length, self.width = length, width
        waves = sinusoids(torch.arange(length), width)
        table = torch.cat([waves[:, 0::2], waves[:, 1::2]], dim=1)
        self.register_buffer("table", table.to(torch.get_default_dtype()))

    def forward(
        self, x: Float[Tensor, "batch tokens width"], first: int = 0
    ) -> Float[Tensor, "batch tokens width"]:
        """Add the rows of positions `first`, `first` + 1, ... to the tokens.

        Raises:
            ValueError: The table is too short.
        """
        last = first + x.shape[1]
        if last > self.length:
            raise ValueError(f"length of positions is {self.length}, got {last} tokens")
        return x + self.table[first:last]


def resize_grid(
    table: Float[Tensor, "old width"],
    grid: tuple[int, int],
    new_grid: tuple[int, int],
    antialias: bool = True,
    in_float32: bool = True,
) -> Float[Tensor, "new width"]:
    """Interpolate a table of row-major grid positions to another grid (bicubic).

    timm smooths before it shrinks the grid (`antialias`), transformers does not. All except
    transformers' ViT compute in float32 (`in_float32`), so that float64 results are approximate.
    """
    if grid == new_grid:
        return table
    picture = rearrange(table, "(h w) d -> 1 d h w", h=grid[0], w=grid[1])
    picture = picture.float() if in_float32 else picture
    picture = F.interpolate(picture, size=new_grid, mode="bicubic", antialias=antialias)
    return rearrange(picture, "1 d h w -> (h w) d").to(table.dtype)


def join_tokens(
    prefix: Float[Tensor, "1 special width"], patches: Float[Tensor, "batch patches width"]
) -> Float[Tensor, "batch tokens width"]:
    """Put the same special tokens before the patches of every image."""
    if prefix.shape[1] == 0:
        return patches
    return torch.cat([prefix.expand(patches.shape[0], -1, -1), patches], dim=1)


class NoPositions(nn.Module):
    """Add no positions: attention then sees a set of patches without an order."""

    def __init__(self) -> None:
        super().__init__()

    def forward(
        self,
        prefix: Float[Tensor, "1 special width"],
        patches: Float[Tensor, "batch patches width"],
        grid: tuple[int, int],
    ) -> Float[Tensor, "batch tokens width"]:
        """Concatenate special tokens and patches."""
        return join_tokens(prefix, patches)


class LearnedPositions(nn.Module):
    """Learn a vector for every position of a grid of patches, and for special tokens before them.

    `grid` is the height and width, in patches, of the training images; for other sizes
    `resize_grid` interpolates the table. The first `prefix` special tokens have positions too.
    `dropout` acts on the sums.

    Raises:
        ValueError: `grid` is not two positive numbers, `width` below 1, `prefix` negative.
    """

    def __init__(
        self,
        grid: list[int],
        width: int,
        prefix: int = 1,
        dropout: float = 0.0,
        antialias: bool = True,
        in_float32: bool = True,
    ) -> None:
        super().__init__()
        if len(grid) != 2 or min(grid) < 1:
            raise ValueError(f"grid must be two positive numbers, got {grid}")
        check_at_least(1, width=width)
        check_at_least(0, prefix=prefix)
        self.grid, self.width, self.prefix, self.dropout = grid, width, prefix, dropout
        self.antialias, self.in_float32 = antialias, in_float32
        self.table = nn.Parameter(torch.randn(prefix + grid[0] * grid[1], width) * 0.02)

    def forward(
        self,
        prefix: Float[Tensor, "1 special width"],
        patches: Float[Tensor, "batch patches width"],
        grid: tuple[int, int],
    ) -> Float[Tensor, "batch tokens width"]:
        """Add positions to special tokens and patches, and concatenate them."""
        positions = resize_grid(
            self.table[self.prefix :],
            (self.grid[0], self.grid[1]),
            grid,
            self.antialias,
            self.in_float32,
        )
        if self.prefix:
            first = prefix[:, : self.prefix] + self.table[: self.prefix]
            prefix = torch.cat([first, prefix[:, self.prefix :]], dim=1)
        x = join_tokens(prefix, patches + positions)
        return F.dropout(x, self.dropout, self.training) if self.dropout else x
