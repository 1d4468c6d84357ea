"""Heat maps laid over images: bright where a map is large."""

from __future__ import annotations

import matplotlib
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, UInt8
from torch import Tensor

from dlreview.plots.grid import grid


def check_drawable(images: Float[Tensor, "batch channels height width"]) -> None:
    """Refuse images that no picture can show.

    Raises:
        ValueError: images have neither 1 nor 3 channels.
    """
    if images.shape[1] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, got shape {tuple(images.shape)}")


def grey_of(
    images: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch height width"]:
    """Return images in grey, from 0 (the darkest pixel of all) to 1."""
    grey = images.detach().float().cpu().mean(dim=1)
    low, high = grey.amin(), grey.amax()
    return (grey - low) / (high - low).clamp(min=1e-12)


def laid_over(
    images: Float[Tensor, "batch channels height width"],
    heat: Float[Tensor, "batch maps rows columns"],
    covered: tuple[int, int] | None = None,
) -> Float[Tensor, "batch maps 3 height width"]:
    """Lay each map of an image in colours over the grey image; see `overlay`."""
    height, width = images.shape[-2:]
    heat = heat.detach().float().clamp(min=0)
    heat = heat / heat.amax(dim=(-2, -1), keepdim=True).clamp(min=1e-12)
    tall, wide = covered or (height, width)
    heat = F.interpolate(heat, size=(tall, wide), mode="bilinear")
    heat = F.pad(heat, (0, width - wide, 0, height - tall)).cpu()  # negative padding crops
    coloured = torch.from_numpy(matplotlib.colormaps["inferno"](heat.numpy())[..., :3]).float()
    # The mean of image and map, so that both can be seen.
    grey = repeat(grey_of(images), "b h w -> b 1 3 h w")
    return (rearrange(coloured, "b k h w c -> b k c h w") + grey) / 2


def overlay(
    images: Float[Tensor, "batch channels height width"],
    heat: Float[Tensor, "batch maps rows columns"],
    covered: tuple[int, int] | None = None,
) -> UInt8[Tensor, "tall wide 3"]:
    """Draw a row for each image: the image in grey, then each of its maps over it.

    Each map is scaled to its own largest value; values below zero are dark. Pixels may have any
    scale.

    Args:
        images: of 1 or 3 channels.
        heat: maps of each image, usually of fewer pixels.
        covered: (height, width) of the part that the maps cover, from the top left; by default the
            whole image.

    Raises:
        ValueError: images have neither 1 nor 3 channels.
    """
    check_drawable(images)
    grey = repeat(grey_of(images), "b h w -> b 1 3 h w")
    panels = torch.cat([grey, laid_over(images, heat, covered)], dim=1)
    return grid(2 * rearrange(panels, "b k c h w -> (b k) c h w") - 1, columns=panels.shape[1])
