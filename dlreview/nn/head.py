"""The last layer of a network that writes text, and what else may be made of its input."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

Score = Callable[..., Tensor]
"""score(hidden, head): what `forward` makes of the last hidden states; by default head(hidden).

A learner passes a function that returns the loss of each token, so that the logits of a large
vocabulary need not all be held at once.
"""


def apply_head(
    hidden: Float[Tensor, "batch tokens width"], head: nn.Module
) -> Float[Tensor, "batch tokens vocabulary"]:
    """Return the logits."""
    logits: Tensor = head(hidden)
    return logits
