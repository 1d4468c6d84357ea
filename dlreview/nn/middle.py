"""The middle of a U-Net (row 58): layers at the lowest resolution, between way down and way up."""

from jaxtyping import Float
from torch import Tensor, nn

from dlreview.messages import check_at_least
from dlreview.nn.hourglass import Layers
from dlreview.nn.resnet_block import ResNetBlock

Features = Float[Tensor, "batch width height columns"]


class Middle(nn.Module):
    """Two blocks, and the layer `attention` between them."""

    def __init__(self, blocks: list[ResNetBlock], attention: nn.Module) -> None:
        super().__init__()
        self.blocks, self.attention = nn.ModuleList(blocks), attention

    def forward(
        self, x: Features, embedding: Float[Tensor, "#batch embedding"]
    ) -> Float[Tensor, "batch width height columns"]:
        """Compute features of the same shape."""
        first, second = self.blocks
        return second(self.attention(first(x, embedding)), embedding)


class MiddlePart(nn.Module):
    """The part of a network that makes its middle."""

    def __init__(self) -> None:
        super().__init__()

    def make(self, layers: Layers, width: int) -> Middle | None:
        """Make the layers, if any."""
        raise NotImplementedError


class NoMiddle(MiddlePart):
    """The way up starts where the way down ends."""

    def make(self, layers: Layers, width: int) -> Middle | None:
        """Make nothing."""
        return None


class PlainMiddle(MiddlePart):
    """Two blocks, whose sums are divided by `output_scale`.

    Raises:
        ValueError: `output_scale` is 0.
    """

    def __init__(self, output_scale: float = 1.0) -> None:
        super().__init__()
        if output_scale == 0:
            raise ValueError("output_scale must not be 0")
        self.output_scale = output_scale

    def make(self, layers: Layers, width: int) -> Middle | None:
        """Make the layers."""
        scale = self.output_scale
        blocks = [layers.block(width, width, output_scale=scale) for _ in range(2)]
        return Middle(blocks, self.make_attention(layers, width))

    def make_attention(self, layers: Layers, width: int) -> nn.Module:
        """Make the layer between the blocks."""
        return nn.Identity()


class AttentionMiddle(PlainMiddle):
    """Two blocks with attention between them.

    Args:
        output_scale: Divisor of all sums.
        groups: Groups of the norm in the attention; None as in the network, 0 for no norm.

    Raises:
        ValueError: `output_scale` is 0, or `groups` is negative.
    """

    def __init__(self, output_scale: float = 1.0, groups: int | None = None) -> None:
        super().__init__(output_scale)
        check_at_least(0, groups=groups)
        self.groups = groups

    def make_attention(self, layers: Layers, width: int) -> nn.Module:
        """Make the layer between the blocks."""
        groups = layers.attention_groups if self.groups is None else self.groups
        return layers.attention(
            width, groups=groups, normalise=groups != 0, output_scale=self.output_scale
        )
