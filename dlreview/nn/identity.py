"""A part that is left out."""

from jaxtyping import Float
from torch import Tensor, nn


class Identity(nn.Module):
    """Change nothing; in a recipe it says that a part is left out on purpose."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return `x`."""
        return x
