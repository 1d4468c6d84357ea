"""Codes of positions side by side: integers, binary digits, sinusoids (rows 20-22).

The picture shows the values of the formula of row 21. The "sinusoid" table of row 22 is an
illustration with other numbers: it begins with 0.5, and formula 21 gives 0 or 1 at position 0.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from dlreview.nn.positions import binary_code, integer_code, sinusoids

MOST_NUMBERS = 128  # a table of more values is drawn without them


def position_codes(length: int = 8, width: int = 4) -> dict[str, Float[Tensor, "length columns"]]:
    """Return the three tables of `length` positions; the sinusoids have `width` values each."""
    return {
        "integer (row 20)": integer_code(length),
        "binary (row 20)": binary_code(length),
        "sinusoids (row 21, not the numbers of row 22)": sinusoids(torch.arange(length), width),
    }


def positions(
    codes: dict[str, Float[Tensor, "_ _"]], numbers: bool | None = None
) -> UInt8[Tensor, "rows columns 3"]:
    """Draw each table as a heat map with its own scale, a row for each position.

    Args:
        codes: tables by title.
        numbers: whether values are written in the cells; by default in small tables.

    Raises:
        ValueError: there is no table.
    """
    if not codes:
        raise ValueError("codes must have at least 1 table, got 0")
    figure = Figure(figsize=(4 * len(codes), 4.5), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(codes), squeeze=False)[0]
    for axes, (title, code) in zip(panels, codes.items(), strict=True):
        table = code.detach().double().cpu().numpy()
        image = axes.imshow(table, aspect="auto", cmap="viridis", interpolation="nearest")
        axes.set_title(title)
        axes.set_xlabel("value")
        axes.set_ylabel("position")
        axes.set_xticks([0, table.shape[1] - 1] if table.shape[1] > 1 else [0])
        figure.colorbar(image, ax=axes)
        if table.size <= MOST_NUMBERS if numbers is None else numbers:
            middle = (table.min() + table.max()) / 2
            for (row, column), value in np.ndenumerate(table):
                colour = "black" if value > middle else "white"
                text = f"{value:.2f}".rstrip("0").rstrip(".")
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3].copy())
