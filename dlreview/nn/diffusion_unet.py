"""The U-Net that predicts the noise in an image x_t (rows 58, 77, 91): an hourglass with skips.

Ho et al. 2020, arXiv:2006.11239 (DDPM); with `scale_shift`, "residual" resampling and several heads
that of Dhariwal & Nichol 2021, arXiv:2105.05233 (ADM); with "pyramid" resampling and `FourierTime`
that of Song et al. 2021, arXiv:2011.13456 (NCSN++).
"""

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from dlreview.nn.activation import find_activation
from dlreview.nn.hourglass import Down, Parts, Up, Waist
from dlreview.nn.resnet_block import count_groups
from dlreview.nn.time_embedding import TimeEmbedding, sinusoidal_time


class DiffusionUNet(nn.Module):
    """Predict noise, image, velocity or score from x_t, t and perhaps a label: `net(x, t, label)`.

    Lists go from the finest level to the coarsest; each level halves the resolution of the one
    before, so that image sides are multiples of 2^(levels - 1).

    Args:
        image_channels: Channels of x_t.
        widths: Channels of the features at each level.
        attention: At which levels pixels attend to each other, on the way down.
        num_classes: Rows of the label table; None for a network without one.
        blocks_per_level: Blocks on the way down; the way up has one more.
        head_width: Width of an attention head; None for one head.
        groups: Groups of every group norm; None for a quarter of the width, at most 32.
        dropout: Share of the features that each block sets to zero in training.
        up_attention: As `attention`, on the way up; None for the same.
        downsample: How to halve, for all levels or each: "conv", "residual" (in a block that
            averages) or "pyramid" (in a block that smooths; the image, made smaller, is added).
        upsample: How to double, likewise; a "pyramid" adds up the prediction from small to large.
        downsample_padding: 1, or 0 for zeros on the far sides only ("conv").
        scale_shift: Let the embedding scale and shift after a norm, rather than add before it.
        activation: One of `nn.activation`.
        eps: Added to the variances by the norms.
        middle: What stands at the narrowest place: "attention", "plain" or "none".
        middle_scale: Divisor of each sum in the middle.
        middle_groups: Groups of the norm in the middle's attention; None as `groups`, 0 no norm.
        time: Features of t, of `nn.time_embedding`; None for `SinusoidalTime`.
        time_width: Width of the embedding; None for four times the first of `widths`.
        label_kind: What a label is: "index" of a row, a "time", or a "vector" of `time_width`.
        out_channels: Channels of the prediction; None for as many as the image has.
        center: Take images in [0, 1] to [-1, 1] first.
        divide_by_time: Divide the prediction by t, a noise level, which makes it a score.
        image_size: Side, or height and width, of the images, for samplers; any will do here.

    Raises:
        ValueError: A size is not positive, lists differ in length, widths do not go with `groups`
            or `head_width`, a word is unknown, or a pyramid has a gap.
    """

    def __init__(
        self,
        image_channels: int,
        widths: list[int],
        attention: list[bool],
        num_classes: int | None = None,
        blocks_per_level: int = 2,
        head_width: int | None = None,
        groups: int | None = 32,
        dropout: float = 0.0,
        up_attention: list[bool] | None = None,
        downsample: str | list[str] = "conv",
        upsample: str | list[str] = "conv",
        downsample_padding: int = 1,
        scale_shift: bool = False,
        activation: str = "silu",
        eps: float = 1e-5,
        middle: str = "attention",
        middle_scale: float = 1.0,
        middle_groups: int | None = None,
        time: nn.Module | None = None,
        time_width: int | None = None,
        label_kind: str = "index",
        out_channels: int | None = None,
        center: bool = False,
        divide_by_time: bool = False,
        image_size: int | list[int] | None = None,
    ) -> None:
        super().__init__()
        self.image_channels, self.out_channels = image_channels, out_channels
        self.image_size, self.center, self.divide_by_time = image_size, center, divide_by_time
        self.widths, self.blocks_per_level, self.groups = widths, blocks_per_level, groups
        self.attention, self.up_attention, self.head_width = attention, up_attention, head_width
        self.downsample, self.upsample = downsample, upsample
        self.downsample_padding, self.dropout = downsample_padding, dropout
        self.scale_shift, self.activation, self.eps = scale_shift, activation, eps
        self.middle, self.middle_scale, self.middle_groups = middle, middle_scale, middle_groups
        self.time, self.time_width = time, time_width
        self.num_classes, self.label_kind = num_classes, label_kind
        check_arguments(self)

        width = time_width or 4 * widths[0]
        features = getattr(time, "width", widths[0])
        self.embedding = TimeEmbedding(features, width, num_classes, label_kind)
        self.act = find_activation(activation)
        parts = Parts(
            embedding_width=width,
            groups=groups,
            head_width=head_width,
            eps=eps,
            activation=activation,
            dropout=dropout,
            scale_shift=scale_shift,
            padding=downsample_padding,
        )
        last, pixels, skips = len(widths) - 1, out_channels or image_channels, [widths[0]]
        self.stem = nn.Conv2d(image_channels, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, kind in enumerate(self.per_level(downsample)):
            at = attention[i]
            self.down.append(
                Down(parts, widths[i], blocks_per_level, at, kind, i == last, image_channels, skips)
            )
        self.waist: nn.Module | None = None
        if middle != "none":
            at = middle == "attention"
            self.waist = Waist(parts, widths[-1], at, middle_groups, middle_scale)
        for i, kind in reversed(list(enumerate(self.per_level(upsample)))):
            at, below = (up_attention or attention)[i], widths[min(i + 1, last)]
            self.up.append(
                Up(parts, below, widths[i], blocks_per_level + 1, at, kind, i == 0, pixels, skips)
            )
        self.head = parts.to_image(widths[0], pixels, groups)
        # With channels last, convolutions, norms and attention need not copy what they read.
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        x: Float[Tensor, "batch {self.image_channels} height columns"],
        t: int | float | Num[Tensor, ""] | Num[Tensor, "#batch"],
        label: Num[Tensor, "#batch"] | Float[Tensor, "#batch embedding"] | None = None,
    ) -> Float[Tensor, "batch pixels height columns"]:
        """Predict; `t` is a timestep 0 ... T-1, or a noise level, for all images or for each.

        Raises:
            ValueError: A side of the images cannot be halved often enough, or there is a label and
                the network takes none, or the other way round.
        """
        factor = 2 ** (len(self.widths) - 1)
        if x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(f"image sides {tuple(x.shape[2:])} are not multiples of {factor}")
        t = t.to(x.device) if isinstance(t, Tensor) else torch.full((), t, device=x.device)
        t = t.reshape(-1)
        t = t[:1] if t.stride() == (0,) else t  # expanded, as samplers do: embed it once
        label = self.features(label) if label is not None and self.label_kind == "time" else label
        embedding = self.act(self.embedding(self.features(t), label))

        image = 2 * x - 1 if self.center else x
        h = self.stem(image).contiguous(memory_format=torch.channels_last)
        skips, output = [h], None
        for down in self.down:
            h, image = down(h, embedding, skips, image)
        if self.waist is not None:
            h = self.waist(h, embedding)
        for up in self.up:
            h, output = up(h, embedding, skips, output)
        prediction = self.head(h) if output is None else self.head(h) + output
        if self.divide_by_time:
            prediction = prediction / t[:, None, None, None]
        return prediction.contiguous()

    def features(self, t: Num[Tensor, "#batch"]) -> Float[Tensor, "#batch features"]:
        """Code times for the embedding."""
        features = sinusoidal_time(t, self.widths[0]) if self.time is None else self.time(t)
        return features.to(self.stem.weight.dtype)

    def per_level(self, kind: str | list[str]) -> list[str]:
        """Say how each level resamples."""
        return [kind] * len(self.widths) if isinstance(kind, str) else kind


def check_arguments(net: DiffusionUNet) -> None:
    """Refuse arguments that do not go together; see `DiffusionUNet`."""
    if not net.widths:
        raise ValueError("widths must name one level at least, not []")
    sizes: dict[str, int | None] = {f"widths[{i}]": width for i, width in enumerate(net.widths)}
    sizes["image_size"] = (
        min(net.image_size) if isinstance(net.image_size, list) else net.image_size
    )
    for name in ("image_channels", "out_channels", "blocks_per_level", "head_width", "groups"):
        sizes[name] = getattr(net, name)
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name} must be positive, not {size}")
    for name in ("attention", "up_attention", "downsample", "upsample"):
        value = getattr(net, name)
        if isinstance(value, list) and len(value) != len(net.widths):
            raise ValueError(f"{name} {value} must have one entry for each of widths {net.widths}")
    words = {
        "middle": ([net.middle], ("attention", "plain", "none")),
        "downsample": (net.per_level(net.downsample), ("conv", "residual", "pyramid")),
        "upsample": (net.per_level(net.upsample), ("conv", "residual", "pyramid")),
    }
    for name, (given, known) in words.items():
        for word in given:
            if word not in known:
                raise ValueError(f"{name} must be one of {known}, not {word!r}")
    find_activation(net.activation)
    if not 0 <= net.dropout <= 1:
        raise ValueError(f"dropout must be in [0, 1], not {net.dropout}")
    if net.downsample_padding not in (0, 1):
        raise ValueError(f"downsample_padding must be 0 or 1, not {net.downsample_padding}")
    if net.eps < 0:
        raise ValueError(f"eps must not be negative, not {net.eps}")
    if net.middle_scale == 0:
        raise ValueError("middle_scale must not be 0")
    for width, *at in zip(
        net.widths, net.attention, net.up_attention or net.attention, strict=True
    ):
        count_groups(width, net.groups)
        if any(at) and width < (net.head_width or 1):
            raise ValueError(f"head_width {net.head_width} is larger than width {width}")
    if net.middle_groups:
        count_groups(net.widths[-1], net.middle_groups)
    # The image gets smaller with the features only where all finer levels have done the same.
    down = [kind == "pyramid" for kind in net.per_level(net.downsample)[:-1]]
    up = [kind == "pyramid" for kind in net.per_level(net.upsample)]
    for name, levels in (("downsample", down), ("upsample", up)):
        if levels != sorted(levels, reverse=True):
            raise ValueError(f"{name} {getattr(net, name)} has a pyramid below a level without one")
