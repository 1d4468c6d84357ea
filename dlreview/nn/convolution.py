"""The arithmetic of convolutions (rows 44-46), and the network whose weights the exam counts.

The review's symbols: an image of n × n pixels and c channels meets l filters of k × k weights for
each channel, with padding p and stride s. Images are square, and filters have no dilation.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dlreview.messages import check_at_least
from dlreview.nn.inputs import check_images

Images = Float[Tensor, "batch channels rows columns"]


def output_side(n: int, k: int, p: int = 0, s: int = 1) -> int:
    """Return floor((n - k + 2p) / s) + 1, the side of the output (row 44).

    Raises:
        ValueError: a size is out of range, or the filter is larger than the padded image.
    """
    check_at_least(1, n=n, k=k, s=s)
    check_at_least(0, p=p)
    if k > n + 2 * p:
        raise ValueError(f"k must be at most n + 2p = {n + 2 * p}, got {k}")
    return (n - k + 2 * p) // s + 1


def output_shape(n: int, k: int, l: int, p: int = 0, s: int = 1) -> tuple[int, int, int]:  # noqa: E741 (the review's symbol)
    """Return rows, columns and channels of the output of l filters (row 44)."""
    check_at_least(1, l=l)
    side = output_side(n, k, p, s)
    return side, side, l


def weight_count(k: int, c: int, l: int, bias: bool = False) -> int:  # noqa: E741 (the review's symbol)
    """Return (k × k) × c × l, the number of weights of a layer (row 45); a bias adds l."""
    check_at_least(1, k=k, c=c, l=l)
    return k * k * c * l + (l if bias else 0)


class Bottleneck(nn.Module):
    """Go from `width` channels to `inner_width` and back: 1 × 1, 3 × 3 and 1 × 1 filters.

    The input is added to the output, which needs no weights.
    """

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, inner_width, 1, bias=False)
        self.filter = nn.Conv2d(inner_width, inner_width, 3, padding=1, bias=False)
        self.expand = nn.Conv2d(inner_width, width, 1, bias=False)

    def forward(self, x: Images) -> Images:
        """Transform."""
        return F.relu(x + self.expand(F.relu(self.filter(F.relu(self.reduce(x))))))


class BottleneckCNN(nn.Module):
    """The network of the exam's question 7 (rows 45 and 46): a layer and two bottleneck blocks.

    By default its seven layers have 300, 8, 36, 8, 8, 36, 8 weights, together 404; there are no
    biases and no norms. The question shows the weights only. The rectifiers and the shortcuts,
    which have no weights, are those of He et al. 2016 (arXiv:1512.03385).

    Raises:
        ValueError: a size is below 1, or `kernel_size` is even.
    """

    def __init__(
        self,
        width: int = 4,
        inner_width: int = 2,
        depth: int = 2,
        kernel_size: int = 5,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        check_at_least(1, width=width, inner_width=inner_width, depth=depth)
        check_at_least(1, kernel_size=kernel_size, image_channels=image_channels)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        self.width, self.inner_width, self.depth = width, inner_width, depth
        self.kernel_size, self.image_channels = kernel_size, image_channels
        padding = kernel_size // 2
        self.first = nn.Conv2d(image_channels, width, kernel_size, padding=padding, bias=False)
        self.blocks = nn.Sequential(*(Bottleneck(width, inner_width) for _ in range(depth)))

    def feature_map(self, images: Images) -> Float[Tensor, "batch {self.width} rows columns"]:
        """Return the output of the last block."""
        check_images(images, self.image_channels)
        return self.blocks(F.relu(self.first(images)))

    def forward(self, images: Images) -> Float[Tensor, "batch {self.width} rows columns"]:
        """Return the feature map: the network of the question has no classifier."""
        return self.feature_map(images)
