"""A sheet of nearest neighbours (row 30): a row for each query."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from dlreview.plots.grid import grid

GREEN, RED, GREY = (-1.0, 0.6, -1.0), (0.8, -0.8, -0.8), (-0.5, -0.5, -0.5)
Images = Float[Tensor, "images channels height width"]


def framed(
    images: Images, colours: Float[Tensor, "images 3"], width: int
) -> Float[Tensor, "images 3 tall wide"]:
    """Put a frame of `width` pixels around each image."""
    count, _, height, wide = images.shape
    frame = colours[..., None, None].expand(count, 3, height + 2 * width, wide + 2 * width).clone()
    frame[..., width:-width, width:-width] = images
    return frame


def neighbours(
    queries: Float[Tensor, "queries channels height width"],
    train: Images,
    rows: Int[Tensor, "_ k"],
    right: Bool[Tensor, "queries k"] | None = None,
) -> UInt8[Tensor, "tall wide 3"]:
    """Draw each query and its neighbours, the nearest first.

    Args:
        queries: pixels in [-1, 1], 1 or 3 channels.
        train: the images among which neighbours were searched.
        rows: their row numbers.
        right: whether a neighbour has the query's class: it then has a green frame, else a red one.

    Raises:
        ValueError: there is no query, or not one row of numbers for each.
    """
    if len(queries) == 0 or len(rows) != len(queries):
        raise ValueError(f"rows must be one for each query, got {len(rows)} for {len(queries)}")
    k = rows.shape[1]
    found = rearrange(train[rows.flatten().to(train.device)].cpu(), "(q k) c h w -> q k c h w", k=k)
    images = torch.cat([queries.cpu()[:, None], found], dim=1)
    colours = torch.tensor(GREY).expand(len(queries), k + 1, 3).clone()
    if right is not None:
        chosen = torch.where(right.cpu()[..., None], torch.tensor(GREEN), torch.tensor(RED))
        colours[:, 1:] = chosen
    frame = max(1, queries.shape[-1] // 16)
    all_images = rearrange(images, "q n c h w -> (q n) c h w").float()
    return grid(framed(all_images, colours.flatten(0, 1), frame), columns=k + 1)
