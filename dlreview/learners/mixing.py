"""Mixup and CutMix: train on blends of two images, with the labels in the same proportion.

Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899. Both are
x = m x_1 + (1 - m) x_2, y = s y_1 + (1 - s) y_2 with s the mean of the mask m: in mixup m is
constant, in CutMix it is 0 in a rectangle and 1 around it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dlreview.randomness import RowRandom

Mask = Float[Tensor, "batch 1 height width"]


def blend(
    images: Float[Tensor, "batch channels height width"],
    q: Float[Tensor, "batch classes"],
    keep: Mask,
) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch classes"]]:
    """Keep the share `keep` of each image and of its soft label q; the rest is its neighbour's.

    Rows 2k and 2k + 1 are neighbours; the last row of an odd number is its own neighbour. Since
    batches are shuffled, neighbours are random; and with an even batch size they are the same for
    any number of processes.
    """
    row = torch.arange(len(images), device=images.device)
    neighbour = (row ^ 1).clamp(max=len(images) - 1)
    share = keep.mean((1, 2, 3))[:, None]
    return torch.lerp(images[neighbour], images, keep), torch.lerp(q[neighbour], q, share)


def symmetric_beta(
    u: Float[Tensor, " batch"], v: Float[Tensor, " batch"], a: float
) -> Float[Tensor, " batch"]:
    """Turn uniform numbers in [0, 1) into samples of Beta(a, a).

    Bailey's polar method (1994) gives Student's t with 2a degrees of freedom,
    t^2 / 2a = (u^(-1/a) - 1) cos^2(2 pi v), and (1 + t / sqrt(2a + t^2)) / 2 has Beta(a, a).
    """
    c, h = torch.cos(2 * torch.pi * v), u ** (1 / a)
    ratio = c * torch.sqrt((1 - h) / (h + (1 - h) * c**2))
    return (1 + ratio.clamp(-1, 1)) / 2  # rounding may exceed 1


def rectangles(
    share: Float[Tensor, " batch"],
    top: Float[Tensor, " batch"],
    left: Float[Tensor, " batch"],
    height: int,
    width: int,
) -> Mask:
    """Mask rectangles with 0: the image's shape, 1 - `share` of its area, rounded to pixels.

    `top` and `left` in [0, 1) choose one of the positions at which the rectangle is in the image.
    """
    side = torch.sqrt(1 - share)
    masks = []
    for position, size in ((top, height), (left, width)):
        length = torch.round(side * size)
        first = torch.floor(position * (size - length + 1))
        pixel = torch.arange(size, device=share.device)
        masks.append((pixel >= first[:, None]) & (pixel < (first + length)[:, None]))
    inside = masks[0][:, None, :, None] & masks[1][:, None, None, :]
    return 1 - inside.to(share.dtype)


def draw_keep(random: RowRandom, size: torch.Size, mixup: float, cutmix: float) -> Mask:
    """Draw a mask for each row: of mixup or CutMix, equally likely if both are above 0.

    Args:
        random: source of random numbers.
        size: height and width of the images.
        mixup: a of Beta(a, a), the distribution of shares; 0 for no mixup.
        cutmix: the same for CutMix.

    Raises:
        ValueError: both are 0.
    """
    u, v, top, left, coin = random.uniform(5).unbind(1)
    height, width = size
    mixed = cut = None
    if mixup:
        mixed = symmetric_beta(u, v, mixup)[:, None, None, None].expand(-1, 1, height, width)
    if cutmix:
        cut = rectangles(symmetric_beta(u, v, cutmix), top, left, height, width)
    if mixed is None or cut is None:
        chosen = cut if mixed is None else mixed
        if chosen is None:
            raise ValueError("mixup or cutmix must be above 0, got 0 for both")
        return chosen
    return torch.where((coin < 0.5)[:, None, None, None], mixed, cut)
