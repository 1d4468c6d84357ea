"""Vectors of tokens: each id is a row of a learned table (row 23: the position is added to it)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def look_up(
    table: nn.Embedding, ids: Int[Tensor, "batch tokens"]
) -> Float[Tensor, "batch tokens width"]:
    """Return the vector of each token.

    Raises:
        ValueError: an id is not in the vocabulary. A GPU does not tell: it stops the process.
    """
    if torch.compiler.is_compiling():
        return table(ids)
    try:
        return table(ids)
    except IndexError as error:  # the kernel checks anyway, so that this costs nothing
        wrong = ids[(ids < 0) | (ids >= table.num_embeddings)]
        raise ValueError(
            f"ids must be in [0, vocabulary_size {table.num_embeddings}), got {wrong[0].item()}"
        ) from error
