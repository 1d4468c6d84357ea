"""Name the class of images (row 29): pictures are read as the training data was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dlreview.messages import UserError, one_line
from dlreview.running.command import Flag, whole
from dlreview.usage import image_shape

FLAGS = {"--top": Flag(whole(1), 5)}
WORDS = (1, 100_000)
HELP = """
  FILE ...           pictures
  --top N            the N likeliest classes of each (default 5)"""


def tag(usage: Mapping[str, Any]) -> str:
    """Name the task as the hub does."""
    return "image-classification"


def read_picture(file: str, usage: Mapping[str, Any]) -> Float[Tensor, "1 channels height width"]:
    """Read a picture as the training data was: resized, scaled to the range of pixels.

    Raises:
        UserError: the file is no picture.
    """
    from PIL import Image

    channels, height, width = image_shape(usage)
    try:
        with Image.open(file) as opened:
            picture = opened.convert("L" if channels == 1 else "RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(file, f"is no picture: {one_line(str(error), 120)}") from None
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    low, high = usage["image"].get("range", (-1, 1))
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    pixels = pixels.view(1, height, width, channels).permute(0, 3, 1, 2).float()
    return pixels / 255 * (high - low) + low


@torch.no_grad()
def sample(
    net: nn.Module, usage: Mapping[str, Any], files: list[str], options: dict[str, Any]
) -> None:
    """Print the likeliest classes of each picture with their probabilities.

    Raises:
        UserError: a file is no picture.
    """
    names = [str(name) for name in usage.get("class_names") or []]
    parameter = next(net.parameters())
    pictures = [read_picture(file, usage) for file in files]  # all, before the first line
    longest = max(len(Path(file).name) for file in files)
    for file, picture in zip(files, pictures, strict=True):
        logits = net(picture.to(parameter.device, parameter.dtype))[0].float()
        share, label = logits.softmax(0).topk(min(options["top"], len(logits)))
        told = [
            f"{names[k] if k < len(names) else k} {p:.3f}"
            for k, p in zip(label.tolist(), share.tolist(), strict=True)
        ]
        print(f"{Path(file).name:{longest}}  " + "  ".join(told))
