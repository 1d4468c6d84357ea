"""One pass of word2vec's compiled loop over a batch: a step of plain SGD on each example.

The formula is in `word2vec`, the loop itself in `word2vec_kernel`; here tensors become the arrays
that the loop works on in place.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dlreview.learners.word2vec_kernel import train_pass
from dlreview.messages import check_at_least
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

    Raises:
        ValueError: a word has no row in the tables: the loop would write beyond their memory.
    """
    tables: Any = net
    rows = min(len(tables.input.weight), len(tables.output.weight))
    check_at_least(len(keep), **{"vocabulary_size of the network": rows})
    text = batch["text"]
    if len(text) and not 0 <= int(text.min()) <= int(text.max()) < len(keep):
        found = f"{int(text.min())}..{int(text.max())}"
        raise ValueError(f"words must be in 0..{len(keep) - 1}, got {found}")
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
