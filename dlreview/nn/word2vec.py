"""Word2vec (Mikolov et al. 2013, arXiv:1301.3781 and arXiv:1310.4546; review rows 1-5).

A one-hot word times a matrix is a row of it. So the network is two tables: a word's vector where it
is given (input) and where it is asked for (output), and a score is their product,

    h = 1/n (v_1 + ... + v_n),    score of word o = u_o . h

Skip-gram predicts the context from the target, so that n = 1 and each word of the context is an
example. CBOW predicts the target from the n words of the context.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class Word2Vec(nn.Module):
    """Score the words of a vocabulary by the words around them; the input vectors are the product.

    As in the original code, input vectors begin uniform in +-1/(2 width), output vectors at zero.

    Raises:
        ValueError: a size is not positive.
    """

    def __init__(self, vocabulary_size: int, width: int) -> None:
        for name, size in {"vocabulary_size": vocabulary_size, "width": width}.items():
            if size < 1:
                raise ValueError(f"{name} {size} is not a positive integer")
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
        """Return h, the mean of the words' input vectors; `mask` is True where a word counts."""
        vectors = self.input(words)
        if mask is None:
            return vectors.mean(dim=1)
        share = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.einsum("bcw,bc->bw", vectors, share.to(vectors.dtype))

    def scores(
        self, hidden: Float[Tensor, "batch width"], words: Int[Tensor, "batch targets"]
    ) -> Float[Tensor, "batch targets"]:
        """Return u_o . h for chosen words only, which is what negative sampling needs."""
        return torch.einsum("bw,btw->bt", hidden, self.output(words))

    def forward(
        self,
        words: Int[Tensor, "batch context"],
        mask: Bool[Tensor, "batch context"] | None = None,
    ) -> Float[Tensor, "batch vocabulary"]:
        """Return u_o . h for all words: the logits of the review's own softmax."""
        return self.hidden(words, mask) @ self.output.weight.T
