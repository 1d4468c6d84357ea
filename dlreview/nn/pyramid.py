"""An hourglass with image pyramids beside it (NCSN++: Song et al. 2021, arXiv:2011.13456, app. H).

On the way down the image itself gets smaller with the features and joins them at every resolution;
on the way up the output grows with the features, and every resolution adds to it.
"""

import math
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor, nn

from dlreview.nn.hourglass import Down, Layers, Resample, Up
from dlreview.nn.resample import Smooth
from dlreview.nn.resnet_block import group_norm

Features = Float[Tensor, "batch _ _ _"]


class PyramidDown(Down):
    """A level whose step down also halves the image and adds it to the features."""

    def __init__(
        self, layers: Layers, width_in: int, width: int, attends: bool, last: bool
    ) -> None:
        super().__init__(layers, width_in, width, attends)
        if not last:
            self.resample = layers.block(width, width, resample=Smooth(twice=False), project=True)
            self.smooth = Smooth(twice=False)
            self.from_image = nn.Conv2d(layers.image_channels, width, 1)

    def add_image(self, x: Features, image: Features) -> tuple[Features, Features]:
        """Halve the image and add it."""
        image = self.smooth(image)
        return x + self.from_image(image), image


class PyramidUp(Up):
    """A level that doubles the output of the coarser levels and adds its own output to it.

    There is attention after the last block only.
    """

    def __init__(
        self, layers: Layers, width_in: int, width: int, skips: list[int], attends: bool, last: bool
    ) -> None:
        super().__init__(layers, width_in, width, skips, attends=False)
        if attends:
            self.attentions[-1] = layers.attention(width)
            for block, skip in zip(self.blocks, skips, strict=True):
                # As in diffusers, where only the skip's width is divided by 4 here.
                groups = min(width_in + skip // 4, 32)
                block.norm_1 = group_norm(width_in + skip, groups, layers.options.eps)
                width_in = width
        self.smooth, self.to_image = Smooth(twice=True), None
        if not last:
            self.resample = layers.block(width, width, resample=Smooth(twice=True), project=True)
            self.to_image = layers.to_image(width)

    def add_output(self, x: Features, output: Features | None) -> Features | None:
        """Double the output of the coarser levels and add that of this level."""
        if output is not None:
            output = self.smooth(output)
        if self.to_image is None:
            return output
        return self.to_image(x) if output is None else self.to_image(x) + output


class Pyramid(Resample):
    """Pyramids on both ways. Sums are divided by sqrt(2), so that their variance stays the same.

    Groups of norms depend on the width: a quarter of it, at most 32, and 32 in the attention.
    """

    def make_down(
        self, layers: Layers, width_in: int, width: int, attends: bool, last: bool
    ) -> Down:
        """Make a level of the way down; the last one keeps its resolution."""
        return PyramidDown(self.adapt(layers), width_in, width, attends, last)

    def make_up(
        self, layers: Layers, width_in: int, width: int, skips: list[int], attends: bool, last: bool
    ) -> Up:
        """Make a level of the way up; the last one keeps its resolution."""
        return PyramidUp(self.adapt(layers), width_in, width, skips, attends, last)

    def adapt(self, layers: Layers) -> Layers:
        """Change the options of the layers to those of a pyramid."""
        return replace(layers, groups=None, attention_groups=32, output_scale=math.sqrt(2))
