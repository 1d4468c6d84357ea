"""A text as parallel lanes that go on from batch to batch: for truncated backpropagation.

The text is cut into as many equal lanes as the global batch has rows. Step k reads the k-th window
of each lane, so that a network may carry its state from one step to the next.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dlreview.data.order import batches, order_once, place_among_processes, training_order
from dlreview.data.splits import TwoSplits, divide_end
from dlreview.data.text import EMBEDDED, UNKNOWN, Sentences, Text, Vocabulary
from dlreview.data.tokenizer import EOS, Encoder, Tokenizer
from dlreview.messages import check_at_least

END = "<eos>"


class Lanes(Dataset[Any]):
    """Windows of a text: row k * lanes + i is window k of lane i.

    A batch is {"ids": length + 1 tokens of each lane, "first": k == 0}. Windows overlap by one: the
    last token that one predicts is the first that the next reads.

    Args:
        text: token numbers.
        lanes: number of equal parts of the text.
        length: tokens that a window predicts.
        whole: use the end of each lane too, which is shorter than a window. Tokens that do not fill
            all lanes equally are never used.
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


class Stream(TwoSplits):
    """Batches {"ids": length + 1 tokens of each lane, "first": whether these begin}.

    Tokens are words, unless there is a tokenizer. Sentences end with the word <eos>; words outside
    the vocabulary are <unk>. A tokenizer reads the text as it is written, with its blanks, and
    each row of a data set, or a whole file, ends with <eos>.

    Args:
        path: `python-reference` (embedded), a UTF-8 file, a folder that `datasets` reads, or a
            name on the hub.
        batch_size: lanes per process.
        length: tokens of a window: how far back gradients go.
        vocabulary_size: largest number of words to keep, the most frequent, with <unk> and <eos>.
            It and the next two are for words only: a tokenizer has its own.
        min_count: how often a word must occur in the training split to be in the vocabulary.
        lowercase: write all words in small letters.
        column: column that holds the text, with blanks between tokens, or lists of tokens.
        train_split: split to train on. A file has one split, "train".
        test_split: split to validate on; `val/...` metrics are measured there. A number in (0, 1)
            is a share of the training split, at its end, because a text goes on from row to row.
            Without a split "test", "test" is the validation split, or 0.1 of the training split if
            that is the only one.
        num_workers: processes that fetch batches; the text is in memory, so that 0 is right.
        tokenizer: what a token is, `BPE` say; null for words. It is trained on the training split.
        config: name of the data set's configuration, where it has several.

    Raises:
        ValueError: a size is not positive, or there is no such data, column or split, too little
            text for a window in each lane, no word that occurs `min_count` times, or a file is
            not UTF-8.
        OSError: the hub cannot be reached.
    """

    gives = ("ids", "first")

    def __init__(  # the words' three arguments came before there were tokenizers
        self,
        path: str = EMBEDDED,
        batch_size: int = 32,
        length: int = 32,
        vocabulary_size: int | None = None,
        min_count: int = 1,
        lowercase: bool = True,
        column: str = "text",
        train_split: str = "train",
        test_split: float | str = "test",
        num_workers: int = 0,
        tokenizer: Tokenizer | None = None,
        config: str | None = None,
    ) -> None:
        super().__init__(path, batch_size, train_split, test_split, num_workers, config=config)
        check_at_least(1, length=length, min_count=min_count)
        check_at_least(3, vocabulary_size=vocabulary_size)
        if tokenizer is not None and (vocabulary_size is not None or min_count > 1):
            name = "min_count" if vocabulary_size is None else "vocabulary_size"
            raise ValueError(f"{name} is for words; set the tokenizer's vocabulary_size")
        self.length, self.vocabulary_size, self.min_count = length, vocabulary_size, min_count
        self.lowercase, self.column, self.tokenizer = lowercase, column, tokenizer
        self.vocabulary: Vocabulary | None = None
        self.encoder: Encoder | None = None
        self.characters_per_token = 0.0
        """Of the test split; a text of n characters counts n + 1, one for its end."""
        self.train_text = self.test_text = torch.empty(0, dtype=torch.int64)

    def read(self) -> tuple[Lanes, Lanes]:
        """Read both splits, and number the tokens of the training split."""
        text = Text(self.path, self.column, self.lowercase, self.config)
        characters = self._read_words(text) if self.tokenizer is None else self._read_rows(text)
        self.characters_per_token = characters / max(1, len(self.test_text))
        lanes = self._train_lanes(), self._test_lanes()
        for data in lanes:
            if len(data) == 0:
                raise ValueError(
                    f"path {self.path!r}: {data.text.numel()} {self.token_name} are too few for "
                    f"{data.lanes} lanes (batch_size) of length {self.length} + 1"
                )
        return lanes

    @property
    def token_name(self) -> str:
        """What tokens are, for messages."""
        return "words" if self.tokenizer is None else "tokens"

    def _read_words(self, text: Text) -> int:
        """Read sentences of words; return the characters of the test split, with single blanks."""
        train, test = self.read_lists(text.names, text.read, divide_end)
        specials = [UNKNOWN, END]
        self.vocabulary = Vocabulary(train, self.min_count, self.vocabulary_size, specials)
        self.train_text, self.test_text = self._numbers(train), self._numbers(test)
        return sum(len(word) + 1 for sentence in test for word in sentence)

    def _numbers(self, sentences: Sentences) -> Tensor:
        assert self.vocabulary is not None
        return torch.tensor(self.vocabulary.encode(w for s in sentences for w in [*s, END]))

    def _read_rows(self, text: Text) -> int:
        """Read rows as they are written; return the characters of the test split."""
        assert self.tokenizer is not None

        def rows_of(split: str) -> list[str]:
            return [row for row in text.rows(split) if text.is_file or row.strip()]

        train, test = self.read_lists(text.names, rows_of, divide_end)
        if text.is_file:
            train, test = ["".join(train)], ["".join(test)]
        self.encoder = self.tokenizer.train(train)
        self.train_text, self.test_text = (
            torch.tensor([n for ids in self._encode(rows) for n in [*ids, EOS]], dtype=torch.int64)
            for rows in (train, test)
        )
        return sum(len(row) + 1 for row in test)

    def _encode(self, rows: list[str]) -> list[list[int]]:
        assert self.encoder is not None
        return self.encoder.encode(rows, ends=False)

    def _train_lanes(self) -> Lanes:
        _, processes = place_among_processes(self.trainer)
        return Lanes(self.train_text, self.batch_size * processes, self.length)

    def _test_lanes(self) -> Lanes:
        _, processes = place_among_processes(self.trainer)
        windows = len(self.test_text) // self.length
        lanes = max(1, min(self.batch_size, windows // processes)) * processes
        return Lanes(self.test_text, lanes, self.length, whole=True)

    def train_dataloader(self) -> DataLoader[Any]:
        """Windows of all lanes in the order of the text, from the trainer's present step."""
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
        tokens: Any = self.vocabulary if self.encoder is None else self.encoder
        return {"vocabulary_size": len(tokens), "max_length": self.length}

    def usage(self) -> dict[str, Any]:
        """Name the tokens that the network's numbers stand for: see `dlreview.usage`."""
        if self.encoder is not None:
            tokens: dict[str, Any] = {"tokenizer": self.encoder.json}
        else:
            assert self.vocabulary is not None
            tokens = {"words": self.vocabulary.words}
        tokens["characters_per_token"] = self.characters_per_token
        return {"data": self.path, "split": self.tested_on} | tokens
