"""A language model with a recurrent network (Mikolov et al. 2010; review rows 6-16).

The network reads the vectors of the words, and y_i = M h_i has a score for every word that may come
next. `tied` uses the words' vectors as M (Press & Wolf 2017, arXiv:1608.05859).
"""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dlreview.messages import check_at_least, check_share
from dlreview.nn.inputs import look_up


class RecurrentLanguageModel(nn.Module):
    """Score the word after each word, given all words so far.

    `core` is an `RNN` or `LSTM` with one direction. `dropout` acts on its inputs and its outputs.

    Raises:
        ValueError: `vocabulary_size` is below 1, `dropout` is not in [0, 1), or `core` has two
            directions, an `output_width`, or a width that does not fit `tied`.
    """

    def __init__(
        self, vocabulary_size: int, core: nn.Module, dropout: float = 0.0, tied: bool = False
    ) -> None:
        check_at_least(1, vocabulary_size=vocabulary_size)
        check_share(dropout=dropout)
        network: Any = core
        if getattr(network, "directions", None) != 1:
            raise ValueError("core must have directions 1: a second one reads the words to predict")
        if (output_width := getattr(network, "output_width", None)) is not None:
            raise ValueError(f"output_width of core must be None, got {output_width}")
        width = getattr(network, "projection", None) or network.width
        if tied and width != network.input_width:
            raise ValueError(
                f"tied needs a core of equal widths: width {width}, "
                f"input_width {network.input_width}"
            )
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.core = core
        self.dropout = dropout
        self.tied = tied
        self.embedding = nn.Embedding(vocabulary_size, network.input_width)
        self.M = nn.Linear(width, vocabulary_size)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.M.weight, -0.1, 0.1)
        nn.init.zeros_(self.M.bias)
        if tied:
            self.M.weight = self.embedding.weight

    def forward(
        self, ids: Int[Tensor, "batch time"], state: Any = None
    ) -> tuple[Float[Tensor, "batch time vocabulary"], Any]:
        """Return the logits of the word after each word, and the state after the last word."""
        return self.read(look_up("ids", self.embedding, ids, self.vocabulary_size), state)

    def read(
        self, vectors: Float[Tensor, "batch time width"], state: Any = None
    ) -> tuple[Float[Tensor, "batch time vocabulary"], Any]:
        """Compute the same from the words' vectors."""
        h, state = self.core(F.dropout(vectors, self.dropout, self.training), state)
        return self.M(F.dropout(h, self.dropout, self.training)), state
