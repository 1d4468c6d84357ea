"""The U-Net that predicts the noise in an image x_t (rows 58, 77, 91): an hourglass with skips.

Ho et al. 2020, arXiv:2006.11239 (DDPM). Other papers exchange parts: Dhariwal & Nichol 2021,
arXiv:2105.05233 (ADM) have `ResidualResample` and `BlockOptions(scale_shift=True)`; Song et al.
2021, arXiv:2011.13456 (NCSN++) have `Pyramid` and `FourierTime`.
"""

from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from dlreview.messages import check_at_least, check_share
from dlreview.nn.activation import find_activation
from dlreview.nn.hourglass import Layers, Resample, Strided
from dlreview.nn.inputs import check_images, check_rows
from dlreview.nn.middle import AttentionMiddle, MiddlePart
from dlreview.nn.pixels import Pixels
from dlreview.nn.pyramid import PyramidDown, PyramidUp
from dlreview.nn.resnet_block import BlockOptions, count_groups
from dlreview.nn.time_embedding import Label, SinusoidalTime, TimeEmbedding


class Level(NamedTuple):
    """What differs between the levels of a network."""

    width: int
    resample: Resample
    attends_down: bool
    attends_up: bool


class DiffusionUNet(nn.Module):
    """Predict noise, image, velocity or score from x_t, t and perhaps a label: `net(x, t, label)`.

    Lists go from the finest level to the coarsest. Each level has half the resolution of the one
    before, so image sides must be multiples of 2^(levels - 1).

    Args:
        image_channels: Channels of x_t.
        widths: Channels of the features at each level.
        attention: Whether pixels attend to each other, for each level: both ways, or [down, up].
        label: The kind of label; None for a network without labels.
        blocks_per_level: Blocks on the way down; the way up has one more.
        groups: Groups of every group norm; None for a quarter of the width, at most 32.
        dropout: Share of the features that each block sets to zero in training.
        time: Features of t; None for `SinusoidalTime`.
        resample: How levels halve and double the resolution, all alike or one for each level; None
            for `Strided`.
        middle: Layers at the lowest resolution; None for `AttentionMiddle`.
        block: Options of all blocks; None for the defaults.
        pixels: How images enter and leave; None for as they are.
        image_size: Side, or height and width, of the images that samplers draw; the network itself
            takes any size.

    Raises:
        ValueError: A size is below 1, lists differ in length, a width is not divisible by `groups`
            or smaller than the attention heads, or a level with a pyramid is below one without.
    """

    def __init__(  # sizes first; then one argument for each part that papers exchange
        self,
        image_channels: int,
        widths: list[int],
        attention: list[bool | list[bool]],
        label: Label | None = None,
        blocks_per_level: int = 2,
        groups: int | None = 32,
        dropout: float = 0.0,
        time: nn.Module | None = None,
        resample: Resample | list[Resample] | None = None,
        middle: MiddlePart | None = None,
        block: BlockOptions | None = None,
        pixels: Pixels | None = None,
        image_size: int | list[int] | None = None,
    ) -> None:
        super().__init__()
        self.image_channels, self.image_size = image_channels, image_size
        self.widths, self.attention, self.blocks_per_level = widths, attention, blocks_per_level
        self.groups, self.dropout, self.label = groups, dropout, label
        self.resample = Strided() if resample is None else resample
        self.middle, self.block = middle or AttentionMiddle(), block or BlockOptions()
        self.pixels = pixels or Pixels()
        check_arguments(self)
        self.time = time or SinusoidalTime(widths[0])
        layers = self.shared_layers()
        time_width = cast(int, self.time.width)
        self.embedding = TimeEmbedding(time_width, layers.embedding_width, label)
        self.act = find_activation(self.block.activation)
        self.stem = nn.Conv2d(image_channels, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips = self.make_way_down(layers)
        self.waist = self.middle.make(layers, widths[-1])
        self.make_way_up(layers, skips)
        self.head = layers.to_image(widths[0])
        # With channels last, convolutions, norms and attention need not copy their inputs.
        self.to(memory_format=torch.channels_last)

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None for a network without class labels."""
        return getattr(self.label, "num_classes", None)

    @property
    def null_class(self) -> int | None:
        """Number of the class that stands for no condition; None for a network without it."""
        return self.num_classes if getattr(self.label, "null_class", False) else None

    def shared_layers(self) -> Layers:
        """Collect the options that all layers share."""
        return Layers(
            image_channels=self.image_channels,
            out_channels=self.pixels.out_channels or self.image_channels,
            blocks_per_level=self.blocks_per_level,
            groups=self.groups,
            attention_groups=self.groups,
            dropout=self.dropout,
            embedding_width=self.block.embedding_width or 4 * self.widths[0],
            options=self.block,
        )

    def levels(self) -> list[Level]:
        """List the levels from the finest to the coarsest."""
        resample = self.resample
        parts = resample if isinstance(resample, list) else [resample] * len(self.widths)
        attends = [at if isinstance(at, list) else [at, at] for at in self.attention]
        levels = zip(self.widths, parts, attends, strict=True)
        return [Level(width, part, down, up) for width, part, (down, up) in levels]

    def make_way_down(self, layers: Layers) -> list[int]:
        """Make the levels of the way down; return the widths of all skips."""
        skips = [self.widths[0]]
        for i, level in enumerate(self.levels(), start=1):
            last, width = i == len(self.widths), level.width
            down = level.resample.make_down(layers, skips[-1], width, level.attends_down, last)
            self.down.append(down)
            skips += [width] * (self.blocks_per_level + (not last))
        return skips

    def make_way_up(self, layers: Layers, skips: list[int]) -> None:
        """Make the levels of the way up, which read the skips, the newest first."""
        width_in = self.widths[-1]
        for i, level in enumerate(reversed(self.levels()), start=1):
            last, width = i == len(self.widths), level.width
            read = [skips.pop() for _ in range(self.blocks_per_level + 1)]
            up = level.resample.make_up(layers, width_in, width, read, level.attends_up, last)
            self.up.append(up)
            width_in = width
        check_pyramids(self)

    def forward(
        self,
        x: Float[Tensor, "batch channels height columns"],
        t: int | float | Num[Tensor, ""] | Num[Tensor, "#batch"],
        label: Num[Tensor, "#batch"] | Float[Tensor, "#batch embedding"] | None = None,
    ) -> Float[Tensor, "batch pixels height columns"]:
        """Predict; `t` is a timestep 0 ... T-1, or a noise level, one for all images or for each.

        Raises:
            ValueError: The images have other channels, or a side that cannot be halved often
                enough; there is a label and the network takes none, or the other way round; times
                or labels are more or fewer than the images.
        """
        check_images(x, self.image_channels)
        factor = 2 ** (len(self.widths) - 1)
        if x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(f"image sides {tuple(x.shape[2:])} must be divisible by {factor}")
        t = t.to(x.device) if isinstance(t, Tensor) else torch.full((), t, device=x.device)
        t = t.reshape(-1)
        check_rows("t", t, len(x))
        t = t[:1] if t.stride() == (0,) else t  # one t, expanded by a sampler: embed it once
        if label is not None and self.label is not None:
            check_rows("label", label, len(x))
            label = self.label.read(label, self.features)
        embedding = self.act(self.embedding(self.features(t), label))

        image = self.pixels.enter(x)
        h = self.stem(image).contiguous(memory_format=torch.channels_last)
        skips, output = [h], None
        for down in self.down:
            h, image = down(h, embedding, skips, image)
        if self.waist is not None:
            h = self.waist(h, embedding)
        for up in self.up:
            h, output = up(h, embedding, skips, output)
        prediction = self.head(h) if output is None else self.head(h) + output
        return self.pixels.leave(prediction, t).contiguous()

    def features(self, t: Num[Tensor, "#batch"]) -> Float[Tensor, "#batch features"]:
        """Code times for the embedding."""
        return self.time(t).to(self.stem.weight.dtype)


def check_arguments(net: DiffusionUNet) -> None:
    """Refuse sizes that are too small or do not fit together; see `DiffusionUNet`."""
    if not net.widths:
        raise ValueError("widths must have at least 1 level, got []")
    size = net.image_size
    check_at_least(
        1,
        image_channels=net.image_channels,
        blocks_per_level=net.blocks_per_level,
        groups=net.groups,
        image_size=min(size, default=0) if isinstance(size, list) else size,
        **{f"widths[{i}]": width for i, width in enumerate(net.widths)},
    )
    check_share(dropout=net.dropout)
    for name in ("attention", "resample"):
        value = getattr(net, name)
        if isinstance(value, list) and len(value) != len(net.widths):
            raise ValueError(
                f"{name} must have {len(net.widths)} levels as widths, got {len(value)}"
            )
    for entry in net.attention:
        if isinstance(entry, list) and len(entry) != 2:
            raise ValueError(f"attention of a level must be a bool or [down, up], got {entry}")
    for width in net.widths:
        count_groups(width, net.groups)


def check_pyramids(net: DiffusionUNet) -> None:
    """Refuse a pyramid below a level without one: the image would keep its size at that level."""
    down = [isinstance(level, PyramidDown) for level in net.down[:-1]]
    up = [isinstance(level, PyramidUp) for level in reversed(net.up)]
    for way, pyramids in (("down", down), ("up", up)):
        if pyramids != sorted(pyramids, reverse=True):
            raise ValueError(f"resample has a pyramid below a level without one, on the way {way}")
