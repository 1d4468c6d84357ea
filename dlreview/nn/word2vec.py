"""Word2vec (Mikolov et al. 2013, arXiv:1301.3781 and arXiv:1310.4546; review rows 1-5).

A one-hot word times a matrix is a row of it. So the network is two tables of vectors: v of a word
that is given (input) and u of a word to predict (output). A score is a product of the two,

    h = 1/n (v_1 + ... + v_n),    score of word o = u_o . h

Skip-gram predicts the context from the target, so that n = 1 and each word of the context is an
example. CBOW predicts the target from the n words of the context.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dlreview.messages import check_at_least
from dlreview.nn.inputs import check_size, look_up


class Word2Vec(nn.Module):
    """Score the words of a vocabulary by the words around them; users keep the input vectors.

    As in the original code, input vectors begin uniform in +-1/(2 width), output vectors at zero.

    Raises:
        ValueError: a size is below 1.
    """

    words: list[str] | None = None
    """The words of the first rows, where the network came with them; they are not saved with it."""
    counts: list[int] | None = None
    """How often each of these words occurred, where that is known."""

    def __init__(self, vocabulary_size: int, width: int) -> None:
        check_at_least(1, vocabulary_size=vocabulary_size, width=width)
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.width = width
        self.input = nn.Embedding(vocabulary_size, width)
        self.output = nn.Embedding(vocabulary_size, width)
        nn.init.uniform_(self.input.weight, -0.5 / width, 0.5 / width)
        nn.init.zeros_(self.output.weight)

    def hidden(
        self,
        words: Int[Tensor, "batch context"],
        mask: Bool[Tensor, "batch context"] | None = None,
    ) -> Float[Tensor, "batch width"]:
        """Return h, the mean of the words' input vectors; `mask` is False at padding."""
        vectors = look_up("words", self.input, words, self.vocabulary_size)
        if mask is None:
            return vectors.mean(dim=1)
        check_size("words of mask", mask, 1, words.shape[1])
        share = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.einsum("bcw,bc->bw", vectors, share.to(vectors.dtype))

    def scores(
        self, hidden: Float[Tensor, "batch width"], words: Int[Tensor, "batch targets"]
    ) -> Float[Tensor, "batch targets"]:
        """Return u_o . h for the given words only, as negative sampling needs it."""
        check_size("width of hidden", hidden, 1, self.width)
        vectors = look_up("words", self.output, words, self.vocabulary_size)
        return torch.einsum("bw,btw->bt", hidden, vectors)

    def forward(
        self,
        words: Int[Tensor, "batch context"],
        mask: Bool[Tensor, "batch context"] | None = None,
    ) -> Float[Tensor, "batch vocabulary"]:
        """Return u_o . h for all words: the logits of the review's softmax."""
        return self.hidden(words, mask) @ self.output.weight.T
