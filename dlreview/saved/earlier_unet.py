"""Configurations of a diffusion U-Net from before its parts were modules.

Until then `DiffusionUNet` had 24 arguments and selected its parts by strings. Saved networks keep
such arguments in their `config.json`; here they are translated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlreview.messages import check_known

# Arguments that the network no longer has, with their defaults.
EARLIER: dict[str, Any] = {
    "num_classes": None,
    "head_width": None,
    "up_attention": None,
    "downsample": "conv",
    "upsample": "conv",
    "downsample_padding": 1,
    "scale_shift": False,
    "activation": "silu",
    "eps": 1e-5,
    "middle_scale": 1.0,
    "middle_groups": None,
    "time_width": None,
    "label_kind": "index",
    "out_channels": None,
    "center": False,
    "divide_by_time": False,
}
NN = "dlreview.nn."
RESAMPLE = {
    "conv": "hourglass.Strided",
    "residual": "hourglass.ResidualResample",
    "pyramid": "pyramid.Pyramid",
}


def earlier_diffusion_unet(arguments: dict[str, Any]) -> dict[str, Any]:
    """Translate the `init_args` of an earlier configuration; return others as they are.

    Raises:
        ValueError: a word is unknown, or lists differ in length.
    """
    if not EARLIER.keys() & arguments.keys() and not isinstance(arguments.get("middle"), str):
        return arguments
    earlier = EARLIER | {"middle": "attention", "attention": []} | arguments
    parts = {
        "attention": attention_of(earlier),
        "label": label_of(earlier),
        "resample": resample_of(earlier),
        "middle": middle_of(earlier),
        "block": section(
            "resnet_block.BlockOptions",
            activation=earlier["activation"],
            eps=earlier["eps"],
            scale_shift=earlier["scale_shift"],
            head_width=earlier["head_width"],
            embedding_width=earlier["time_width"],
        ),
        "pixels": section(
            "pixels.Pixels",
            out_channels=earlier["out_channels"],
            center=earlier["center"],
            divide_by_time=earlier["divide_by_time"],
        ),
    }
    return {name: value for name, value in arguments.items() if name not in EARLIER} | parts


def section(name: str, **arguments: Any) -> dict[str, Any]:
    """Make the section of a class of `dlreview.nn`."""
    return {"class_path": NN + name, "init_args": arguments}


def attention_of(earlier: Mapping[str, Any]) -> list[Any]:
    """Join the levels that attend on the way down with those on the way up."""
    down, up = earlier["attention"], earlier["up_attention"]
    if up is None:
        return down
    check_lengths("up_attention", up, "attention", down)
    return [a if a == b else [a, b] for a, b in zip(down, up, strict=True)]


def label_of(earlier: Mapping[str, Any]) -> dict[str, Any] | None:
    """Describe the label. A null class was one of the classes, so it stays one."""
    kind, classes = earlier["label_kind"], earlier["num_classes"]
    check_known("label_kind", kind, ("index", "time", "vector"))
    if kind == "time":
        return section("time_embedding.TimeLabel")
    if kind == "vector":
        return section("time_embedding.VectorLabel")
    return None if classes is None else section("time_embedding.ClassLabel", num_classes=classes)


def resample_of(earlier: Mapping[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
    """Describe how the levels resample: in one section where all are alike."""
    down, up = earlier["downsample"], earlier["upsample"]
    levels = max(len(kinds) if isinstance(kinds, list) else 1 for kinds in (down, up))
    down = down if isinstance(down, list) else [down] * levels
    up = up if isinstance(up, list) else [up] * levels
    check_lengths("upsample", up, "downsample", down)
    parts = [resample_part(*kinds, earlier) for kinds in zip(down, up, strict=True)]
    return parts[0] if parts and all(part == parts[0] for part in parts) else parts


def resample_part(down: str, up: str, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Describe how one level halves and doubles its resolution."""
    sections = []
    for name, kind in (("downsample", down), ("upsample", up)):
        check_known(name, kind, RESAMPLE)
        options = {"padding": earlier["downsample_padding"]} if kind == "conv" else {}
        sections.append(section(RESAMPLE[kind], **options))
    if down == up:
        return sections[0]
    return section("hourglass.DownUp", down=sections[0], up=sections[1])


def middle_of(earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the layers at the lowest resolution."""
    kind, scale = earlier["middle"], earlier["middle_scale"]
    check_known("middle", kind, ("attention", "plain", "none"))
    if kind == "none":
        return section("middle.NoMiddle")
    if kind == "plain":
        return section("middle.PlainMiddle", output_scale=scale)
    groups = earlier["middle_groups"]
    return section("middle.AttentionMiddle", output_scale=scale, groups=groups)


def check_lengths(name: str, value: list[Any], other_name: str, other: list[Any]) -> None:
    """Refuse lists of which one has more levels than the other."""
    if len(value) != len(other):
        raise ValueError(f"{name} {value} must have as many levels as {other_name} {other}")
