"""Deep learning review: every system written from its equations, trained from a recipe, proved."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["load"]


def load(path: str | os.PathLike[str], name: str | None = None) -> nn.Module:
    """Load a network from a run's folder, a model folder or a repository `owner/name` on the hub.

    Of several networks it is the one called `name`, by default the main one. See
    `dlreview.saved.load`. Nothing is unpickled but a run's own checkpoint, as plain numbers.

    Raises:
        ValueError: what is there is damaged or no network of ours; one line names the fault.
        OSError: there is nothing there, or the hub cannot be reached.
    """
    from dlreview import saved

    return saved.load(path, name)
