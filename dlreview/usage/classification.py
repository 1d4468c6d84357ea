"""Name the class of images (row 29): pictures are read as the training data was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from dlreview.data import pictures
from dlreview.messages import UserError
from dlreview.plots.attention import attention
from dlreview.plots.cam import cam
from dlreview.plots.patch_pca import patches
from dlreview.running.command import Flag, one_of, whole
from dlreview.usage import EXAMPLE, image_shape

FLAGS = {
    "--top": Flag(whole(1), 5),
    "--show": Flag(one_of("cam", "attention", "patches")),
    "--layer": Flag(str),
}
WORDS, FILES = (1, 100_000), True
HELP = """
  FILE ...           pictures, in the current folder or beside the network
  --top N            the N likeliest classes of each (default 5)
  --show WHAT        draw what the network looks at, too: cam (class activation maps, Grad-CAM where
                     there are none), attention (of each head, and the rollout), patches (principal
                     components of the features as colours, common to all pictures)
  --layer NAME       of --show cam: Grad-CAM of this module, encoder.blocks.0 say"""


def tag(usage: Mapping[str, Any]) -> str:
    """Name the task as the hub does."""
    return "image-classification"


def example(data: Any, folder: Path) -> list[str] | None:
    """Write the first picture of the test split to `folder` and return its path.

    Raises:
        OSError: the disk is full or not writable.
    """
    test_set = getattr(data, "test_set", None)
    try:
        image = test_set[[0]]["image"][0] if test_set is not None else None
    except (TypeError, KeyError, IndexError):  # a user's own data may be of another form
        image = None
    if not isinstance(image, Tensor) or image.dtype != torch.uint8 or len(image) not in (1, 3):
        return None
    pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
    Image.fromarray(pixels.contiguous().numpy()).save(folder / EXAMPLE)
    return [str(folder / EXAMPLE)]


def read_picture(file: str, usage: Mapping[str, Any]) -> Float[Tensor, "1 channels height width"]:
    """Read a picture as `dlreview.data.images` reads the training data, and scale its pixels.

    Raises:
        UserError: the file is no picture, is damaged, or the range of its values is not known.
    """
    channels, height, width = image_shape(usage)
    try:
        pixels = pictures.read_picture(file, channels, (height, width))
    except ValueError as error:
        raise UserError(file, str(error)) from None
    low, high = usage["image"].get("range", (-1, 1))
    return torch.tensor(pixels)[None].float() / 255 * (high - low) + low


def show(net: Any, images: Float[Tensor, "batch channels height width"], options: Any) -> Path:
    """Draw what the network looks at and return the path of the picture.

    Raises:
        UserError: the network cannot be looked into in this way.
        OSError: the disk is full or not writable.
    """
    what, layer = options["show"], options["layer"]
    attends = hasattr(net, "attention_maps")
    if what == "attention" and not attends:
        raise UserError(
            "--show", f"{type(net).__name__} has no attention maps", "valid: cam, patches"
        )
    try:
        if what == "cam":
            picture = cam(net, images, layer=layer)
        else:
            picture = attention(net, images) if what == "attention" else patches(net, images)
    except ValueError as error:
        hint = "valid: --layer NAME" + (", or --show attention" if attends else "")
        hint = "" if layer or what != "cam" else hint
        raise UserError("--show" if layer is None else "--layer", str(error), hint) from None
    options["out"].mkdir(parents=True, exist_ok=True)
    final: Path = options["out"] / f"{what}.png"
    Image.fromarray(picture.contiguous().numpy()).save(final)
    return final


@torch.no_grad()
def sample(
    net: nn.Module, usage: Mapping[str, Any], words: list[str], options: dict[str, Any]
) -> None:
    """Print the likeliest classes of each picture with their probabilities.

    Raises:
        UserError: a file is no picture, or the network cannot be looked into as `--show` says.
    """
    if options["layer"] is not None and options["show"] != "cam":
        raise UserError("--layer", f"got {options['layer']!r}", "valid: with --show cam")
    names = [str(name) for name in usage.get("class_names") or []]
    parameter = next(net.parameters())
    images = [read_picture(file, usage) for file in words]  # all, before the first line
    picture = None
    if options["show"]:
        picture = show(net, torch.cat(images).to(parameter.device, parameter.dtype), options)
    longest = max(len(Path(file).name) for file in words)
    for file, image in zip(words, images, strict=True):
        logits = net(image.to(parameter.device, parameter.dtype))[0].float()
        share, label = logits.softmax(0).topk(min(options["top"], len(logits)))
        classes = [
            f"{names[k] if k < len(names) else k} {p:.3f}"
            for k, p in zip(label.tolist(), share.tolist(), strict=True)
        ]
        print(f"{Path(file).name:{longest}}  " + "  ".join(classes))
    if picture:
        print(f"picture: {picture}")
