"""Word vectors in the plane, by their two principal components."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor


def plane(vectors: Float[Tensor, "words width"]) -> Float[Tensor, "words 2"]:
    """Project unit vectors on the two directions in which they differ most.

    Each direction points to where its largest entry is positive, so that a picture repeats.
    """
    unit = torch.nn.functional.normalize(vectors.detach().double().cpu(), dim=1)
    centred = unit - unit.mean(dim=0)
    _, _, direction = torch.linalg.svd(centred, full_matrices=False)
    xy = centred @ direction[:2].T
    xy = torch.nn.functional.pad(xy, (0, 2 - xy.shape[1]))
    largest = xy.gather(0, xy.abs().argmax(dim=0, keepdim=True))
    return xy * torch.where(largest < 0, -1.0, 1.0)


def scatter(
    vectors: Float[Tensor, "points width"], names: list[str], colours: list[int] | None = None
) -> UInt8[Tensor, "rows columns 3"]:
    """Draw each name where its vector is; points of one colour number have one colour.

    Raises:
        ValueError: there are no points, or not one name for each.
    """
    if len(names) != len(vectors) or not names:
        raise ValueError(f"{len(names)} names for {len(vectors)} points")
    xy = plane(vectors).numpy()
    figure = Figure(figsize=(9, 7), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colour = colours or [0] * len(names)
    axes.scatter(xy[:, 0], xy[:, 1], s=12, c=colour, cmap="tab10", vmin=0, vmax=9)
    for (x, y), name in zip(xy, names, strict=True):
        plain = name.replace("$", r"\$")  # matplotlib would set it as a formula
        axes.annotate(plain, (x, y), xytext=(3, 3), textcoords="offset points", fontsize=8)
    axes.set_axis_off()
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3].copy())
