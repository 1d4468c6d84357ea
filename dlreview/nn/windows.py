"""Attention within windows (Liu et al. 2021, arXiv:2103.14030, section 3.2), row 38.

A map of tokens is cut into windows, and tokens attend only within their window: the cost is linear
in the area of the map. Every second block shifts the windows by half their size, so that tokens of
neighbouring windows meet.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from dlreview.messages import check_at_least

TokenMap = Float[Tensor, "batch rows columns width"]
HIDDEN = -100.0  # added to the score of a hidden key, as the paper's authors do


def attention_cost(tokens: int, width: int) -> int:
    """Count the multiply-additions of attention among all tokens: 4 h w C^2 + 2 (h w)^2 C (eq. 1).

    Four projections, and the scores and sums over values of every pair; `width` is C.
    """
    return 4 * tokens * width**2 + 2 * tokens**2 * width


def window_attention_cost(tokens: int, width: int, window_tokens: int) -> int:
    """Count those within windows of M^2 tokens: 4 h w C^2 + 2 M^2 h w C (eq. 2), linear in h w."""
    return 4 * tokens * width**2 + 2 * window_tokens * tokens * width


def relative_index(height: int, width: int) -> Int[Tensor, "tokens tokens"]:
    """Number the relative position of each query (row) and key (column) of a window.

    Relative positions are counted row by row, from (1 - height, 1 - width) to
    (height - 1, width - 1).
    """
    tokens = torch.arange(height * width)
    rows, columns = tokens // width, tokens % width
    down = rows[:, None] - rows + height - 1
    right = columns[:, None] - columns + width - 1
    return down * (2 * width - 1) + right


def stretched(radius: int, new_radius: int) -> list[float]:
    """Place the positions -radius ... radius on the scale of a window of another size.

    The steps grow geometrically, 1, q, q^2, ..., so that near positions keep their distances, and
    the largest becomes `new_radius`; q lies between 1.01 and 1.5 (timm searches it so).
    """
    low, high = 1.01, 1.5
    q = low
    while high - low > 1e-6:
        q = (low + high) / 2
        if (1 - q**radius) / (1 - q) > new_radius:
            high = q
        else:
            low = q
    distances = [sum(q**k for k in range(i)) for i in range(1, radius + 1)]
    return [-x for x in reversed(distances)] + [0.0] + distances


def interpolation(
    size: int, new_size: int, device: torch.device
) -> Float[Tensor, "new_positions positions"]:
    """Return the matrix that interpolates a table of relative positions linearly along an axis."""
    if size == 1:
        return torch.ones(2 * new_size - 1, 1, device=device)
    old = torch.tensor(stretched(size - 1, new_size - 1), device=device)
    new = torch.arange(1 - new_size, new_size, device=device).clamp(old[0], old[-1])
    right = torch.bucketize(new, old).clamp(min=1)
    share = (new - old[right - 1]) / (old[right] - old[right - 1])
    matrix = torch.zeros(len(new), len(old), device=device)
    matrix.scatter_(1, right[:, None], share[:, None])
    return matrix.scatter_(1, right[:, None] - 1, 1 - share[:, None])


def resize_table(
    table: Float[Tensor, "old heads"], size: tuple[int, int], new_size: tuple[int, int]
) -> Float[Tensor, "new heads"]:
    """Interpolate the table of a window of `size` to another window, in float32 as timm does."""
    if size == new_size:
        return table
    picture = rearrange(table.float(), "(r c) h -> h r c", r=2 * size[0] - 1)
    rows, columns = (
        interpolation(*pair, table.device) for pair in zip(size, new_size, strict=True)
    )
    return rearrange(rows @ picture @ columns.mT, "h r c -> (r c) h").to(table.dtype)


class RelativePositions(nn.Module):
    """Learn a bias for each relative position within a window and each head: B of eq. 4.

    Raises:
        ValueError: `window_size` is not two positive numbers, or `heads` is below 1.
    """

    index: Tensor

    def __init__(self, window_size: list[int], heads: int) -> None:
        super().__init__()
        if len(window_size) != 2 or min(window_size) < 1:
            raise ValueError(f"window_size must be two positive numbers, got {window_size}")
        check_at_least(1, heads=heads)
        self.window_size, self.heads = window_size, heads
        height, width = window_size
        self.table = nn.Parameter(torch.empty((2 * height - 1) * (2 * width - 1), heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.register_buffer("index", relative_index(height, width), persistent=False)

    def forward(self) -> Float[Tensor, "heads tokens tokens"]:
        """Look up the bias of every query and key of a window."""
        return self.table.mT[:, self.index].contiguous()


@dataclass(frozen=True)
class Windows:
    """Windows of `size` (rows, columns), after a cyclic shift of the map by `shift`."""

    size: tuple[int, int]
    shift: tuple[int, int] = (0, 0)

    def fit(self, grid: tuple[int, int]) -> "Windows":
        """Along an axis that a single window covers, take a window of its size without a shift."""
        pairs = list(zip(grid, self.size, self.shift, strict=True))
        rows, columns = (min(length, size) for length, size, _ in pairs)
        down, right = (0 if length <= size else shift for length, size, shift in pairs)
        return Windows((rows, columns), (down, right))

    def padded(self, rows: int, columns: int) -> tuple[int, int]:
        """Return the size of the map after rows and columns are added to fill the windows."""
        height, width = self.size
        return -(-rows // height) * height, -(-columns // width) * width

    def split(self, x: TokenMap) -> Float[Tensor, "windows tokens width"]:
        """Shift the map, pad it with zeros and cut it into windows, image by image."""
        if any(self.shift):
            x = x.roll((-self.shift[0], -self.shift[1]), (1, 2))
        rows, columns = self.padded(x.shape[1], x.shape[2])
        if (rows, columns) != (x.shape[1], x.shape[2]):
            x = F.pad(x, (0, 0, 0, columns - x.shape[2], 0, rows - x.shape[1]))
        height, width = self.size
        return rearrange(x, "b (r h) (c w) d -> (b r c) (h w) d", h=height, w=width)

    def join(
        self, windows: Float[Tensor, "windows tokens width"], rows: int, columns: int
    ) -> TokenMap:
        """Invert `split` for a map of this size."""
        (height, width), (high, wide) = self.size, self.padded(rows, columns)
        x = rearrange(
            windows,
            "(b r c) (h w) d -> b (r h) (c w) d",
            r=high // height, c=wide // width, h=height, w=width,
        )  # fmt: skip
        if (high, wide) != (rows, columns):
            x = x[:, :rows, :columns]
        return x.roll(self.shift, (1, 2)) if any(self.shift) else x

    def mask(
        self, rows: int, columns: int, device: torch.device | None = None
    ) -> Float[Tensor, "windows tokens tokens"]:
        """Hide keys from the other side of the seam, where the shift has joined opposite edges.

        The mask is added to scores.
        """
        high, wide = self.padded(rows, columns)
        below = torch.arange(high, device=device) >= high - self.shift[0]
        right = torch.arange(wide, device=device) >= wide - self.shift[1]
        region = 2 * below[:, None] + 1 * right
        height, width = self.size
        region = rearrange(region, "(r h) (c w) -> (r c) (h w)", h=height, w=width)
        hidden = region[:, :, None] != region[:, None]
        return HIDDEN * hidden.to(torch.get_default_dtype())
