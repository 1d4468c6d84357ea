"""The identity function as a module."""

from jaxtyping import Float
from torch import Tensor, nn


class Identity(nn.Module):
    """Return the input; a recipe names it in place of a part that it leaves out."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return `x`."""
        return x
