"""From patches back to pixels: a linear layer predicts the pixels of every patch from its token.

Masked image modelling with it: Xie et al. 2022 (SimMIM, arXiv:2111.09886).
"""

from math import isqrt

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from dlreview.messages import check_at_least


class PatchDecoder(nn.Module):
    """Predict an image from tokens: `side` x `side` pixels for each patch of a square grid.

    As the `pooling` of a ViT with a mask token it makes `net(images, hidden)` an image.

    Raises:
        ValueError: a size is below 1; in a call, the patches are no square number.
    """

    def __init__(self, width: int, side: int, image_channels: int = 3) -> None:
        super().__init__()
        check_at_least(1, width=width, side=side, image_channels=image_channels)
        self.width, self.side, self.image_channels = width, side, image_channels
        self.W = nn.Linear(width, image_channels * side**2)

    def forward(
        self, x: Float[Tensor, "batch tokens width"], prefix: int = 1
    ) -> Float[Tensor, "batch {self.image_channels} height columns"]:
        """Predict the pixels."""
        patches = x[:, prefix:]
        rows, side = isqrt(patches.shape[1]), self.side
        if rows**2 != patches.shape[1]:
            raise ValueError(f"the patches must be a square number, got {patches.shape[1]}")
        pixels = "batch (rows columns) (channels p q) -> batch channels (rows p) (columns q)"
        return rearrange(self.W(patches), pixels, rows=rows, p=side, q=side)
