"""Curves on a logarithmic scale."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from dlreview.plots.figure import new_figure, pixels


def curves(
    values: dict[str, Float[Tensor, " points"]],
    x_label: str,
    y_label: str,
    x: Float[Tensor, " points"] | None = None,
) -> UInt8[Tensor, "rows columns 3"]:
    """Draw a curve of positive values against 0, 1, 2, ... for each name; zeros leave gaps.

    With `x` the curves are drawn against its values, which are positive, on a logarithmic scale.

    Raises:
        ValueError: there is no curve.
    """
    if not values:
        raise ValueError("values must have at least 1 curve, got 0")
    figure = new_figure(7, 4)
    axes = figure.add_subplot()
    for name, curve in values.items():
        points = curve.detach().double().cpu().numpy()
        places = np.arange(len(points)) if x is None else x.double().cpu().numpy()
        axes.plot(places, np.where(points > 0, points, np.nan), label=name)
    axes.set_yscale("log")
    if x is not None:
        axes.set_xscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.legend()
    return pixels(figure)
