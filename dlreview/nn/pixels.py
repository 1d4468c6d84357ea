"""The two ends of an image-to-image network: how pixels enter it and how its prediction leaves."""

from jaxtyping import Float, Num
from torch import Tensor, nn

from dlreview.messages import check_at_least

Images = Float[Tensor, "batch _ height columns"]


class Pixels(nn.Module):
    """How images enter a network and how its prediction leaves it.

    Args:
        out_channels: Channels of the prediction; None for as many as the image has.
        center: Whether images in [0, 1] are mapped to [-1, 1] first.
        divide_by_time: Whether the prediction is divided by t, a noise level; then it is a score.

    Raises:
        ValueError: `out_channels` is below 1.
    """

    def __init__(
        self, out_channels: int | None = None, center: bool = False, divide_by_time: bool = False
    ) -> None:
        super().__init__()
        check_at_least(1, out_channels=out_channels)
        self.out_channels, self.center = out_channels, center
        self.divide_by_time = divide_by_time

    def enter(self, image: Images) -> Float[Tensor, "batch _ height columns"]:
        """Scale the image."""
        return 2 * image - 1 if self.center else image

    def leave(
        self, prediction: Images, t: Num[Tensor, "#batch"]
    ) -> Float[Tensor, "batch _ height columns"]:
        """Scale the prediction."""
        return prediction / t[:, None, None, None] if self.divide_by_time else prediction
