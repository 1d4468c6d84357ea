"""Patches: an image is cut into squares, and each square becomes a token.

Dosovitskiy et al. 2021, arXiv:2010.11929, eq. 1.
"""

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from dlreview.messages import check_at_least, check_known


def as_pair(size: int | list[int] | tuple[int, ...], name: str) -> tuple[int, int]:
    """Return a size as (height, width).

    Raises:
        ValueError: `size` is neither one positive number nor two.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{name} must be one or two positive numbers, got {size}")
    return pair[0], pair[1]


class PatchEmbedding(nn.Module):
    """Project every patch of an image to a token: x_p E of eq. 1.

    `remainder` says what happens to rows and columns at the lower and right edge that do not fill a
    patch: "error" refuses the image, "crop" cuts them off, "pad" adds zeros. `norm` acts on each
    token.

    Raises:
        ValueError: A size is below 1, or `remainder` is none of the three.
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
        check_at_least(1, width=width, image_channels=image_channels)
        check_known("remainder", remainder, ("error", "crop", "pad"))
        self.patch_size, self.width, self.image_channels = patch_size, width, image_channels
        self.bias, self.remainder = bias, remainder
        self.patch_height, self.patch_width = height_width
        # A linear layer: a convolution with the same weights trains slower on small patches.
        self.E = nn.Linear(image_channels * self.patch_height * self.patch_width, width, bias=bias)
        self.norm = norm

    def covered_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that the patches of an image cover.

        Raises:
            ValueError: `remainder` is "error" and the size is not divisible by the patch size.
        """
        rest_height, rest_width = height % self.patch_height, width % self.patch_width
        if self.remainder == "error" and (rest_height or rest_width):
            raise ValueError(
                f"image_size {height} x {width} must be divisible by patch_size "
                f"{self.patch_height} x {self.patch_width}"
            )
        height, width = height - rest_height, width - rest_width
        if self.remainder == "pad":
            height += self.patch_height if rest_height else 0
            width += self.patch_width if rest_width else 0
        return height, width

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the numbers of patch rows and patch columns of an image of this size."""
        height, width = self.covered_size(height, width)
        return height // self.patch_height, width // self.patch_width

    def forward(
        self, images: Float[Tensor, "batch image_channels rows columns"]
    ) -> Float[Tensor, "batch patches token_width"]:
        """Embed the patches, row by row."""
        height, width = self.covered_size(*images.shape[-2:])
        if (height, width) != tuple(images.shape[-2:]):
            # Negative padding crops.
            images = F.pad(images, (0, width - images.shape[-1], 0, height - images.shape[-2]))
        patches = rearrange(
            images, "b c (h p) (w q) -> b (h w) (c p q)", p=self.patch_height, q=self.patch_width
        )
        tokens = self.E(patches)
        return tokens if self.norm is None else self.norm(tokens)
