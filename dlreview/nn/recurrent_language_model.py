"""A language model on a recurrent network (Mikolov et al. 2010; review rows 6-16).

Each word's vector goes into the network, and from its h_i comes y_i = M h_i: a score for every word
that may come next. `tied` uses the words' vectors as M (Press & Wolf 2017, arXiv:1608.05859).
"""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class RecurrentLanguageModel(nn.Module):
    """Score the next word after each word, from all before it.

    `core` is an `RNN` or `LSTM` that reads ahead only. `dropout` acts on what goes into it and what
    comes out.

    Raises:
        ValueError: a size is not positive, or `core` reads back, or does not fit.
    """

    def __init__(
        self, vocabulary_size: int, core: nn.Module, dropout: float = 0.0, tied: bool = False
    ) -> None:
        if vocabulary_size < 1:
            raise ValueError(f"vocabulary_size {vocabulary_size} is not a positive integer")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout {dropout} is not in [0, 1)")
        sizes: Any = core
        if getattr(sizes, "directions", None) != 1:
            raise ValueError("core must have directions 1: the other would read what is asked for")
        width = getattr(sizes, "projection", None) or sizes.width
        if getattr(sizes, "output_width", None):
            raise ValueError(f"core must give its h: output_width {sizes.output_width} is not None")
        if tied and width != sizes.input_width:
            raise ValueError(
                f"tied needs a core whose width {width} is its input_width {sizes.input_width}"
            )
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.core = core
        self.dropout = dropout
        self.tied = tied
        self.embedding = nn.Embedding(vocabulary_size, sizes.input_width)
        self.M = nn.Linear(width, vocabulary_size)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.M.weight, -0.1, 0.1)
        nn.init.zeros_(self.M.bias)
        if tied:
            self.M.weight = self.embedding.weight

    def forward(
        self, ids: Int[Tensor, "batch time"], state: Any = None
    ) -> tuple[Float[Tensor, "batch time vocabulary"], Any]:
        """Return the logits of the word after each, and the state to go on from."""
        return self.read(self.embedding(ids), state)

    def read(
        self, vectors: Float[Tensor, "batch time width"], state: Any = None
    ) -> tuple[Float[Tensor, "batch time vocabulary"], Any]:
        """Do the same from the words' vectors."""
        h, state = self.core(F.dropout(vectors, self.dropout, self.training), state)
        return self.M(F.dropout(h, self.dropout, self.training)), state
