"""Swin Transformer (Liu et al. 2021, arXiv:2103.14030), row 38: "Swin" is "shifted windows".

Tokens attend within windows, which every second block shifts, and between stages groups of 2 x 2
tokens are merged, so that the maps get smaller and wider as in a convolutional network.
"""

import copy
from collections.abc import Iterator
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dlreview.messages import check_at_least, check_share
from dlreview.nn.attention import MultiHeadAttention
from dlreview.nn.feed_forward import FeedForward
from dlreview.nn.inputs import check_images
from dlreview.nn.norm import LayerNorm, RMSNorm
from dlreview.nn.patch_embedding import PatchEmbedding, as_pair
from dlreview.nn.pooling import Mean
from dlreview.nn.swin_block import Norm, PatchMerging, SwinBlock, window_sizes
from dlreview.nn.windows import TokenMap, Windows

Images = Float[Tensor, "batch channels height pixels"]
Value = TypeVar("Value")


def _of_stage(value: Value | list[Value], stage: int) -> Value:
    """Return the value of a stage: `value` is one for all stages, or a list."""
    return value[stage] if isinstance(value, list) else value


class Swin(nn.Module):
    """Classify images; pixels in any affine scale, sizes in pixels: one number or (height, width).

    Stage i has `depths[i]` blocks of width 2^i `width` with `heads[i]` heads. `window_size` is one
    number, (height, width), or a list with one of these for each stage. `image_size` is the size to
    train on: a window becomes as small as the map that it would cover, unless `always_partition`.
    Calls may have other sizes, since maps are padded to whole windows; `resized` makes a network
    with larger or smaller windows. `head_width` is by default the width / heads, `hidden_ratio` the
    hidden width of the feed-forward networks / width; a list has one for each stage. Without
    `num_classes` (None or 0) the network returns the pooled feature. `norm` is a template, which is
    copied to every width. `dropout` drops features of the branches, `attention_dropout` weights,
    `head_dropout` pooled features. `drop_path` is the rate of the last block, and rates grow
    linearly from 0 at the first; a list has one rate per block.

    Raises:
        ValueError: A size is below 1, a rate is not in [0, 1), a list has not one number for each
            stage or block, or the width of a stage is not divisible by its heads.
    """

    features_last = True  # of a feature map, as in timm's

    def __init__(  # 20 arguments: sizes, and each part in which timm's Swin varies
        self,
        image_size: int | list[int],
        patch_size: int | list[int],
        width: int,
        depths: list[int],
        heads: list[int],
        window_size: int | list[int] | list[list[int]] = 7,
        num_classes: int | None = None,
        image_channels: int = 3,
        head_width: int | list[int] | None = None,
        hidden_ratio: float | list[float] = 4.0,
        bias: bool = True,
        activation: str = "gelu",
        always_partition: bool = False,
        embedding: PatchEmbedding | None = None,
        norm: LayerNorm | RMSNorm | None = None,
        pooling: nn.Module | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float | list[float] = 0.0,
        head_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.image_size, self.patch_size = image_size, patch_size
        self.width, self.depths, self.heads = width, depths, heads
        self.window_size, self.always_partition = window_size, always_partition
        self.num_classes, self.image_channels = num_classes, image_channels
        self.head_width, self.hidden_ratio = head_width, hidden_ratio
        self.bias, self.activation = bias, activation
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self.drop_path, self.head_dropout = drop_path, head_dropout
        self.__dict__["norm"] = norm  # a template, not a submodule: its weights are not trained
        self.check_arguments()
        template = norm or LayerNorm(width, eps=1e-5)
        self.embedding = embedding or PatchEmbedding(
            patch_size, width, image_channels, remainder="pad", norm=template.of_width(width)
        )
        self.stages = self.make_stages(template)
        self.output_width = width * 2 ** (len(depths) - 1)
        self.output_norm = template.of_width(self.output_width)
        self.pooling = pooling or Mean()
        self.head = nn.Linear(self.output_width, num_classes) if num_classes else nn.Identity()
        self.initialise()

    def check_arguments(self) -> None:
        """Refuse sizes, rates and lengths outside their ranges."""
        check_at_least(1, width=self.width, image_channels=self.image_channels)
        check_at_least(0, num_classes=self.num_classes)
        check_share(dropout=self.dropout, attention_dropout=self.attention_dropout)
        check_share(head_dropout=self.head_dropout)
        if not self.depths:
            raise ValueError("depths must have at least 1 stage, got []")
        check_at_least(1, depths=min(self.depths))
        for name in ("heads", "head_width", "hidden_ratio"):
            values = getattr(self, name)
            if isinstance(values, list) and len(values) != len(self.depths):
                raise ValueError(
                    f"{name} must have one number for each of {len(self.depths)} stages, "
                    f"got {values}"
                )

    def rates(self) -> list[float]:
        """Return the drop-path rate of every block.

        Raises:
            ValueError: `drop_path` is a list of another length, or a rate is not in [0, 1).
        """
        blocks = sum(self.depths)
        if not isinstance(self.drop_path, list):
            check_share(drop_path=self.drop_path)
            return torch.linspace(
                0, self.drop_path, blocks, dtype=torch.float64, device="cpu"
            ).tolist()
        if len(self.drop_path) != blocks:
            raise ValueError(
                f"drop_path must have one rate for each of {blocks} blocks, got {self.drop_path}"
            )
        for rate in self.drop_path:
            check_share(drop_path=rate)
        return self.drop_path

    def grids(self) -> list[tuple[int, int]]:
        """Return the numbers of token rows and columns in every stage, for the training size.

        Raises:
            ValueError: the image is smaller than a patch.
        """
        grid = self.embedding.grid(*as_pair(self.image_size, "image_size"))
        if min(grid) < 1:
            raise ValueError(
                f"image_size {self.image_size} must be at least patch_size {self.patch_size}"
            )
        grids = [grid]
        for _ in self.depths[1:]:
            grids.append(((grids[-1][0] + 1) // 2, (grids[-1][1] + 1) // 2))
        return grids

    def places(self) -> Iterator[tuple[int, Windows, tuple[int, int]]]:
        """Yield the stage of every block, its windows and the size of its map."""
        sizes = window_sizes(self.window_size, len(self.depths))
        for stage, (size, grid) in enumerate(zip(sizes, self.grids(), strict=True)):
            for block in range(self.depths[stage]):
                # Every second block shifts its windows by half their size.
                windows = Windows(size, (size[0] // 2, size[1] // 2) if block % 2 else (0, 0))
                yield stage, windows if self.always_partition else windows.fit(grid), grid

    def make_stages(self, norm: Norm) -> nn.ModuleList:
        """Create the stages; all but the first begin with patch merging."""
        stages = [nn.Sequential() for _ in self.depths]
        for i, stage in enumerate(stages[1:]):
            stage.add_module("merging", PatchMerging(self.width * 2**i, norm))
        counts = [0] * len(stages)
        for (i, windows, grid), rate in zip(self.places(), self.rates(), strict=True):
            parts = self.make_attention(i), self.make_feed_forward(i)
            block = SwinBlock(windows, grid, *parts, norm, self.dropout, rate)
            stages[i].add_module(str(counts[i]), block)
            counts[i] += 1
        return nn.ModuleList(stages)

    def make_attention(self, stage: int) -> MultiHeadAttention:
        """Create the attention of a block."""
        head_width = None if self.head_width is None else _of_stage(self.head_width, stage)
        return MultiHeadAttention(
            self.width * 2**stage,
            self.heads[stage],
            head_width=head_width,
            bias=self.bias,
            dropout=self.attention_dropout,
        )

    def make_feed_forward(self, stage: int) -> FeedForward:
        """Create the feed-forward network of a block."""
        width = self.width * 2**stage
        hidden_width = int(width * _of_stage(self.hidden_ratio, stage))
        return FeedForward(width, hidden_width, self.activation, dropout=self.dropout)

    def initialise(self) -> None:
        """Draw small weights, as the paper's authors do."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def resized(
        self,
        image_size: int | list[int],
        window_size: int | list[int] | list[list[int]] | None = None,
    ) -> "Swin":
        """Copy the network for another image size, with windows of another size.

        By default windows keep their share of the image. The relative positions are interpolated.
        """
        net = copy.deepcopy(self)
        net.image_size = image_size
        if window_size is None:
            old, new = self.grids()[0], net.grids()[0]
            window_size = [
                [max(1, size * n // o) for size, n, o in zip(window, new, old, strict=True)]
                for window in window_sizes(self.window_size, len(self.depths))
            ]
        net.window_size = window_size
        blocks = [module for module in net.modules() if isinstance(module, SwinBlock)]
        for block, (_, windows, grid) in zip(blocks, net.places(), strict=True):
            block.resize(windows, grid)
        return net

    def stage_maps(self, images: Images) -> Iterator[TokenMap]:
        """Yield the output of every stage."""
        check_images(images, self.embedding.image_channels)
        grid = self.embedding.grid(*images.shape[-2:])
        x = self.embedding(images).unflatten(1, grid)
        for stage in self.stages:
            x = stage(x)
            yield x

    def feature_maps(self, images: Images) -> list[Float[Tensor, "batch _ _ _"]]:
        """Return the map of every stage, (batch, rows, columns, width); the last one is normed."""
        maps = list(self.stage_maps(images))
        return [*maps[:-1], self.output_norm(maps[-1])]

    def feature_map(self, images: Images) -> TokenMap:
        """Return the last map after the last norm, (batch, rows, columns, width)."""
        *_, x = self.stage_maps(images)
        return self.output_norm(x)

    def features(self, images: Images) -> Float[Tensor, "batch *features"]:
        """Return the pooled feature, which is the input of the head."""
        x = self.feature_map(images)
        pooled = self.pooling(x.flatten(1, 2), 0)
        return pooled if pooled.ndim == 2 else pooled.unflatten(1, x.shape[1:3])

    def forward(self, images: Images) -> Float[Tensor, "batch *classes"]:
        """Return the logits, without `num_classes` the features."""
        x = self.features(images)
        return self.head(F.dropout(x, self.head_dropout, self.training) if self.head_dropout else x)
