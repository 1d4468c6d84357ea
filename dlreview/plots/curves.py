"""Curves on a logarithmic scale."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor


def curves(
    values: dict[str, Float[Tensor, " points"]], x_label: str, y_label: str
) -> UInt8[Tensor, "rows columns 3"]:
    """Draw a curve of positive values against 0, 1, 2, ... for each name; zeros leave gaps.

    Raises:
        ValueError: there is no curve.
    """
    if not values:
        raise ValueError("values must have at least 1 curve, got 0")
    figure = Figure(figsize=(7, 4), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, curve in values.items():
        points = curve.detach().double().cpu().numpy()
        axes.plot(np.where(points > 0, points, np.nan), label=name)
    axes.set_yscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.legend()
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3].copy())
