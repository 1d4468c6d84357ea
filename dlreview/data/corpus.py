"""Sentences of word numbers, a batch of whole sentences at a time: for word2vec."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dlreview.data.order import batches, check_sizes, order_once, training_order
from dlreview.data.text import EMBEDDED, Sentences, Vocabulary, read_sentences

LONGEST = 1000  # words of a sentence, as in the original code; text8 is a single line


class Ragged(Dataset[Any]):
    """Rows of unequal length in one tensor; a batch is {"text", "bounds", "row"}.

    Row r of a batch is text[bounds[r]:bounds[r + 1]], and the row[r]-th of the whole.
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
    """Cut what is longer than `LONGEST` words."""
    return [s[at : at + LONGEST] for s in sentences for at in range(0, len(s), LONGEST)]


class Corpus(LightningDataModule):
    """Batches {"text": word numbers, "bounds": where sentences begin, "row": which they are}.

    Words that are not in the vocabulary are left out, as if they had not been written. A line of
    more than 1,000 words is several sentences.

    Args:
        path: `python-reference` (embedded), a UTF-8 file, a folder that `datasets` reads, or a
            name on the hub.
        batch_size: sentences per process and step.
        min_count: how often a word must occur in the training split to be in the vocabulary.
        vocabulary_size: words to keep at most, the most frequent; null for all.
        lowercase: fold capitals.
        column: column that holds the text, tokens apart by blanks.
        train_split: split to train on.
        test_split: split to validate on; `val/...` metrics are measured there.
        num_workers: processes that fetch batches; the text is in memory, so that 0 is right.

    Raises:
        ValueError: a size is not positive, or there is no such data, column or split, no text in
            it, no word that occurs `min_count` times, or a file is not UTF-8.
        OSError: the hub cannot be reached.
    """

    gives = ("text", "bounds", "row")

    def __init__(
        self,
        path: str = EMBEDDED,
        batch_size: int = 1024,
        min_count: int = 5,
        vocabulary_size: int | None = None,
        lowercase: bool = True,
        column: str = "text",
        train_split: str = "train",
        test_split: str = "test",
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(num_workers, batch_size=batch_size, min_count=min_count)
        if vocabulary_size is not None and vocabulary_size < 1:
            raise ValueError(f"vocabulary_size must be at least 1, got {vocabulary_size}")
        self.num_workers = num_workers
        self.path, self.batch_size, self.column = path, batch_size, column
        self.min_count, self.vocabulary_size = min_count, vocabulary_size
        self.lowercase, self.train_split, self.test_split = lowercase, train_split, test_split
        self.vocabulary: Vocabulary | None = None
        self.train_set: Ragged | None = None
        self.test_set: Ragged | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read both splits once, and count the words of the first."""
        if self.vocabulary is not None:
            return
        train, test = (
            cut(read_sentences(self.path, split, self.column, self.lowercase))
            for split in (self.train_split, self.test_split)
        )
        if len(train) < self.batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is more than the {len(train)} sentences of "
                f"{self.path!r}"
            )
        self.vocabulary = Vocabulary(train, self.min_count, self.vocabulary_size)
        self.train_set, self.test_set = (
            Ragged([self.vocabulary.encode(sentence) for sentence in part])
            for part in (train, test)
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled full batches, from where the trainer stands."""
        assert self.train_set is not None
        order = training_order(self.trainer, len(self.train_set), self.batch_size)
        return batches(self.train_set, order, self.num_workers)

    def val_dataloader(self) -> DataLoader[Any]:
        """Every sentence of the test split once, in order."""
        assert self.test_set is not None
        order = order_once(self.trainer, len(self.test_set), self.batch_size)
        return batches(self.test_set, order, self.num_workers)

    @property
    def sizes(self) -> dict[str, int]:
        """What networks need to know of the data, by the names of their arguments."""
        assert self.vocabulary is not None
        return {"vocabulary_size": len(self.vocabulary)}

    def usage(self) -> dict[str, Any]:
        """Tell which words the rows of the network are: see `dlreview.usage`."""
        assert self.vocabulary is not None
        return {"data": self.path, "split": self.test_split, "words": self.vocabulary.words}
