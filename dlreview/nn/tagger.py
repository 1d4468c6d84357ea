"""A sequence tagger (Huang et al. 2015, arXiv:1508.01991; review rows 16-18).

A word is its own vector beside one read off its letters by a small BiLSTM (Lample et al. 2016,
arXiv:1603.01360), so that a word never seen before has a form. A recurrent network reads the
sentence; from its h_t comes a score for each tag. The same word gets another h_t in another
context: that is what makes "bat" two things.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dlreview.nn.lstm import BiLSTM


class Spelling(nn.Module):
    """Read words letter by letter from both ends: letters are numbered from 1, 0 fills up."""

    def __init__(self, letters: int, letter_width: int, width: int) -> None:
        for name, size in {
            "letters": letters,
            "letter_width": letter_width,
            "width": width,
        }.items():
            if size < 1:
                raise ValueError(f"{name} {size} is not a positive integer")
        super().__init__()
        self.letters = letters
        self.letter_width = letter_width
        self.width = width
        self.embedding = nn.Embedding(letters + 1, letter_width, padding_idx=0)
        self.reader = BiLSTM(letter_width, width)

    def forward(self, words: Int[Tensor, "words letters"]) -> Float[Tensor, "words twice"]:
        """Return the last h of both directions."""
        lengths = (words > 0).sum(dim=1).clamp(min=1).cpu()
        letters = pack_padded_sequence(self.embedding(words), lengths, True, enforce_sorted=False)
        _, (h, _) = self.reader(letters)
        return torch.cat([h[0], h[1]], dim=1)


class Tagger(nn.Module):
    """Score the tags of each word of a sentence.

    Words are numbered below `vocabulary_size`. `core` reads vectors of the word's own width and
    the spelling's two directions; `dropout` acts on what goes into it and what comes out.

    Raises:
        ValueError: a size is not positive, or `core` does not fit.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_tags: int,
        word_width: int,
        spelling: Spelling,
        core: nn.Module,
        dropout: float = 0.0,
    ) -> None:
        sizes = {"vocabulary_size": vocabulary_size, "num_tags": num_tags, "word_width": word_width}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} {size} is not a positive integer")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout {dropout} is not in [0, 1)")
        network: Any = core
        joined = word_width + 2 * spelling.width
        if network.input_width != joined:
            raise ValueError(
                f"core has input_width {network.input_width}; words and their spellings are "
                f"word_width {word_width} + 2 x {spelling.width} = {joined} wide"
            )
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.num_tags = num_tags
        self.word_width = word_width
        self.spelling = spelling
        self.core = core
        self.dropout = dropout
        self.embedding = nn.Embedding(vocabulary_size, word_width)
        nn.init.normal_(self.embedding.weight, std=0.1)
        output = getattr(network, "projection", None) or network.width
        self.M = nn.Linear(output * network.directions, num_tags)

    def vectors(
        self,
        words: Int[Tensor, "batch time"],
        spellings: Int[Tensor, "forms letters"],
        form: Int[Tensor, "batch time"],
        lengths: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch time width"]:
        """Return h_t of each word in its sentence.

        `spellings` has each different word of the batch once, and `form` says which one stands
        where: so a word is spelled once, however often it occurs.
        """
        x = torch.cat([self.embedding(words), self.spelling(spellings)[form]], dim=-1)
        x = F.dropout(x, self.dropout, self.training)
        packed = pack_padded_sequence(x, lengths.cpu(), True, enforce_sorted=False)
        h, _ = self.core(packed)
        return pad_packed_sequence(h, batch_first=True, total_length=words.shape[1])[0]

    def forward(
        self,
        words: Int[Tensor, "batch time"],
        spellings: Int[Tensor, "forms letters"],
        form: Int[Tensor, "batch time"],
        lengths: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch time tags"]:
        """Return the logits of each word's tag."""
        h = self.vectors(words, spellings, form, lengths)
        return self.M(F.dropout(h, self.dropout, self.training))
