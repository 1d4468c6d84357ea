"""Where a decoder looked while it wrote: cross-attention over a sentence or a picture (row 97)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dlreview.plots.figure import new_figure, pixels
from dlreview.plots.heat import laid_over

MOST_TOKENS = 40  # of each side that are drawn
COLUMNS = 6  # panels in a row


def plain(token: str) -> str:
    """Write a token so that it can be seen, and so that matplotlib reads no formula in it."""
    return (token if token.strip() else "␣").replace("$", r"\$").replace("\n", "↵")


def alignment(
    weights: Float[Tensor, "tokens places"], written: list[str], read: list[str]
) -> UInt8[Tensor, "rows columns 3"]:
    """Draw the weights of the places that were read (columns) for each written token (rows).

    A row is scaled to its own largest weight.

    Raises:
        ValueError: there are no tokens, or there is not one name for each row and column.
    """
    if not written or weights.shape != (len(written), len(read)):
        names = f"{len(written)} written and {len(read)} read"
        raise ValueError(f"weights have shape {tuple(weights.shape)}, got {names} tokens")
    written, read = written[:MOST_TOKENS], read[:MOST_TOKENS]
    shares = weights[: len(written), : len(read)].detach().float().cpu()
    shares = shares / shares.amax(dim=1, keepdim=True).clamp(min=1e-12)
    figure = new_figure(2 + 0.3 * len(read), 1.5 + 0.25 * len(written))
    axes = figure.add_subplot()
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(read)), [plain(token) for token in read], rotation=90)
    axes.set_yticks(range(len(written)), [plain(token) for token in written])
    axes.set_xlabel("read")
    axes.set_ylabel("written")
    return pixels(figure)


def looked(
    image: Float[Tensor, "channels height width"],
    weights: Float[Tensor, "tokens patches"],
    written: list[str],
    grid: tuple[int, int],
    covered: tuple[int, int] | None = None,
) -> UInt8[Tensor, "rows columns 3"]:
    """Draw a picture, and for each written token the weights of its patches over the picture.

    Args:
        image: 1 or 3 channels, pixels in [-1, 1].
        weights: of the patches in row-major order; each token's are scaled to their largest.
        written: the tokens.
        grid: rows and columns of patches.
        covered: (height, width) of the part that the patches cover; by default the whole picture.

    Raises:
        ValueError: there are no tokens, or sizes do not fit.
    """
    shape = (len(written), math.prod(grid))
    if not written or weights.shape != shape:
        raise ValueError(f"weights must have shape {shape}, got {tuple(weights.shape)}")
    written = written[:MOST_TOKENS]
    plainly = ((image.detach().float().cpu().clamp(-1, 1) + 1) / 2).expand(3, -1, -1)
    heat = weights[: len(written)].unflatten(1, grid)
    panels = torch.cat([plainly[None], laid_over(image[None], heat[None], covered)[0]])
    rows, columns = -(-len(panels) // COLUMNS), min(COLUMNS, len(panels))
    figure = new_figure(1.6 * columns, 1.9 * rows)
    for n, (panel, title) in enumerate(zip(panels, ["", *written], strict=True)):
        axes = figure.add_subplot(rows, columns, n + 1)
        axes.imshow(panel.permute(1, 2, 0).numpy(), interpolation="nearest")
        axes.set_title(plain(title) if n else "the picture", fontsize=9)
        axes.set_axis_off()
    return pixels(figure)
