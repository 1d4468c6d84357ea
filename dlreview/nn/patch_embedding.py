"""Patches: an image cut into squares that are read like words.

Dosovitskiy et al. 2021, arXiv:2010.11929, eq. 1.
"""

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


def as_pair(size: int | list[int] | tuple[int, ...], name: str) -> tuple[int, int]:
    """Read a size as (height, width).

    Raises:
        ValueError: `size` is neither one positive number nor two.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{name} must be a positive number or two, not {size}")
    return pair[0], pair[1]


class PatchEmbedding(nn.Module):
    """Project every patch of an image to a token: x_p E of eq. 1.

    What is left of an image at its lower and right edge, smaller than a patch, is refused
    (`remainder` "error"), cut off ("crop") or filled up with zeros ("pad"). `norm` acts on each
    token.

    Raises:
        ValueError: A size is not positive, or `remainder` none of the three.
    """

    def __init__(
        self,
        patch_size: int | list[int],
        width: int,
        image_channels: int = 3,
        bias: bool = True,
        remainder: str = "error",
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        height_width = as_pair(patch_size, "patch_size")
        if width < 1 or image_channels < 1:
            raise ValueError(f"width {width}, image_channels {image_channels} must be positive")
        if remainder not in ("error", "crop", "pad"):
            raise ValueError(f"remainder must be 'error', 'crop' or 'pad', not {remainder!r}")
        self.patch_size, self.width, self.image_channels = patch_size, width, image_channels
        self.bias, self.remainder = bias, remainder
        self.patch_height, self.patch_width = height_width
        # A matrix product: the convolution of the same weights is slower to train on small patches.
        self.E = nn.Linear(image_channels * self.patch_height * self.patch_width, width, bias=bias)
        self.norm = norm

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """Give the size of the part of an image that patches cover.

        Raises:
            ValueError: `remainder` is "error" and the size is not a multiple of the patch's.
        """
        over_height, over_width = height % self.patch_height, width % self.patch_width
        if self.remainder == "error" and (over_height or over_width):
            raise ValueError(
                f"image_size {height} x {width} is not a multiple of patch_size "
                f"{self.patch_height} x {self.patch_width}"
            )
        height, width = height - over_height, width - over_width
        if self.remainder == "pad":
            height += self.patch_height if over_height else 0
            width += self.patch_width if over_width else 0
        return height, width

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Count the patches of an image of this size, down and across."""
        height, width = self.fit(height, width)
        return height // self.patch_height, width // self.patch_width

    def forward(
        self, images: Float[Tensor, "batch image_channels rows columns"]
    ) -> Float[Tensor, "batch patches token_width"]:
        """Embed the patches, row by row."""
        height, width = self.fit(*images.shape[-2:])
        if (height, width) != tuple(images.shape[-2:]):
            # A negative amount cuts off.
            images = F.pad(images, (0, width - images.shape[-1], 0, height - images.shape[-2]))
        patches = rearrange(
            images, "b c (h p) (w q) -> b (h w) (c p q)", p=self.patch_height, q=self.patch_width
        )
        tokens = self.E(patches)
        return tokens if self.norm is None else self.norm(tokens)
