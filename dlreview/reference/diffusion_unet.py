"""diffusers' UNet2DModel."""

from typing import Any

import torch
from torch import nn

from dlreview.nn.diffusion_unet import DiffusionUNet
from dlreview.nn.resnet_block import count_groups
from dlreview.nn.time_embedding import FourierTime, LearnedTime, SinusoidalTime
from dlreview.reference import Example, Map
from dlreview.reference.weights import Rule

# The name of a level of theirs tells whether it attends and how it resamples; those that both
# attend and resample plainly do the latter as another field says (None here).
DOWN = {
    "DownBlock2D": (False, "conv"),
    "ResnetDownsampleBlock2D": (False, "residual"),
    "AttnDownBlock2D": (True, None),
    "SkipDownBlock2D": (False, "pyramid"),
    "AttnSkipDownBlock2D": (True, "pyramid"),
}
UP = {
    "UpBlock2D": (False, "conv"),
    "ResnetUpsampleBlock2D": (False, "residual"),
    "AttnUpBlock2D": (True, None),
    "SkipUpBlock2D": (False, "pyramid"),
    "AttnSkipUpBlock2D": (True, "pyramid"),
}
TYPES = {"conv": "conv", "resnet": "residual"}
LABELS = {None: "index", "timestep": "time", "identity": "vector"}

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
    down = [level(DOWN, "down", name, config.downsample_type) for name in config.down_block_types]
    up = [level(UP, "up", name, config.upsample_type) for name in config.up_block_types][::-1]
    first = config.block_out_channels[0]
    time = {
        "positional": lambda: SinusoidalTime(first, config.flip_sin_to_cos, config.freq_shift),
        "fourier": lambda: FourierTime(2 * first),
        "learned": lambda: LearnedTime(first, config.num_train_timesteps),
    }[config.time_embedding_type]()
    if config.class_embed_type not in LABELS:
        raise ValueError(f"class_embed_type {config.class_embed_type!r} is not supported")
    label_kind = LABELS[config.class_embed_type]
    scale_shift = config.resnet_time_scale_shift == "scale_shift"
    middle = "attention" if config.add_attention else "plain"
    # With scale and shift the attention in their middle has no norm, unless told its groups.
    middle_groups = config.attn_norm_num_groups or (0 if scale_shift else None)
    size = config.sample_size
    return DiffusionUNet(
        image_channels=config.in_channels,
        widths=list(config.block_out_channels),
        attention=[attends for attends, _ in down],
        num_classes=config.num_class_embeds if label_kind == "index" else None,
        blocks_per_level=config.layers_per_block,
        head_width=config.attention_head_dim,
        groups=config.norm_num_groups,
        dropout=float(config.dropout),
        up_attention=[attends for attends, _ in up],
        downsample=[kind for _, kind in down],
        upsample=[kind for _, kind in up],
        downsample_padding=config.downsample_padding,
        scale_shift=scale_shift,
        activation={"swish": "silu"}.get(config.act_fn.lower(), config.act_fn.lower()),
        eps=float(config.norm_eps),
        middle=middle if config.mid_block_type else "none",
        middle_scale=float(config.mid_block_scale_factor),
        middle_groups=middle_groups,
        time=time,
        time_width=config.time_embedding_dim,
        label_kind=label_kind,
        out_channels=config.out_channels,
        center=config.center_input_sample,
        divide_by_time=config.time_embedding_type == "fourier",
        image_size=list(size) if isinstance(size, (tuple, list)) else size,
    )


def level(names: dict[str, Any], side: str, name: str, otherwise: str | None) -> tuple[bool, str]:
    """Read the name of one of their levels: does it attend, and how does it resample."""
    name = name.removeprefix("UNetRes")
    if name not in names:
        raise ValueError(f"{side}_block_types: {name!r} is not supported")
    attends, kind = names[name]
    if kind is None and (otherwise or "conv") not in TYPES:
        raise ValueError(f"{side}sample_type {otherwise!r} is not supported")
    return attends, kind or TYPES[otherwise or "conv"]


def build_theirs(ours: DiffusionUNet) -> nn.Module:
    """Invert `build_ours`."""
    from diffusers import UNet2DModel

    return UNet2DModel(**configure(ours))


def configure(ours: DiffusionUNet) -> dict[str, Any]:
    """Write their configuration.

    Raises:
        ValueError: They have no word for something of ours.
    """
    down, up = ours.per_level(ours.downsample), ours.per_level(ours.upsample)
    attend_up = ours.up_attention or ours.attention
    out_channels = ours.out_channels or ours.image_channels
    if ours.groups is None and {*down, *up} != {"pyramid"}:
        raise ValueError("groups None goes with pyramids only")
    if "pyramid" in down[:-1] and ours.image_channels != 3:
        raise ValueError(f"a pyramid has 3 image_channels, not {ours.image_channels}")
    if "pyramid" in up[1:] and out_channels != 3:
        raise ValueError(f"a pyramid has 3 out_channels, not {out_channels}")
    if ours.activation not in ("silu", "mish", "gelu", "relu"):
        raise ValueError(f"activation {ours.activation!r} is unknown")
    if ours.divide_by_time != isinstance(ours.time, FourierTime):
        raise ValueError("divide_by_time goes with FourierTime, and only with it")
    config = {
        "down_block_types": names_of(DOWN, ours.attention, down),
        "up_block_types": names_of(UP, attend_up, up)[::-1],
        "downsample_type": type_of(ours.attention[:-1], down[:-1], "downsample"),
        "upsample_type": type_of(attend_up[1:], up[1:], "upsample"),
        "mid_block_type": None if ours.middle == "none" else "UNetMidBlock2D",
        "add_attention": ours.middle == "attention",
        "attn_norm_num_groups": groups_in_middle(ours),
        "sample_size": ours.image_size,
        "in_channels": ours.image_channels,
        "out_channels": out_channels,
        "block_out_channels": ours.widths,
        "layers_per_block": ours.blocks_per_level,
        "attention_head_dim": ours.head_width,
        "norm_num_groups": ours.groups,
        "dropout": ours.dropout,
        "downsample_padding": ours.downsample_padding,
        "resnet_time_scale_shift": "scale_shift" if ours.scale_shift else "default",
        "act_fn": ours.activation,
        "norm_eps": ours.eps,
        "mid_block_scale_factor": ours.middle_scale,
        "time_embedding_dim": ours.time_width,
        "class_embed_type": {kind: name for name, kind in LABELS.items()}[ours.label_kind],
        "num_class_embeds": ours.num_classes,
        "center_input_sample": ours.center,
    }
    return config | configure_time(ours.time or SinusoidalTime(ours.widths[0]), ours.widths[0])


def names_of(names: dict[str, Any], attention: list[bool], kinds: list[str]) -> list[str]:
    """Name their levels."""
    words = {(attends, kind): name for name, (attends, kind) in names.items()}
    pairs = zip(attention, kinds, strict=True)
    return [words.get(pair) or words[pair[0], None] for pair in pairs]


def type_of(attention: list[bool], kinds: list[str], name: str) -> str:
    """Say how their levels that attend resample: all in one way."""
    pairs = zip(attention, kinds, strict=True)
    found = {kind for attends, kind in pairs if attends and kind != "pyramid"} or {"conv"}
    if len(found) > 1:
        raise ValueError(f"{name}: levels that attend must all resample alike, not {kinds}")
    return {kind: word for word, kind in TYPES.items()}[found.pop()]


def groups_in_middle(ours: DiffusionUNet) -> int | None:
    """Say the groups of the norm in their middle's attention."""
    if ours.scale_shift:  # then None is no norm
        groups = ours.middle_groups
        return count_groups(ours.widths[-1], ours.groups) if groups is None else groups or None
    if ours.middle_groups == 0 and ours.middle == "attention":
        raise ValueError("middle_groups 0 goes with scale_shift only")
    return ours.middle_groups or None


def configure_time(time: nn.Module, width: int) -> dict[str, Any]:
    """Write what they say of our features of the time."""
    config: dict[str, Any]
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
        raise ValueError(f"time has width {time.width}, not {width}")
    return config


def fits(ours: DiffusionUNet) -> bool:
    """Whether they have words for all of ours."""
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
    for i, kind in enumerate(ours.per_level(ours.downsample)):
        rules += resampling(kind, f"down.{i}.resample", f"down_blocks.{i}", "down")
        rules.append((f"down.{i}.from_image.{{leaf}}", f"down_blocks.{i}.skip_conv.{{leaf}}"))
    for i, kind in enumerate(reversed(ours.per_level(ours.upsample))):
        rules += resampling(kind, f"up.{i}.resample", f"up_blocks.{i}", "up")
        rules.append((f"up.{i}.to_image.0.{{leaf}}", f"up_blocks.{i}.skip_norm.{{leaf}}"))
        rules.append((f"up.{i}.to_image.2.{{leaf}}", f"up_blocks.{i}.skip_conv.{{leaf}}"))
        # A pyramid attends once, after the last block.
        j, k = (ours.blocks_per_level, "0") if kind == "pyramid" else ("{j}", "{j}")
        rules += inside(ATTENTION, f"up.{i}.attentions.{j}", f"up_blocks.{i}.attentions.{k}")
    return rules


def resampling(kind: str, ours: str, theirs: str, way: str) -> list[Rule]:
    """Pair the names of one step down or up."""
    if kind == "conv":
        return [(f"{ours}.conv.{{leaf}}", f"{theirs}.{way}samplers.0.conv.{{leaf}}")]
    theirs += f".resnet_{way}" if kind == "pyramid" else f".{way}samplers.0"
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
