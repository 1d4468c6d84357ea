"""How often conditional samples show the requested class, by a classifier of real images."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor


class ClassConsistency:
    """The share of samples whose class is recognised by a support vector machine.

    It measures fidelity to the condition, not diversity: one good picture per class scores 1.

    Args:
        image: real images to fit the machine to, pixels in [-1, 1].
        label: their classes.
    """

    def __init__(
        self,
        image: Float[Tensor, "rows channels height width"],
        label: Int[Tensor, " rows"],
    ) -> None:
        from sklearn.svm import SVC

        self.classifier = SVC(gamma="scale", C=10.0).fit(_features(image), label.cpu().numpy())

    def __call__(
        self, image: Float[Tensor, "samples channels height width"], label: Int[Tensor, " samples"]
    ) -> float:
        """Return the share of images that the classifier assigns to their label."""
        return float(self.classifier.score(_features(image), label.cpu().numpy()))


def _features(image: Tensor) -> object:
    return ((image.detach().float().cpu().clamp(-1, 1) + 1) / 2).flatten(1).numpy()
