"""A figure of matplotlib as pixels."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor


def new_figure(width: int | float, height: int | float) -> Figure:
    """Make an empty figure; sizes in inches of 100 pixels."""
    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def pixels(figure: Figure) -> UInt8[Tensor, "rows columns 3"]:
    """Draw a figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3].copy())
