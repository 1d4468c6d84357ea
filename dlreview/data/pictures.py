"""From a picture to its pixels, in the same way for training, validation and `sample`."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from dlreview.messages import one_line

GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
LARGEST_16_BIT = 65_535
# What Pillow raises for damaged files.
DAMAGE = (OSError, SyntaxError, ValueError, ArithmeticError, LookupError, EOFError, struct.error,
          zlib.error)  # fmt: skip


def eight_bits(picture: Image.Image) -> Image.Image:
    """Scale a grey picture of 16 bits by 1/257, rounded; return others as they are.

    Raises:
        ValueError: the picture has floating-point numbers, or integers outside 0..65535. It does
            not say which of them are black and white.
    """
    if picture.mode == "F":
        raise ValueError("has mode F (floating point); save it with 8 or 16 bits")
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture).astype(np.int64)
    if values.min() < 0 or values.max() > LARGEST_16_BIT:
        found = f"has mode {picture.mode} and values from {values.min()} to {values.max()}"
        raise ValueError(f"{found}; values must be in 0..{LARGEST_16_BIT}")
    if isinstance(transparent := picture.info.get("transparency"), int):
        values[values == transparent] = LARGEST_16_BIT
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def on_white(picture: Image.Image) -> Image.Image:
    """Lay a picture that is transparent in places on a white ground."""
    if not picture.has_transparency_data:
        return picture
    ground = Image.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture.convert("RGBA"))
    return ground


def decode(
    picture: Image.Image, channels: int | None = None, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "channels height width"]:
    """Turn a picture upright, lay it on white and return its pixels 0..255.

    Args:
        picture: of any mode; its EXIF orientation is honoured.
        channels: 1 (grey) or 3 (RGB); by default what the picture is.
        size: (height, width) to resize to, antialiased; by default the picture's own.

    Raises:
        ValueError: the range of the picture's values is not known.
    """
    picture = ImageOps.exif_transpose(picture)
    channels = channels or (1 if picture.mode in GREY_MODES else 3)
    picture = on_white(eight_bits(picture)).convert("L" if channels == 1 else "RGB")
    if size is not None and picture.size != size[::-1]:
        picture = picture.resize(size[::-1], Image.Resampling.LANCZOS)
    pixels = np.asarray(picture, dtype=np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def read_picture(
    file: str | Path | bytes, channels: int | None = None, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "channels height width"]:
    """Read a picture from a file, or from the bytes of a file, as `decode` does.

    Of an animation it is the first picture.

    Raises:
        ValueError: the file is no picture, is empty, damaged or too large, or the range of its
            values is not known. The message is the predicate of a sentence: "is no picture".
    """
    try:  # Pillow 13 does not turn a TIFF upright that it opens by its path
        content = file if isinstance(file, bytes) else Path(file).read_bytes()
    except OSError as error:
        raise ValueError(f"is no picture that can be read: {error.strerror}") from None
    if not content:
        raise ValueError("is an empty file")
    try:
        picture = Image.open(BytesIO(content))
        picture.load()
    except UnidentifiedImageError:
        raise ValueError("is no picture") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"is too large: {one_line(str(error), 120)}") from None
    except DAMAGE as error:
        raise ValueError(f"is a damaged picture: {one_line(str(error), 120)}") from None
    return decode(picture, channels, size)
