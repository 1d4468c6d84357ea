"""Do conditional samples show the class that was asked for? A judge trained on real data says."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor


class ClassConsistency:
    """The share of samples that a support vector machine, fitted to real images, gives their class.

    It measures fidelity to the condition, not diversity: one good picture a class would score 1.

    Args:
        image: real images, pixels in [-1, 1].
        label: their classes.
        gamma: of the radial kernel exp(-gamma ||x - y||^2) on pixels in [0, 1], in units of
            1 / (pixels x their variance), as scikit-learn's "scale".
    """

    def __init__(
        self,
        image: Float[Tensor, "rows channels height width"],
        label: Int[Tensor, " rows"],
    ) -> None:
        from sklearn.svm import SVC

        self.judge = SVC(gamma="scale", C=10.0).fit(_features(image), label.cpu().numpy())

    def __call__(
        self, image: Float[Tensor, "samples channels height width"], label: Int[Tensor, " samples"]
    ) -> float:
        """Return the share of `image` that the judge assigns to `label`."""
        return float(self.judge.score(_features(image), label.cpu().numpy()))


def _features(image: Tensor) -> object:
    return ((image.detach().float().cpu().clamp(-1, 1) + 1) / 2).flatten(1).numpy()
