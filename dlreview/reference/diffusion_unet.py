"""diffusers' UNet2DModel."""

from typing import Any

import torch
from torch import nn

from dlreview.nn.diffusion_unet import DiffusionUNet
from dlreview.nn.hourglass import DownUp, Resample, ResidualResample, Strided
from dlreview.nn.middle import AttentionMiddle, MiddlePart, NoMiddle, PlainMiddle
from dlreview.nn.pixels import Pixels
from dlreview.nn.pyramid import Pyramid
from dlreview.nn.resnet_block import BlockOptions, count_groups
from dlreview.nn.time_embedding import (
    ClassLabel,
    FourierTime,
    Label,
    LearnedTime,
    SinusoidalTime,
    TimeLabel,
    VectorLabel,
)
from dlreview.reference.maps import Example, Map
from dlreview.reference.weights import Rule

# The name of a level of theirs says whether it attends and how it resamples. Levels that attend
# without a pyramid resample as another field says (None here).
DOWN: dict[str, tuple[bool, type[Resample] | None]] = {
    "DownBlock2D": (False, Strided),
    "ResnetDownsampleBlock2D": (False, ResidualResample),
    "AttnDownBlock2D": (True, None),
    "SkipDownBlock2D": (False, Pyramid),
    "AttnSkipDownBlock2D": (True, Pyramid),
}
UP: dict[str, tuple[bool, type[Resample] | None]] = {
    "UpBlock2D": (False, Strided),
    "ResnetUpsampleBlock2D": (False, ResidualResample),
    "AttnUpBlock2D": (True, None),
    "SkipUpBlock2D": (False, Pyramid),
    "AttnSkipUpBlock2D": (True, Pyramid),
}
TYPES: dict[str, type[Resample]] = {"conv": Strided, "resnet": ResidualResample}

BLOCK = {
    "norm_1": "norm1",
    "conv_1": "conv1",
    "embed": "time_emb_proj",
    "norm_2": "norm2",
    "conv_2": "conv2",
    "project": "conv_shortcut",
}
ATTENTION = {
    "norm": "group_norm",
    "attention.W_q": "to_q",
    "attention.W_k": "to_k",
    "attention.W_v": "to_v",
    "attention.W_o": "to_out.0",
}


def build_ours(theirs: Any) -> DiffusionUNet:
    """Read their configuration."""
    config = theirs.config
    if config.downsample_padding not in (0, 1):
        raise ValueError(f"downsample_padding must be 0 or 1, got {config.downsample_padding}")
    attention, resample = read_levels(config)
    size = config.sample_size
    return DiffusionUNet(
        image_channels=config.in_channels,
        widths=list(config.block_out_channels),
        attention=attention,
        label=read_label(config),
        blocks_per_level=config.layers_per_block,
        groups=config.norm_num_groups,
        dropout=float(config.dropout),
        time=read_time(config),
        resample=resample,
        middle=read_middle(config),
        block=BlockOptions(
            activation={"swish": "silu"}.get(config.act_fn.lower(), config.act_fn.lower()),
            eps=float(config.norm_eps),
            scale_shift=config.resnet_time_scale_shift == "scale_shift",
            head_width=config.attention_head_dim,
            embedding_width=config.time_embedding_dim,
        ),
        pixels=Pixels(
            out_channels=config.out_channels,
            center=config.center_input_sample,
            divide_by_time=config.time_embedding_type == "fourier",
        ),
        image_size=list(size) if isinstance(size, (tuple, list)) else size,
    )


def read_levels(config: Any) -> tuple[list[bool | list[bool]], Resample | list[Resample]]:
    """Read where their levels attend and how they resample, from the finest to the coarsest."""
    attention: list[bool | list[bool]] = []
    resample: list[Resample] = []
    names = zip(config.down_block_types, reversed(config.up_block_types), strict=True)
    for down_name, up_name in names:
        attends_down, down = read_level(DOWN, "down", down_name, config.downsample_type)
        attends_up, up = read_level(UP, "up", up_name, config.upsample_type)
        attention.append(attends_down if attends_down == attends_up else [attends_down, attends_up])
        part = Strided(config.downsample_padding) if down is Strided else down()
        resample.append(part if down is up else DownUp(part, up()))
    kinds = {type(part) for part in resample}
    return attention, resample[0] if len(kinds) == 1 and kinds != {DownUp} else resample


def read_level(
    names: dict[str, tuple[bool, type[Resample] | None]], way: str, name: str, default: str | None
) -> tuple[bool, type[Resample]]:
    """Read from the name of one of their levels whether it attends and how it resamples."""
    name = name.removeprefix("UNetRes")
    if name not in names:
        raise ValueError(f"{way}_block_types: {name!r} is not supported")
    attends, kind = names[name]
    if kind is None and (default or "conv") not in TYPES:
        raise ValueError(f"{way}sample_type {default!r} is not supported")
    return attends, kind or TYPES[default or "conv"]


def read_label(config: Any) -> Label | None:
    """Read their kind of label."""
    if config.class_embed_type == "timestep":
        return TimeLabel()
    if config.class_embed_type == "identity":
        return VectorLabel()
    if config.class_embed_type is not None:
        raise ValueError(f"class_embed_type {config.class_embed_type!r} is not supported")
    return None if config.num_class_embeds is None else ClassLabel(config.num_class_embeds)


def read_time(config: Any) -> nn.Module:
    """Read their features of the time."""
    width = config.block_out_channels[0]
    if config.time_embedding_type == "fourier":
        return FourierTime(2 * width)
    if config.time_embedding_type == "learned":
        return LearnedTime(width, config.num_train_timesteps)
    return SinusoidalTime(width, config.flip_sin_to_cos, config.freq_shift)


def read_middle(config: Any) -> MiddlePart:
    """Read their middle."""
    scale = float(config.mid_block_scale_factor)
    if not config.mid_block_type:
        return NoMiddle()
    if not config.add_attention:
        return PlainMiddle(scale)
    # With scale and shift the attention in their middle has a norm only if its groups are given.
    no_norm = 0 if config.resnet_time_scale_shift == "scale_shift" else None
    return AttentionMiddle(scale, config.attn_norm_num_groups or no_norm)


def build_theirs(ours: DiffusionUNet) -> nn.Module:
    """Invert `build_ours`."""
    from diffusers import UNet2DModel

    return UNet2DModel(**configure(ours))


def configure(ours: DiffusionUNet) -> dict[str, Any]:
    """Write their configuration.

    Raises:
        ValueError: They have no field for an option of ours.
    """
    block, out_channels = ours.block, ours.pixels.out_channels or ours.image_channels
    if block.activation not in ("silu", "mish", "gelu", "relu"):
        raise ValueError(f"activation {block.activation!r} is unknown")
    if ours.pixels.divide_by_time != isinstance(ours.time, FourierTime):
        raise ValueError("divide_by_time goes with FourierTime, and only with it")
    config = {
        "sample_size": ours.image_size,
        "in_channels": ours.image_channels,
        "out_channels": out_channels,
        "block_out_channels": ours.widths,
        "layers_per_block": ours.blocks_per_level,
        "attention_head_dim": block.head_width,
        "norm_num_groups": ours.groups,
        "dropout": ours.dropout,
        "resnet_time_scale_shift": "scale_shift" if block.scale_shift else "default",
        "act_fn": block.activation,
        "norm_eps": block.eps,
        "time_embedding_dim": block.embedding_width,
        "center_input_sample": ours.pixels.center,
    }
    parts = (write_levels, write_label, write_time, write_middle)
    return config | {name: value for write in parts for name, value in write(ours).items()}


def kinds_of(ours: DiffusionUNet) -> tuple[list[Resample], list[Resample]]:
    """List how levels resample on the way down, and on the way up."""
    parts = [level.resample for level in ours.levels()]
    down = [part.down if isinstance(part, DownUp) else part for part in parts]
    return down, [part.up if isinstance(part, DownUp) else part for part in parts]


def write_levels(ours: DiffusionUNet) -> dict[str, Any]:
    """Write the names of their levels."""
    down_parts, up_parts = kinds_of(ours)
    down, up = [type(part) for part in down_parts], [type(part) for part in up_parts]
    if ours.groups is None and {*down, *up} != {Pyramid}:
        raise ValueError("groups None goes with pyramids only")
    if Pyramid in down[:-1] and ours.image_channels != 3:
        raise ValueError(f"a pyramid has 3 image_channels, got {ours.image_channels}")
    out_channels = ours.pixels.out_channels or ours.image_channels
    if Pyramid in up[1:] and out_channels != 3:
        raise ValueError(f"a pyramid has 3 out_channels, got {out_channels}")
    paddings = {part.padding for part in down_parts[:-1] if isinstance(part, Strided)} or {1}
    if len(paddings) > 1:
        raise ValueError(f"resample must have one padding in all levels, got {sorted(paddings)}")
    attends_down = [level.attends_down for level in ours.levels()]
    attends_up = [level.attends_up for level in ours.levels()]
    return {
        "down_block_types": names_of(DOWN, attends_down, down),
        "up_block_types": names_of(UP, attends_up, up)[::-1],
        "downsample_type": type_of(attends_down[:-1], down[:-1], "down"),
        "upsample_type": type_of(attends_up[1:], up[1:], "up"),
        "downsample_padding": paddings.pop(),
    }


def names_of(
    names: dict[str, tuple[bool, type[Resample] | None]],
    attends: list[bool],
    kinds: list[type[Resample]],
) -> list[str]:
    """Name their levels."""
    words = {key: name for name, key in names.items()}
    return [
        words.get((at, kind)) or words[at, None] for at, kind in zip(attends, kinds, strict=True)
    ]


def type_of(attends: list[bool], kinds: list[type[Resample]], way: str) -> str:
    """Name how their levels that attend resample: all of them alike."""
    pairs = zip(attends, kinds, strict=True)
    found = {kind for at, kind in pairs if at and kind is not Pyramid} or {Strided}
    if len(found) > 1:
        raise ValueError(f"resample: levels that attend must resample alike on the way {way}")
    return {kind: word for word, kind in TYPES.items()}[found.pop()]


def write_label(ours: DiffusionUNet) -> dict[str, Any]:
    """Write their kind of label; a null class is one of their classes."""
    kinds: dict[type, str] = {TimeLabel: "timestep", VectorLabel: "identity"}
    kind = kinds.get(type(ours.label))
    rows = ours.label.rows if isinstance(ours.label, ClassLabel) else None
    return {"class_embed_type": kind, "num_class_embeds": rows}


def write_time(ours: DiffusionUNet) -> dict[str, Any]:
    """Write their features of the time."""
    config: dict[str, Any]
    time, width = ours.time, ours.widths[0]
    if isinstance(time, SinusoidalTime):
        config = {
            "time_embedding_type": "positional",
            "flip_sin_to_cos": time.cosine_first,
            "freq_shift": time.shift,
        }
    elif isinstance(time, FourierTime):
        config, width = {"time_embedding_type": "fourier"}, 2 * width
    elif isinstance(time, LearnedTime):
        config = {"time_embedding_type": "learned", "num_train_timesteps": time.steps}
    else:
        raise ValueError(f"time {type(time).__name__} is unknown")
    if time.width != width:
        raise ValueError(f"time must have width {width}, got {time.width}")
    return config


def write_middle(ours: DiffusionUNet) -> dict[str, Any]:
    """Write their middle."""
    middle = ours.middle
    if not isinstance(middle, PlainMiddle):
        return {"mid_block_type": None}
    attends = isinstance(middle, AttentionMiddle)
    config = {
        "mid_block_type": "UNetMidBlock2D",
        "mid_block_scale_factor": middle.output_scale,
        "add_attention": attends,
    }
    if not isinstance(middle, AttentionMiddle):
        return config
    groups = middle.groups
    if ours.block.scale_shift:  # then None is no norm
        groups = count_groups(ours.widths[-1], ours.groups) if groups is None else groups or None
    elif groups == 0:
        raise ValueError("middle with groups 0 goes with scale_shift only")
    return config | {"attn_norm_num_groups": groups}


def fits(ours: DiffusionUNet) -> bool:
    """Whether they have fields for all options of ours."""
    try:
        configure(ours)
    except ValueError:
        return False
    return True


def table(ours: DiffusionUNet) -> list[Rule]:
    """Pair the names of parameters."""
    time = "table.weight" if isinstance(ours.time, LearnedTime) else "frequencies"
    rules: list[Rule] = [
        (f"time.{time}", "time_proj.weight"),
        ("embedding.time.0.{leaf}", "time_embedding.linear_1.{leaf}"),
        ("embedding.time.2.{leaf}", "time_embedding.linear_2.{leaf}"),
        ("embedding.label.weight", "class_embedding.weight"),
        ("embedding.label.0.{leaf}", "class_embedding.linear_1.{leaf}"),
        ("embedding.label.2.{leaf}", "class_embedding.linear_2.{leaf}"),
        ("stem.{leaf}", "conv_in.{leaf}"),
        *inside(BLOCK, "down.{i}.blocks.{j}", "down_blocks.{i}.resnets.{j}"),
        *inside(ATTENTION, "down.{i}.attentions.{j}", "down_blocks.{i}.attentions.{j}"),
        *inside(BLOCK, "waist.blocks.{j}", "mid_block.resnets.{j}"),
        *inside(ATTENTION, "waist.attention", "mid_block.attentions.0"),
        *inside(BLOCK, "up.{i}.blocks.{j}", "up_blocks.{i}.resnets.{j}"),
        ("head.0.{leaf}", "conv_norm_out.{leaf}"),
        ("head.2.{leaf}", "conv_out.{leaf}"),
    ]
    down, up = kinds_of(ours)
    for i, part in enumerate(down):
        rules += resampling(part, f"down.{i}.resample", f"down_blocks.{i}", "down")
        rules.append((f"down.{i}.from_image.{{leaf}}", f"down_blocks.{i}.skip_conv.{{leaf}}"))
    for i, part in enumerate(reversed(up)):
        rules += resampling(part, f"up.{i}.resample", f"up_blocks.{i}", "up")
        rules.append((f"up.{i}.to_image.0.{{leaf}}", f"up_blocks.{i}.skip_norm.{{leaf}}"))
        rules.append((f"up.{i}.to_image.2.{{leaf}}", f"up_blocks.{i}.skip_conv.{{leaf}}"))
        # A pyramid attends once, after the last block.
        j, k = (ours.blocks_per_level, "0") if isinstance(part, Pyramid) else ("{j}", "{j}")
        rules += inside(ATTENTION, f"up.{i}.attentions.{j}", f"up_blocks.{i}.attentions.{k}")
    return rules


def resampling(part: Resample, ours: str, theirs: str, way: str) -> list[Rule]:
    """Pair the names of one step down or up."""
    if isinstance(part, Strided):
        return [(f"{ours}.conv.{{leaf}}", f"{theirs}.{way}samplers.0.conv.{{leaf}}")]
    theirs += f".resnet_{way}" if isinstance(part, Pyramid) else f".{way}samplers.0"
    return inside(BLOCK, ours, theirs)


def inside(names: dict[str, str], ours: str, theirs: str) -> list[Rule]:
    """Pair the names within one part."""
    return [(f"{ours}.{a}.{{leaf}}", f"{theirs}.{b}.{{leaf}}") for a, b in names.items()]


MAPS = [
    Map(
        ours="dlreview.nn.diffusion_unet.DiffusionUNet",
        theirs="diffusers.UNet2DModel",
        library="diffusers",
        build_ours=build_ours,
        build_theirs=build_theirs,
        table=table,
        fits=fits,
    )
]


def _example() -> Any:
    from diffusers import UNet2DModel

    return UNet2DModel(
        16,
        3,
        3,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64),
        norm_num_groups=8,
    )


EXAMPLES = [
    Example(
        _example,
        lambda: (torch.randn(8, 3, 16, 16, dtype=torch.float64), torch.arange(0, 800, 100)),
        call_theirs=lambda net, x, t: net(x, t).sample,
    )
]
