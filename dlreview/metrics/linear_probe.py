"""A linear probe (row 29): throw the classifier away and fit a new one to the frozen features."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor


class LinearProbe:
    """Logistic regression on features that are scaled to mean 0 and variance 1.

    Args:
        features: of the training images.
        labels: their classes, at least two different ones.
        C: inverse strength of the L2 penalty.
    """

    def __init__(
        self, features: Float[Tensor, "rows width"], labels: Int[Tensor, " rows"], C: float = 1.0
    ) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        fitted = LogisticRegression(C=C, max_iter=1000)
        self.classifier = make_pipeline(StandardScaler(), fitted)
        self.classifier.fit(features.detach().double().cpu().numpy(), labels.cpu().numpy())

    def __call__(
        self, features: Float[Tensor, "rows width"], labels: Int[Tensor, " rows"]
    ) -> float:
        """Return the share of rows whose class the probe finds."""
        x = features.detach().double().cpu().numpy()
        return float(self.classifier.score(x, labels.cpu().numpy()))
