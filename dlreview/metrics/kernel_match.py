"""Which filter made which output (row 47), "none of these" included."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from dlreview.messages import check_at_least
from dlreview.nn.image_kernels import filter_image

TOLERANCE = 0.02  # of the range from black to white: more than a JPEG of good quality changes
ROUNDING = 1 / 255  # a picture of 8 bits does not show smaller differences

Grey = Float[Tensor, "rows columns"]


def as_shown(values: Grey) -> Grey:
    """Clip values to 0..1, as a picture does: what is darker than black is black."""
    return values.clamp(0, 1)


def differences(
    image: Grey, output: Float[Tensor, "_ _"], kernels: Mapping[str, Float[Tensor, "k k"]]
) -> dict[str, float]:
    """Return how far the result of each kernel is from `output`: the root of the mean square.

    Pixels are in 0..1. The border does not count, because programs continue an image in different
    ways there.

    Raises:
        ValueError: the sizes differ, or the image has no pixel inside its border.
    """
    if image.shape != output.shape:
        raise ValueError(f"output must have the size {_size(image)}, got {_size(output)}")
    found = {}
    for name, kernel in kernels.items():
        border = kernel.shape[0] // 2
        check_at_least(2 * border + 1, rows=image.shape[0], columns=image.shape[1])
        inside = (slice(border, -border or None),) * 2
        error = as_shown(filter_image(image, kernel))[inside] - output[inside]
        found[name] = float(error.square().mean().sqrt())
    return found


def match_kernel(
    image: Grey,
    output: Float[Tensor, "_ _"],
    kernels: Mapping[str, Float[Tensor, "k k"]],
    tolerance: float = TOLERANCE,
) -> str | None:
    """Return the name of the kernel that made `output` of `image`; None is "none of these".

    Raises:
        ValueError: the sizes differ, or several kernels could have made it.
    """
    found = differences(image, output, kernels)
    best = min(found.values(), default=tolerance)
    equal = sorted(name for name, error in found.items() if error <= max(2 * best, ROUNDING))
    if not found or best > tolerance:
        return None
    if len(equal) > 1:
        names = ", ".join(equal)
        raise ValueError(f"{names} give the same output on this image; take one with more edges")
    return min(found, key=lambda name: found[name])


def _size(image: Tensor) -> str:
    return " × ".join(map(str, image.shape))
