"""A grid of images as one picture."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F


def grid(
    images: Float[Tensor, "batch channels height width"],
    columns: int | None = None,
    scale: int | None = None,
) -> UInt8[Tensor, "tall wide 3"]:
    """Arrange images, pixels in [-1, 1], row by row with thin lines between them.

    Args:
        images: 1 (grey) or 3 (RGB) channels; values outside [-1, 1] are clamped.
        columns: images per row; by default as many as there are rows.
        scale: integer factor of enlargement; by default it makes small images visible.

    Raises:
        ValueError: there are no images, or they have neither 1 nor 3 channels.
    """
    count, channels, height, _ = images.shape
    if count == 0 or channels not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, got shape {tuple(images.shape)}")
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    scale = scale or max(1, 40 // height)
    pixels = ((images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels = pixels.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    empty = -count % columns
    pixels = torch.cat([pixels, pixels.new_zeros(empty, *pixels.shape[1:])])
    pixels = F.pad(pixels, (1, 1, 1, 1), value=64)
    rows = pixels.unflatten(0, (-1, columns))  # row column channel height width
    picture = rows.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    return picture if channels == 3 else picture.expand(*picture.shape[:2], 3)
