"""A sheet of image kernels: the picture and what each kernel makes of it (rows 47 and 48)."""

from __future__ import annotations

import math

import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from dlreview.nn.image_kernels import image_kernels
from dlreview.plots.figure import new_figure, pixels

COLUMNS = 4
LARGEST = 400  # pixels of a panel's longer side


def kernels(
    image: Float[Tensor, "rows columns"], results: dict[str, Float[Tensor, "rows columns"]]
) -> UInt8[Tensor, "height width 3"]:
    """Draw a grey picture and its results by kernel, all with pixels in 0..1.

    The weights of a kernel that has a name in `image_kernels` stand above its result.
    """
    known = image_kernels()
    panels = {"picture": image} | results
    rows = math.ceil(len(panels) / COLUMNS)
    tall, wide = image.shape
    figure = new_figure(3 * COLUMNS, rows * (0.6 + 3 * max(0.5, min(2, tall / wide))))
    axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for place in axes:
        place.set_axis_off()
    for place, (name, panel) in zip(axes, panels.items(), strict=False):
        place.imshow(smaller(panel).cpu().numpy(), cmap="gray", vmin=0, vmax=1)
        lines = [name]
        if name in known:
            lines += [" ".join(f"{w:6.3g}" for w in row) for row in known[name].tolist()]
        place.set_title("\n".join(lines), fontsize=8, family="monospace")
    return pixels(figure)


def smaller(image: Float[Tensor, "rows columns"]) -> Float[Tensor, "fewer_rows fewer_columns"]:
    """Shrink a large picture, so that its panel shows all of it."""
    share = min(1.0, LARGEST / max(image.shape))
    size = [max(1, round(share * side)) for side in image.shape]
    return F.interpolate(image[None, None].float(), size=size, mode="area")[0, 0]
