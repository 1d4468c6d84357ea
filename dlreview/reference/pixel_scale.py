"""The mean and standard deviation that a pretrained network's pixels had, and how to keep them.

Our pixels x are in [-1, 1]. A network that was trained elsewhere read z = ((x + 1)/2 - mean) / std,
in each channel. That is z = scale x + shift, and its first layer is linear,

    E z + b = (E scale) x + (b + E shift),

so that new weights of the first layer do the same. A ResNet pads z with zeros. So it subtracts the
mean itself, and the zeros keep their meaning: E z = (E scale) (x - (2 mean - 1)).

The network is then one of [-1, 1] like all of ours: `sample`, `export` and `load` need not know
where it began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from dlreview import saved
from dlreview.nn.patch_embedding import as_pair

PREPROCESSOR = "preprocessor_config.json"  # of transformers


class PixelScale(NamedTuple):
    """Mean and standard deviation of each channel, of pixels in [0, 1]; of one for all channels."""

    mean: list[float]
    std: list[float]


def read_pixel_scale(library: str, config: Any, folder: Path) -> PixelScale | None:
    """Read how the pixels of a saved network are scaled; None where its files do not say.

    timm says it in `pretrained_cfg` (mean, std), transformers in preprocessor_config.json
    (image_mean, image_std, rescale_factor), dlreview in usage.json (image: range). Pixels of
    diffusers are in [-1, 1].

    Raises:
        ValueError: what it says is no mean and standard deviation.
    """
    if library == "timm":
        found = _from_timm(config)
    elif library == "transformers" and (folder / PREPROCESSOR).is_file():
        found = _from_transformers(saved.read_json(folder / PREPROCESSOR))
    elif library == "dlreview" and (folder / saved.USAGE).is_file():
        found = _from_usage(saved.read_json(folder / saved.USAGE))
    else:
        found = None
    if found is None:
        return None
    try:
        scale = PixelScale(*([float(x) for x in _listed(values)] for values in found))
        if not scale.mean or len(scale.mean) != len(scale.std) or min(scale.std) <= 0:
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(f"{folder}: pixels have mean {found[0]} and std {found[1]}") from None
    return scale


def _listed(values: Any) -> Sequence[Any]:
    return values if isinstance(values, list | tuple) else [values]


def _from_timm(config: Mapping[str, Any]) -> tuple[Any, Any] | None:
    settings = config.get("pretrained_cfg") or {}
    return (settings["mean"], settings["std"]) if {"mean", "std"} <= settings.keys() else None


def _from_transformers(config: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """Read an image processor: pixels 0..255 times a factor, then minus mean, divided by std."""
    mean, std = [0.0], [1.0]
    if config.get("do_normalize", True):
        if not {"image_mean", "image_std"} <= config.keys():
            return None
        mean, std = (list(_listed(config[key])) for key in ("image_mean", "image_std"))
    largest = 255 * config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 255
    return [m / largest for m in mean], [s / largest for s in std]


def _from_usage(usage: Any) -> tuple[Any, Any] | None:
    image = usage.get("image") if isinstance(usage, dict) else None
    if not isinstance(image, dict) or not isinstance(image.get("range"), list):
        return None
    low, high = image["range"]
    return -low / (high - low), 1 / (high - low)


@torch.no_grad()
def keep_pixel_scale(net: nn.Module, found: PixelScale) -> None:
    """Change the first layer so that pixels in [-1, 1] give what scaled pixels gave before.

    Raises:
        ValueError: the network has another number of channels, or its first layer cannot do it.
    """
    channels: int = getattr(net, "image_channels", 0)
    mean, std = (values * channels if len(values) == 1 else values for values in found)
    if len(mean) != channels:
        raise ValueError(f"image_channels {channels} must be the {len(mean)} of the mean {mean}")
    scale = [0.5 / s for s in std]
    shift = [(0.5 - m) / s for m, s in zip(mean, std, strict=True)]
    if all(abs(a - 1) < 1e-9 and abs(b) < 1e-9 for a, b in zip(scale, shift, strict=True)):
        return
    if hasattr(net, "rescale_pixels"):
        whole: Any = net
        return whole.rescale_pixels(scale, [2 * m - 1 for m in mean])
    patches: Any = getattr(net, "embedding", None)
    layer = getattr(patches, "E", None)
    if not isinstance(layer, nn.Linear) or (patches.remainder == "pad" and pads(net)):
        problem = f"pixels with mean {mean} and std {std} are not supported"
        raise ValueError(f"{problem}: the first layer of {type(net).__name__} cannot be changed")
    weight = rearrange(layer.weight.double(), "width (c pixels) -> width pixels c", c=channels)
    moved = (weight @ weight.new_tensor(shift)).sum(dim=1)
    scaled = weight * weight.new_tensor(scale)
    layer.weight.copy_(rearrange(scaled, "width pixels c -> width (c pixels)"))
    add_constant(net, layer, moved)
    if patches.remainder == "pad":  # zeros would have another meaning than before
        patches.remainder = "error"


def pads(net: Any) -> bool:
    """Return whether images of the network's size are padded to whole patches."""
    height, width = as_pair(net.image_size, "image_size")
    patches = net.embedding
    return bool(height % patches.patch_height or width % patches.patch_width)


def add_constant(net: Any, layer: nn.Linear, constant: Float[Tensor, " width"]) -> None:
    """Add a vector to every patch: to the layer's bias or, without one, to the positions.

    Raises:
        ValueError: there is neither.
    """
    table = getattr(getattr(net, "positions", None), "table", None)
    if layer.bias is not None:
        layer.bias.add_(constant.to(layer.bias.dtype))
    elif table is not None and net.embedding.norm is None and net.mask_embedding is None:
        table[net.positions.prefix :] += constant.to(table.dtype)
    else:
        raise ValueError(f"the first layer of {type(net).__name__} needs bias True for its pixels")
