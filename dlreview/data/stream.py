"""A text as parallel streams that go on from batch to batch: for truncated backpropagation.

The text is cut into as many equal lanes as the global batch has rows; step k reads the k-th window
of each lane, so that a network may carry its state from one step to the next.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dlreview.data.order import (
    batches,
    check_sizes,
    order_once,
    place_among_processes,
    training_order,
)
from dlreview.data.text import EMBEDDED, UNKNOWN, Sentences, Vocabulary, read_sentences

END = "<eos>"


class Lanes(Dataset[Any]):
    """Row k * lanes + i is window k of lane i: {"ids": length + 1 words, "first": k == 0}.

    Windows overlap by one word, the last to predict of one being the first to read of the next.
    What is left over at the end, less than a window in each lane, is not used unless `whole`:
    then the last window is shorter, and only less than a word in each lane is lost.
    """

    def __init__(self, text: Tensor, lanes: int, length: int, whole: bool = False) -> None:
        self.lanes, self.length = lanes, length
        per_lane = len(text) // lanes
        self.text = text[: per_lane * lanes].view(lanes, per_lane)
        words = max(0, per_lane - 1)
        self.windows = -(-words // length) if whole else words // length

    def __len__(self) -> int:
        return self.windows * self.lanes

    def __getitem__(self, rows: list[int]) -> dict[str, Tensor | bool]:
        row = torch.as_tensor(rows, dtype=torch.int64)
        window = int(row[0]) // self.lanes if rows else 0
        begin = window * self.length
        ids = self.text[row % self.lanes, begin : begin + self.length + 1]
        return {"ids": ids, "first": window == 0}


class Stream(LightningDataModule):
    """Batches {"ids": length + 1 words of each lane, "first": whether lanes begin here}.

    Sentences end with the word <eos>; words outside the vocabulary are <unk>.

    Args:
        path: `python-reference` (embedded), a UTF-8 file, a folder that `datasets` reads, or a
            name on the hub.
        batch_size: lanes per process.
        length: words of a window: how far back gradients go.
        vocabulary_size: words to keep at most, the most frequent, <unk> and <eos> included.
        min_count: how often a word must occur in the training split to be in the vocabulary.
        lowercase: fold capitals.
        column: column that holds the text, tokens apart by blanks.
        train_split: split to train on.
        test_split: split to validate on; `val/...` metrics are measured there.
        num_workers: processes that fetch batches; the text is in memory, so that 0 is right.

    Raises:
        ValueError: a size is not positive, or there is no such data, column or split, too little
            text for a window in each lane, no word that occurs `min_count` times, or a file is
            not UTF-8.
        OSError: the hub cannot be reached.
    """

    gives = ("ids", "first")

    def __init__(
        self,
        path: str = EMBEDDED,
        batch_size: int = 32,
        length: int = 32,
        vocabulary_size: int | None = None,
        min_count: int = 1,
        lowercase: bool = True,
        column: str = "text",
        train_split: str = "train",
        test_split: str = "test",
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(num_workers, batch_size=batch_size, length=length, min_count=min_count)
        if vocabulary_size is not None and vocabulary_size < 3:
            raise ValueError(f"vocabulary_size must be at least 3, got {vocabulary_size}")
        self.path, self.batch_size, self.length, self.column = path, batch_size, length, column
        self.vocabulary_size, self.min_count = vocabulary_size, min_count
        self.lowercase, self.train_split, self.test_split = lowercase, train_split, test_split
        self.num_workers = num_workers
        self.vocabulary: Vocabulary | None = None
        self.train_text = self.test_text = torch.empty(0, dtype=torch.int64)

    def setup(self, stage: str | None = None) -> None:
        """Read both splits once, and count the words of the first."""
        if self.vocabulary is not None:
            return
        train, test = (
            read_sentences(self.path, split, self.column, self.lowercase)
            for split in (self.train_split, self.test_split)
        )
        specials = [UNKNOWN, END]
        self.vocabulary = Vocabulary(train, self.min_count, self.vocabulary_size, specials)
        self.train_text, self.test_text = self._numbers(train), self._numbers(test)
        for data in (self._train_lanes(), self._test_lanes()):
            if len(data) == 0:
                raise ValueError(
                    f"path {self.path!r}: {data.text.numel()} words are too few for {data.lanes} "
                    f"lanes (batch_size) of length {self.length} + 1"
                )

    def _numbers(self, sentences: Sentences) -> Tensor:
        assert self.vocabulary is not None
        return torch.tensor(self.vocabulary.encode(w for s in sentences for w in [*s, END]))

    def _train_lanes(self) -> Lanes:
        _, processes = place_among_processes(self.trainer)
        return Lanes(self.train_text, self.batch_size * processes, self.length)

    def _test_lanes(self) -> Lanes:
        _, processes = place_among_processes(self.trainer)
        windows = len(self.test_text) // self.length
        lanes = max(1, min(self.batch_size, windows // processes)) * processes
        return Lanes(self.test_text, lanes, self.length, whole=True)

    def train_dataloader(self) -> DataLoader[Any]:
        """Windows of all lanes in the order of the text, from where the trainer stands."""
        data = self._train_lanes()
        order = training_order(self.trainer, len(data), self.batch_size)
        order.shuffle = False
        return batches(data, order, self.num_workers)

    def val_dataloader(self) -> DataLoader[Any]:
        """The test split, in at most as many lanes as a global batch has rows."""
        data = self._test_lanes()
        _, processes = place_among_processes(self.trainer)
        order = order_once(self.trainer, len(data), data.lanes // processes)
        return batches(data, order, self.num_workers)

    @property
    def sizes(self) -> dict[str, int]:
        """What networks need to know of the data, by the names of their arguments."""
        assert self.vocabulary is not None
        return {"vocabulary_size": len(self.vocabulary)}

    def usage(self) -> dict[str, Any]:
        """Tell which words the network's numbers are: see `dlreview.usage`."""
        assert self.vocabulary is not None
        return {"data": self.path, "split": self.test_split, "words": self.vocabulary.words}
