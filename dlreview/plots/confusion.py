"""The confusion matrix as a picture."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, UInt8
from torch import Tensor

from dlreview.plots.figure import new_figure, pixels

MOST_LABELLED = 20  # with more classes the picture has no names and no counts


def confusion(
    counts: Int[Tensor, "true predicted"], names: list[str] | None = None
) -> UInt8[Tensor, "height width 3"]:
    """Draw `counts`: a row is a true class, a column a predicted class.

    Shades are shares of the true class, so that rare classes are as visible as frequent ones.

    Raises:
        ValueError: `counts` is not square, or `names` has not one name per class.
    """
    classes = counts.shape[0]
    if counts.shape[1] != classes or classes == 0:
        raise ValueError(f"counts must be a square matrix, got shape {tuple(counts.shape)}")
    if names and len(names) != classes:
        raise ValueError(f"names must be one for each of {classes} classes, got {len(names)}")
    table = counts.detach().cpu().numpy()
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    side = min(max(4.0, 0.5 * classes), 12.0)
    figure = new_figure(side, side)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"{np.trace(table) / max(table.sum(), 1):.2%} of {table.sum()} correct")
    if classes <= MOST_LABELLED:
        labels = names or [str(k) for k in range(classes)]
        axes.set_xticks(range(classes), labels, rotation=45, ha="right")
        axes.set_yticks(range(classes), labels)
        for row, column in np.argwhere(table > 0):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, table[row, column], ha="center", va="center", color=colour)
    return pixels(figure)
