"""Heat maps laid over images: bright where a map is large."""

from __future__ import annotations

import matplotlib
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, UInt8
from torch import Tensor

from dlreview.plots.grid import grid


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
    channels, height, width = images.shape[1:]
    if channels not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, got shape {tuple(images.shape)}")
    heat = heat.detach().float().clamp(min=0)
    heat = heat / heat.amax(dim=(-2, -1), keepdim=True).clamp(min=1e-12)
    tall, wide = covered or (height, width)
    heat = F.interpolate(heat, size=(tall, wide), mode="bilinear")
    heat = F.pad(heat, (0, width - wide, 0, height - tall)).cpu()  # negative padding crops
    coloured = torch.from_numpy(matplotlib.colormaps["inferno"](heat.numpy())[..., :3]).float()

    grey = images.float().cpu().mean(dim=1)
    low, high = grey.amin(), grey.amax()
    grey = (grey - low) / (high - low).clamp(min=1e-12)
    # The mean of image and map, so that both can be seen, in the range [-1, 1].
    overlays = rearrange(coloured, "b k h w c -> b k c h w") + repeat(grey, "b h w -> b 1 3 h w")
    panels = torch.cat([repeat(2 * grey, "b h w -> b 1 3 h w"), overlays], dim=1) - 1
    return grid(rearrange(panels, "b k c h w -> (b k) c h w"), columns=panels.shape[1])
