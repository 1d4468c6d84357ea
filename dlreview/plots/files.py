"""Images as files: one file per image, and one with all in a grid."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import Float
from PIL import Image
from torch import Tensor, uint8

from dlreview.plots.grid import grid


def save_images(
    images: Float[Tensor, "batch channels height width"], folder: Path, columns: int | None = None
) -> Path:
    """Write images, pixels in [-1, 1], as 0000.png, ... and grid.png; return the path of the grid.

    Raises:
        OSError: the disk is full or not writable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pixels = ((images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(uint8)
    for n, image in enumerate(pixels):
        array = image[0] if len(image) == 1 else image.permute(1, 2, 0)
        Image.fromarray(array.contiguous().numpy()).save(folder / f"{n:04d}.png")
    final = folder / "grid.png"
    Image.fromarray(grid(images, columns).contiguous().numpy()).save(final)
    return final
