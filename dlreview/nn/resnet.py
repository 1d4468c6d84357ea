"""ResNet (He et al. 2015, arXiv:1512.03385), table 1: stages of residual blocks (rows 29 and 41).

Each stage after the first has half the resolution of the one before. A recipe composes the
variants of parts: `dlreview.nn.stem`, the blocks of `dlreview.nn.residual`, the norms of
`dlreview.nn.conv_layer`. With `Bottleneck(groups=32, group_width=4)` it is ResNeXt; with
`DeepStem` and `AverageProjection` it is ResNet-D; with `SqueezeExcite` it is SE-ResNet.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from dlreview.messages import check_at_least, check_share
from dlreview.nn.conv_layer import BatchNormOptions, GroupNormOptions, Layers
from dlreview.nn.inputs import check_images
from dlreview.nn.pooling import Mean, MeanAndMax
from dlreview.nn.residual import BasicBlock, Place
from dlreview.nn.stem import ImageNetStem, Stem

Images = Float[Tensor, "batch {self.image_channels} height width"]
Features = Float[Tensor, "batch _ rows columns"]


class ResNet(nn.Module):
    """Classify images of any size; pixels in any affine scale.

    Without `num_classes` (None or 0) the network returns the pooled feature.

    Args:
        widths: Width of each stage; `block.expansion` times as many channels leave it.
        depths: Number of blocks of each stage.
        num_classes: Number of classes.
        image_channels: Channels of an image.
        block: Options of all blocks, or a list with those of each stage; None for `BasicBlock`.
        stem: Options of the first convolutions; None for those of ImageNet.
        norm: Options of all norms; None for batch norms.
        activation: One of `nn.activation`.
        pooling: Makes one feature vector of the last feature map; None for the mean.
        dilated_stages: So many of the last stages keep the resolution and dilate their kernels.
        drop_path: Rate at which the last branch is dropped in training; it grows from 0 evenly.
        head_dropout: Share of the features that is dropped in training before the head.
        pixel_mean: Mean of the pixels of each channel, which is subtracted first (section 3.4): the
            zeros around an image then have its mean colour. None subtracts nothing.

    Raises:
        ValueError: A number is below 1, a list has another length than `widths`, a rate is not in
            [0, 1), the activation is unknown, or groups do not divide a width.
    """

    pixel_offset: Tensor | None

    def __init__(  # 13 arguments: sizes, and each part in which timm's ResNets vary
        self,
        widths: list[int],
        depths: list[int],
        num_classes: int | None = None,
        image_channels: int = 3,
        block: BasicBlock | list[BasicBlock] | None = None,
        stem: Stem | None = None,
        norm: BatchNormOptions | GroupNormOptions | None = None,
        activation: str = "relu",
        pooling: Mean | MeanAndMax | None = None,
        dilated_stages: int = 0,
        drop_path: float = 0.0,
        head_dropout: float = 0.0,
        pixel_mean: list[float] | None = None,
    ) -> None:
        super().__init__()
        self.widths, self.depths = widths, depths
        self.num_classes, self.image_channels = num_classes, image_channels
        self.block = nn.ModuleList(block) if isinstance(block, list) else block or BasicBlock()
        self.stem, self.norm = stem or ImageNetStem(), norm or BatchNormOptions()
        self.activation, self.dilated_stages = activation, dilated_stages
        self.drop_path, self.head_dropout = drop_path, head_dropout
        self.pixel_mean = pixel_mean
        self.check_arguments()
        offset = None if pixel_mean is None else torch.tensor(pixel_mean)[:, None, None]
        self.register_buffer("pixel_offset", offset, persistent=False)
        layers = Layers(self.norm, activation)
        self.stem_layers = self.stem.make(layers, image_channels)
        self.stages = self.make_stages(layers)
        self.pooling = pooling or Mean()
        features = getattr(self.pooling, "output_width", self.feature_widths[-1])
        self.head = nn.Linear(features, num_classes) if num_classes else nn.Identity()
        self.initialise()

    def check_arguments(self) -> None:
        """Refuse sizes and rates outside their ranges, and lists of different lengths."""
        count = len(self.widths)
        check_at_least(1, widths=min(self.widths, default=0), depths=min(self.depths, default=0))
        check_at_least(1, image_channels=self.image_channels)
        check_at_least(0, num_classes=self.num_classes, dilated_stages=self.dilated_stages)
        check_share(drop_path=self.drop_path, head_dropout=self.head_dropout)
        for name, given in (("depths", self.depths), ("block", self.blocks)):
            if len(given) != count:
                raise ValueError(
                    f"{name} must have {count} entries, one for each of widths, got {len(given)}"
                )
        if self.pixel_mean is not None and len(self.pixel_mean) != self.image_channels:
            raise ValueError(
                f"pixel_mean must be {self.image_channels} numbers, one for each of "
                f"image_channels, got {self.pixel_mean}"
            )
        if self.dilated_stages >= count:
            raise ValueError(f"dilated_stages must be below {count}, got {self.dilated_stages}")

    @property
    def blocks(self) -> list[BasicBlock]:
        """The options of the blocks of each stage."""
        several = isinstance(self.block, nn.ModuleList)
        return list(self.block) if several else [self.block] * len(self.widths)  # type: ignore

    @property
    def feature_widths(self) -> list[int]:
        """The number of channels after each stage."""
        return [w * block.expansion for w, block in zip(self.widths, self.blocks, strict=True)]

    def make_stages(self, layers: Layers) -> nn.ModuleList:
        """Make the blocks; the first block of a stage changes width and resolution."""
        count = sum(self.depths)
        rates = iter(torch.linspace(0, self.drop_path, count, dtype=torch.float64, device="cpu"))
        stages, width_in, dilation = nn.ModuleList(), self.stem.widths[-1], 1
        for number, width_out in enumerate(self.feature_widths):
            stride, before = 1 if number == 0 else 2, dilation
            if number >= len(self.widths) - self.dilated_stages:
                stride, dilation = 1, 2 * dilation
            stage = nn.Sequential()
            for _ in range(self.depths[number]):
                place = Place(width_in, self.widths[number], width_out, stride, before, dilation)
                stage.append(self.blocks[number].make(layers, place, float(next(rates))))
                width_in, stride, before = width_out, 1, dilation
            stages.append(stage)
        return stages

    def initialise(self) -> None:
        """Draw the convolutions' weights as in He et al. 2015, arXiv:1502.01852; order the memory.

        Convolutions are fastest with the channels of a pixel next to each other in memory.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def rescale_pixels(self, scale: list[float], mean: list[float]) -> None:
        """Let images x give what scale (x - mean) gave before, each channel with its numbers."""
        old = self.pixel_mean or [0.0] * self.image_channels
        moved = [m + o / s for m, o, s in zip(mean, old, scale, strict=True)]
        weight = next(self.stem_layers.parameters())
        weight.mul_(torch.tensor(scale, dtype=torch.float64, device=weight.device)[:, None, None])
        self.pixel_mean = moved if any(moved) else None
        self.pixel_offset = weight.new_tensor(moved)[:, None, None] if any(moved) else None

    def feature_maps(self, images: Images) -> list[Features]:
        """Return the feature map after each stage."""
        check_images(images, self.image_channels)
        if self.pixel_offset is not None:
            images = images - self.pixel_offset
        x = self.stem_layers(images.contiguous(memory_format=torch.channels_last))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def feature_map(self, images: Images) -> Features:
        """Return the feature map after the last stage."""
        return self.feature_maps(images)[-1]

    def features(self, images: Images) -> Float[Tensor, "batch _"]:
        """Return the pooled feature, which is the input of the head."""
        return self.pooling(rearrange(self.feature_map(images), "b c h w -> b (h w) c"), prefix=0)

    def forward(self, images: Images) -> Float[Tensor, "batch _"]:
        """Return the logits, without `num_classes` the features."""
        x = self.features(images)
        return self.head(F.dropout(x, self.head_dropout, self.training) if self.head_dropout else x)
