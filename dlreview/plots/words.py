"""Word vectors in the plane of their two principal components."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dlreview.plots.figure import new_figure, pixels

MOST_IN_LEGEND = 15  # kinds


def plane(vectors: Float[Tensor, "words width"]) -> Float[Tensor, "words 2"]:
    """Project vectors, scaled to length 1, on their first two principal components.

    The sign of a component makes its largest coordinate positive, so that pictures are repeatable.
    """
    unit = torch.nn.functional.normalize(vectors.detach().double().cpu(), dim=1)
    centred = unit - unit.mean(dim=0)
    _, _, direction = torch.linalg.svd(centred, full_matrices=False)
    xy = centred @ direction[:2].T
    xy = torch.nn.functional.pad(xy, (0, 2 - xy.shape[1]))
    largest = xy.gather(0, xy.abs().argmax(dim=0, keepdim=True))
    return xy * torch.where(largest < 0, -1.0, 1.0)


def scatter(
    vectors: Float[Tensor, "points width"], names: list[str]
) -> UInt8[Tensor, "rows columns 3"]:
    """Draw each name at the point of its vector.

    Raises:
        ValueError: there are no points, or not one name per point.
    """
    figure, axes, xy = _canvas(vectors, names)
    axes.scatter(xy[:, 0], xy[:, 1], s=12)
    for (x, y), name in zip(xy, names, strict=True):
        axes.annotate(_escape(name), (x, y), xytext=(3, 3), textcoords="offset points", fontsize=8)
    return pixels(figure)


def clusters(
    vectors: Float[Tensor, "points width"], kinds: list[str], title: str
) -> UInt8[Tensor, "rows columns 3"]:
    """Draw each vector in the colour of its kind; the legend counts the most frequent ones.

    Raises:
        ValueError: there are no points, or not one kind per point.
    """
    figure, axes, xy = _canvas(vectors, kinds)
    for number, (kind, count) in enumerate(Counter(kinds).most_common()):
        points = xy[[k == kind for k in kinds]]
        colour, marker = f"C{number % 10}", "osD^v"[number // 10 % 5]
        label = f"{_escape(kind)} ({count})" if number < MOST_IN_LEGEND else None
        axes.scatter(points[:, 0], points[:, 1], s=24, c=colour, marker=marker, label=label)
    axes.set_title(_escape(title))
    axes.legend()
    return pixels(figure)


def _canvas(vectors: Tensor, names: list[str]) -> tuple[Figure, Axes, np.ndarray]:
    if len(names) != len(vectors) or not names:
        raise ValueError(f"names must be one for each point, got {len(names)} for {len(vectors)}")
    figure = new_figure(9, 7)
    axes = figure.add_subplot()
    axes.set_axis_off()
    return figure, axes, plane(vectors).numpy()


def _escape(text: str) -> str:
    return text.replace("$", r"\$")  # else matplotlib reads it as a formula
