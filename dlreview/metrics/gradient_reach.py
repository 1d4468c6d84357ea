"""How far back a recurrent network learns (rows 10 and 16): the gradient against the distance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

FADED = 0.01  # a gradient below this share of the gradient at distance 0 counts as vanished


def gradient_norms(
    read: Callable[[Tensor], Tensor], vectors: Float[Tensor, "batch time width"]
) -> Float[Tensor, " time"]:
    """Return the mean norm of d loss / d vector, where the loss is that of the last step only.

    Entry k belongs to the vector k steps before the last one. `read` maps the vectors to the loss
    of each row at the last step.
    """
    vectors = vectors.detach().requires_grad_()
    with torch.enable_grad():
        gradient = torch.autograd.grad(read(vectors).sum(), vectors)[0]
    return gradient.norm(dim=2).mean(dim=0).flip(0)


def reach(norms: Float[Tensor, " time"]) -> int:
    """Return the distance from which the gradient is below 1 % of the gradient at distance 0."""
    strong = (norms >= FADED * norms[0]).nonzero()
    return int(strong[-1]) + 1 if len(strong) else 0
