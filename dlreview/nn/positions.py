"""Positions: what tells a transformer where a token stands (rows 20-24), and when (a timestep).

Sinusoids: Vaswani et al. 2017, arXiv:1706.03762; of a timestep: Ho et al. 2020, arXiv:2006.11239.
Learned tables over a grid of patches, read at other sizes: Dosovitskiy et al. 2021,
arXiv:2010.11929.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn


def integer_code(length: int) -> Float[Tensor, "length 1"]:
    """Number the positions 0, 1, 2 ... (row 20): unique, but it grows with the length."""
    return torch.arange(length, dtype=torch.float32)[:, None]


def binary_code(length: int, bits: int | None = None) -> Float[Tensor, "length bits"]:
    """Write the positions in binary, highest bit first (row 20).

    Without `bits` as many as the last position takes.

    Raises:
        ValueError: The last position does not fit in `bits`.
    """
    needed = max(1, (length - 1).bit_length())
    bits = needed if bits is None else bits
    if bits < needed:
        raise ValueError(f"bits must be at least {needed} for length {length}, not {bits}")
    places = torch.arange(bits - 1, -1, -1)
    return (torch.arange(length)[:, None] >> places & 1).float()


def sinusoids(
    position: Shaped[Tensor, "*shape"], width: int, max_period: int | float = 10000
) -> Float[Tensor, "*shape {width}"]:
    """Code positions by waves of growing length (row 21), in float64 whatever the input.

    PE(pos, 2i) = sin(pos / max_period^(2i/width)) and PE(pos, 2i+1) = cos of the same angle. An odd
    width ends with a sine that has no cosine beside it.

    Raises:
        ValueError: `width` is not positive.
    """
    if width < 1:
        raise ValueError(f"width must be positive, not {width}")
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
    """Code timesteps by sines, then cosines (the other way round if `flip_sin_to_cos`).

    The i-th of `width // 2` frequencies is max_period^(-i / (width // 2 - downscale_freq_shift)),
    in float32 as diffusers computes it; an odd width ends with a zero. `scale` multiplies the
    angles.

    Raises:
        ValueError: `width` leaves no frequency, or so few that the shift divides by zero.
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
    """Add the code of row 21 to tokens; nothing is learned, and no length is too long."""

    def __init__(self, width: int, max_period: int | float = 10000) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be positive, not {width}")
        self.width = width
        self.max_period = max_period

    def forward(
        self, x: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Add the code of places 0, 1, 2 ... to the tokens."""
        place = torch.arange(x.shape[1], device=x.device)
        return x + sinusoids(place, self.width, self.max_period).to(x.dtype)


def resize_grid(
    table: Float[Tensor, "old width"],
    grid: tuple[int, int],
    new_grid: tuple[int, int],
    antialias: bool = True,
    in_float32: bool = True,
) -> Float[Tensor, "new width"]:
    """Read a table of row-major grid positions at another grid, by bicubic interpolation.

    timm smooths first when it shrinks the grid (`antialias`), transformers does not; all but
    transformers' ViT work in float32 (`in_float32`), where other dtypes are only approximate.
    """
    if grid == new_grid:
        return table
    picture = rearrange(table, "(h w) d -> 1 d h w", h=grid[0], w=grid[1])
    picture = picture.float() if in_float32 else picture
    picture = F.interpolate(picture, size=new_grid, mode="bicubic", antialias=antialias)
    return rearrange(picture, "1 d h w -> (h w) d").to(table.dtype)
