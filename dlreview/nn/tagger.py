"""A sequence tagger (Huang et al. 2015, arXiv:1508.01991; review rows 16-18).

The input of a word is its vector and a vector that a small BiLSTM reads from its letters (Lample et
al. 2016, arXiv:1603.01360), so that words unseen in training have one too. A recurrent network
reads the sentence, and a linear layer computes a score for each tag from each h_t. The same word
gets another h_t in another context: so "bat" can be an animal or a club.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dlreview.messages import check_at_least, check_share
from dlreview.nn.inputs import check_size, look_up
from dlreview.nn.lstm import BiLSTM


class Spelling(nn.Module):
    """Read words letter by letter in both directions.

    `letters` is the number of different letters; their ids begin at 1, and 0 is padding.

    Raises:
        ValueError: a size is below 1.
    """

    def __init__(self, letters: int, letter_width: int, width: int) -> None:
        check_at_least(1, letters=letters, letter_width=letter_width, width=width)
        super().__init__()
        self.letters = letters
        self.letter_width = letter_width
        self.width = width
        self.embedding = nn.Embedding(letters + 1, letter_width, padding_idx=0)
        self.reader = BiLSTM(letter_width, width)

    def forward(self, words: Int[Tensor, "words letters"]) -> Float[Tensor, "words twice"]:
        """Return the last h of both directions."""
        lengths = (words > 0).sum(dim=1).clamp(min=1).cpu()
        vectors = look_up("letters", self.embedding, words, self.letters + 1)
        letters = pack_padded_sequence(vectors, lengths, True, enforce_sorted=False)
        _, (h, _) = self.reader(letters)
        return torch.cat([h[0], h[1]], dim=1)


class RecurrentTagger(nn.Module):
    """Score the tags of each word of a sentence.

    Word ids are below `vocabulary_size`. `core` is an RNN, LSTM or BiLSTM that reads the words'
    vectors, `word_width` wide, with the two directions of their spelling. `dropout` acts on its
    inputs and its outputs.

    Raises:
        ValueError: a size is below 1, `dropout` is not in [0, 1), or `core` has another
            `input_width`.
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
        check_at_least(1, vocabulary_size=vocabulary_size, num_tags=num_tags, word_width=word_width)
        check_share(dropout=dropout)
        network: Any = core
        input_width = word_width + 2 * spelling.width
        if network.input_width != input_width:
            raise ValueError(
                f"input_width of core must be word_width {word_width} + 2 x width "
                f"{spelling.width} of spelling = {input_width}, got {network.input_width}"
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

        `spellings` has each different word of the batch once, and `form` has the row of each word
        in it, so that the BiLSTM reads a word once, however often it occurs.

        Raises:
            ValueError: a number is outside its table, or sizes do not fit together.
        """
        check_size("words of form", form, 1, words.shape[1])
        check_size("sentences of lengths", lengths, 0, len(words))
        spelled = self.spelling(spellings)
        x = look_up("words", self.embedding, words, self.vocabulary_size)
        x = torch.cat([x, look_up("form", spelled.__getitem__, form, len(spelled))], dim=-1)
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
