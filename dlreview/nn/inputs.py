"""What a network refuses at its door, in one line that names the wrong size.

torch finds most wrong sizes later, in words about its own matrices; fused kernels may not find them
and read beyond their memory. The checks look at shapes only, so that no device waits for them.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def check_size(name: str, x: Tensor, axis: int, size: int) -> None:
    """Refuse a tensor with another size than `size` along an axis.

    Raises:
        ValueError: names both sizes.
    """
    if x.shape[axis] != size:
        raise ValueError(f"{name} must be {size}, got {x.shape[axis]}")


def check_images(images: Tensor, channels: int) -> None:
    """Refuse what is no batch of images with so many channels.

    Raises:
        ValueError: names the shape, or both numbers of channels.
    """
    if images.ndim != 4:
        shape = list(images.shape)
        raise ValueError(f"images must be (batch, channels, height, width), got shape {shape}")
    check_size("image_channels of images", images, 1, channels)


def check_rows(name: str, x: Tensor, batch: int) -> None:
    """Refuse a tensor that has neither one row for the whole batch nor one for each example.

    Raises:
        ValueError: names both sizes.
    """
    if x.shape[0] not in (1, batch):
        raise ValueError(f"{name} must have 1 or {batch} rows, got {x.shape[0]}")


def look_up(name: str, table: Callable[[Tensor], Tensor], ids: Tensor, rows: int) -> Tensor:
    """Return table(ids); on a CPU, name ids outside 0..rows-1, where torch says "in self".

    A GPU would have to be asked whether ids are inside, which takes longer than the lookup.

    Raises:
        ValueError: names the smallest and the largest id.
    """
    if torch.compiler.is_compiling():
        return table(ids)
    try:
        return table(ids)
    except IndexError:
        least, most = int(ids.min()), int(ids.max())
        if least >= 0 and most < rows:
            raise
        raise ValueError(f"{name} must be in 0..{rows - 1}, got {least}..{most}") from None
