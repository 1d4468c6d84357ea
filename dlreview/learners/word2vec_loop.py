"""One pass of word2vec's compiled loop over a batch: a step of plain SGD on each example.

The formula is in `word2vec`, the loop itself in `word2vec_kernel`; here tensors become the arrays
that the loop works on in place.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dlreview.learners.word2vec_kernel import train_pass
from dlreview.samplers.alias import UNIT


def pass_over(
    net: nn.Module, batch: dict[str, Tensor], keep: Tensor, alias: Any, **options: Any
) -> tuple[float, int]:
    """Train word vectors on a batch, in place; return the mean loss in nats, and of how many.

    Args:
        net: `dlreview.nn.word2vec.Word2Vec`.
        batch: sentences as in `Corpus`.
        keep: chance that each word of the vocabulary is kept.
        alias: alias table of the negatives.
        options: window, negatives, skip_gram, rates and seeds of `train_pass`.
    """
    tables: Any = net
    loss, count = train_pass(
        tables.input.weight.detach().numpy(),
        tables.output.weight.detach().numpy(),
        batch["text"].numpy(),
        batch["bounds"].numpy(),
        (keep.double() * (UNIT - 1)).numpy().astype("uint32"),
        alias,
        **options,
    )
    return loss / max(1, count), count
