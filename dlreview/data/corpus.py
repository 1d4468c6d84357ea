"""Sentences of word numbers, whole sentences in each batch: for word2vec."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dlreview.data.splits import TwoSplits
from dlreview.data.text import EMBEDDED, Sentences, Text, Vocabulary
from dlreview.messages import check_at_least

LONGEST = 1000  # words of a sentence, as in the original code; text8 is a single line


class Ragged(Dataset[Any]):
    """Rows of unequal length in one tensor; a batch is {"text", "bounds", "row"}.

    The r-th row of a batch is text[bounds[r]:bounds[r + 1]], and row[r] is its number in the data.
    """

    def __init__(self, rows: list[list[int]]) -> None:
        self.length = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        self.text = torch.tensor([number for row in rows for number in row], dtype=torch.int32)
        self.start = self.length.cumsum(0) - self.length

    def __len__(self) -> int:
        return len(self.length)

    def __getitem__(self, rows: list[int]) -> dict[str, Tensor]:
        row = torch.as_tensor(rows, dtype=torch.int64)
        length = self.length[row]
        bounds = torch.cat([length.new_zeros(1), length.cumsum(0)])
        place = torch.arange(int(bounds[-1])) + torch.repeat_interleave(
            self.start[row] - bounds[:-1], length
        )
        return {"text": self.text[place], "bounds": bounds, "row": row}


def cut(sentences: Sentences) -> Sentences:
    """Cut sentences of more than `LONGEST` words into several."""
    return [s[at : at + LONGEST] for s in sentences for at in range(0, len(s), LONGEST)]


class Corpus(TwoSplits):
    """Batches {"text": word numbers, "bounds": starts of the sentences, "row": their numbers}.

    Words that are not in the vocabulary are left out, as if they had not been written. A line of
    more than 1,000 words is several sentences.

    Args:
        path: `python-reference` (embedded), a UTF-8 file, a folder that `datasets` reads, or a
            name on the hub.
        batch_size: sentences per process and step.
        min_count: how often a word must occur in the training split to be in the vocabulary.
        vocabulary_size: largest number of words to keep, the most frequent; null for all.
        lowercase: write all words in small letters.
        column: column that holds the text, with blanks between tokens, or lists of tokens.
        train_split: split to train on. A file has one split, "train".
        test_split: split to validate on; `val/...` metrics are measured there. A number in (0, 1)
            is a share of the training split, chosen by the recipe's seed. Without a split "test",
            "test" is the validation split, or 0.1 of the training split if that is the only one.
        num_workers: processes that fetch batches; the text is in memory, so that 0 is right.
        config: name of the data set's configuration, where it has several.

    Raises:
        ValueError: a size is not positive, or there is no such data, column or split, no text in
            it, no word that occurs `min_count` times, or a file is not UTF-8.
        OSError: the hub cannot be reached.
    """

    gives = ("text", "bounds", "row")
    row_name = "sentences"

    def __init__(
        self,
        path: str = EMBEDDED,
        batch_size: int = 1024,
        min_count: int = 5,
        vocabulary_size: int | None = None,
        lowercase: bool = True,
        column: str = "text",
        train_split: str = "train",
        test_split: float | str = "test",
        num_workers: int = 0,
        config: str | None = None,
    ) -> None:
        super().__init__(path, batch_size, train_split, test_split, num_workers, config=config)
        check_at_least(1, min_count=min_count, vocabulary_size=vocabulary_size)
        self.min_count, self.vocabulary_size = min_count, vocabulary_size
        self.lowercase, self.column = lowercase, column
        self.vocabulary: Vocabulary | None = None

    def read(self) -> tuple[Ragged, Ragged]:
        """Read both splits, and count the words of the training split."""
        text = Text(self.path, self.column, self.lowercase, self.config)
        train, test = self.read_lists(text.names, lambda split: cut(text.read(split)))
        self.check_rows(train)
        self.vocabulary = Vocabulary(train, self.min_count, self.vocabulary_size)
        encode = self.vocabulary.encode
        return Ragged([encode(s) for s in train]), Ragged([encode(s) for s in test])

    @property
    def sizes(self) -> dict[str, int]:
        """What networks need to know of the data, by the names of their arguments."""
        assert self.vocabulary is not None
        return {"vocabulary_size": len(self.vocabulary)}

    def usage(self) -> dict[str, Any]:
        """Name the words that the rows of the network's table stand for: see `dlreview.usage`."""
        assert self.vocabulary is not None
        return {"data": self.path, "split": self.tested_on, "words": self.vocabulary.words}
