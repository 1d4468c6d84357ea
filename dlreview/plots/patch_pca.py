"""Principal components of patch features as colours (rows 40 and 41).

Oquab et al. 2024, arXiv:2304.07193, fig. 1: one PCA over the patches of all images, whose first
component separates objects from the background; a second PCA over the patches of the objects, whose
first three components are red, green and blue. So equal parts of different objects get equal
colours.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from dlreview.nn.feature_map import check_finite, evaluating, find_feature_map
from dlreview.plots.grid import grid
from dlreview.plots.heat import check_drawable

Images = Float[Tensor, "batch channels height width"]


class PatchColours(NamedTuple):
    """The result of patch PCA.

    Args:
        colours: of every patch, in 0..1; the background is black.
        foreground: the patches of objects.
        first: the first component of the PCA over all patches; objects are above the threshold.
    """

    colours: Float[Tensor, "batch 3 rows columns"]
    foreground: Bool[Tensor, "batch rows columns"]
    first: Float[Tensor, "batch rows columns"]


def principal_components(
    vectors: Float[Tensor, "points width"], count: int
) -> Float[Tensor, "points count"]:
    """Project vectors, without their mean, on the `count` directions of largest variance.

    The sign of a component makes its direction's largest coordinate positive, so that results are
    repeatable. Components that do not exist are zero.
    """
    centred = vectors.detach().double().cpu()
    centred = centred - centred.mean(dim=0)
    variance, directions = torch.linalg.eigh(centred.T @ centred)  # in ascending order
    chosen = directions.flip(1)[:, :count]
    chosen = chosen * chosen.gather(0, chosen.abs().argmax(dim=0, keepdim=True)).sign()
    projected = centred @ chosen
    projected[:, variance.flip(0)[:count] <= 1e-12 * variance[-1].clamp(min=1e-300)] = 0
    return F.pad(projected, (0, count - projected.shape[1]))


def on_border(rows: int, columns: int) -> Bool[Tensor, "rows columns"]:
    """Return which patches touch the border of the image."""
    border = torch.ones(rows, columns, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    return border


def colour_patches(
    features: Float[Tensor, "batch width rows columns"], threshold: float = 0.0
) -> PatchColours:
    """Find the objects and colour their patches.

    Sign rule: most of an image's border is background. So the first component, which is zero on the
    average of all patches, has the sign that makes its mean over the border patches negative; an
    object is where it is above `threshold`.
    """
    batch, _, rows, columns = features.shape
    patches = rearrange(features, "b c h w -> (b h w) c")
    first = principal_components(patches, 1).view(batch, rows, columns)
    if first[:, on_border(rows, columns)].mean() > 0:
        first = -first
    foreground = first > threshold
    colours = torch.zeros(batch * rows * columns, 3, dtype=torch.float64)
    inside = foreground.flatten()
    if inside.any():
        found = principal_components(patches.detach().cpu()[inside], 3)
        low, high = found.amin(dim=0), found.amax(dim=0)
        colours[inside] = (found - low) / (high - low).clamp(min=1e-12)
    shaped = rearrange(colours, "(b h w) c -> b c h w", b=batch, h=rows)
    return PatchColours(shaped, foreground, first)


@torch.no_grad()
def patch_pca(net: nn.Module, images: Images, threshold: float = 0.0) -> PatchColours:
    """Colour the patches of a Transformer, or the places of a CNN's feature map (row 41).

    `images` are those of one column of the figure: the components are common to all of them.

    Raises:
        ValueError: the network has no features by place, or a pixel is not a number.
    """
    check_finite(images)
    with evaluating(net):
        return colour_patches(find_feature_map(net)(images), threshold)


def patches(net: nn.Module, images: Images, threshold: float = 0.0) -> UInt8[Tensor, "tall wide 3"]:
    """Draw a row for each image: the image and the colours of its patches.

    Raises:
        ValueError: see `patch_pca`, or images have neither 1 nor 3 channels.
    """
    check_drawable(images)
    colours = patch_pca(net, images, threshold).colours.float()
    large = F.interpolate(colours, size=tuple(images.shape[-2:]), mode="nearest") * 2 - 1
    shown = images.float().cpu()
    low, high = shown.amin(), shown.amax()
    shown = ((shown - low) / (high - low).clamp(min=1e-12) * 2 - 1).expand(-1, 3, -1, -1)
    return grid(rearrange([shown, large], "two b c h w -> (b two) c h w"), columns=2)
