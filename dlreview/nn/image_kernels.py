"""Image kernels (rows 47 and 48): filters of 3 × 3 weights that people chose, not learned ones.

As everywhere in deep learning, "convolution" means correlation: a kernel is not turned around. So
the left Sobel kernel is positive where the left side is brighter.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dlreview.messages import check_known

Kernel = Float[Tensor, "3 3"]
# The eight directions clockwise, and the places around the middle in the same order.
DIRECTIONS = ("top", "top right", "right", "bottom right", "bottom", "bottom left", "left",
              "top left")  # fmt: skip
PLACES = ((0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0), (0, 0))
AROUND = (2, 1, 0, -1, -2, -1, 0, 1)  # weights of the top Sobel kernel at these places
EXAM = ("sharpen", "edge", "left sobel")  # the filters that the exam's question gives


def sobel(direction: str) -> Kernel:
    """Return the kernel that is positive where `direction` is brighter: "left", "top right", ...

    Raises:
        ValueError: there is no such direction.
    """
    check_known("direction", direction, DIRECTIONS)
    kernel, turn = torch.zeros(3, 3), DIRECTIONS.index(direction)
    for number, (row, column) in enumerate(PLACES):
        kernel[row, column] = AROUND[(number - turn) % 8]
    return kernel


def image_kernels() -> dict[str, Kernel]:
    """Return every kernel by its name."""
    cross = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])
    middle = torch.zeros(3, 3)
    middle[1, 1] = 1
    line = torch.tensor([1.0, 2, 1]) / 4
    return {
        "identity": middle,
        "blur": torch.outer(line, line),
        "sharpen": 5 * middle - cross,
        "edge": 9 * middle - torch.ones(3, 3),
        **{f"{direction} sobel": sobel(direction) for direction in DIRECTIONS},
    }


def filter_image(
    image: Float[Tensor, "rows columns"], kernel: Float[Tensor, "k k"]
) -> Float[Tensor, "rows columns"]:
    """Apply a kernel of odd size to a grey image, whose border pixels are repeated outside it."""
    padding = kernel.shape[0] // 2
    around = F.pad(image[None, None], (padding,) * 4, mode="replicate")
    return F.conv2d(around, kernel.to(image)[None, None])[0, 0]
