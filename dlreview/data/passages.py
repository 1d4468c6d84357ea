"""Passages of a text, each between <bos> and <eos>: for models that read whole passages."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from dlreview.data.lengths import Sequences, TokenBatches
from dlreview.data.text import EMBEDDED, Text
from dlreview.data.tokenizer import BOS, EOS, Tokenizer


def cut(passages: Iterable[list[int]], length: int) -> list[list[int]]:
    """Put tokens between <bos> and <eos>; cut what is longer than `length` with them into parts.

    The parts of a passage differ by at most one token in their length.
    """
    rows = []
    for ids in passages:
        parts = -(-len(ids) // (length - 2))
        places = [len(ids) * part // parts for part in range(parts + 1)] if parts else []
        pairs = pairwise(places)
        rows += [[BOS, *ids[begin:end], EOS] for begin, end in pairs]
    return rows


class Passages(TokenBatches):
    """Batches of passages: "ids", padded with <pad>, and "mask", which is True at their tokens.

    A passage is a paragraph of the embedded text, a row of a data set or a line of a file. Rows of
    similar length are in the same batch: see `dlreview.data.lengths`.

    Args:
        path: `python-reference` (embedded), a UTF-8 file, a folder that `datasets` reads, or a
            name on the hub.
        tokens_per_batch: largest number of tokens per process and step, with padding.
        length: largest number of tokens of a passage, with <bos> and <eos>; a longer one is cut
            into several.
        tokenizer: what a token is; null for `BPE` of 4,000 tokens. It is trained on the training
            split.
        column: column of a data set that holds the text.
        train_split: split to train on. A file has one split, "train".
        test_split: split to validate on; `val/...` metrics are measured there. A number in (0, 1)
            is a share of the training split, chosen by the recipe's seed. Without a split "test",
            "test" is the validation split, or 0.1 of the training split if that is the only one.
        num_workers: processes that fetch batches; the text is in memory, so that 0 is right.
        config: name of the data set's configuration, where it has several.

    Raises:
        ValueError: a size is not positive, `tokens_per_batch` is below `length`, there is no such
            data, column or split, no text in it, or a file is not UTF-8.
        OSError: the hub cannot be reached.
    """

    gives = ("ids", "mask")
    row_name = "passages"

    def __init__(
        self,
        path: str = EMBEDDED,
        tokens_per_batch: int = 4096,
        length: int = 128,
        tokenizer: Tokenizer | None = None,
        column: str = "text",
        train_split: str = "train",
        test_split: float | str = "test",
        num_workers: int = 0,
        config: str | None = None,
    ) -> None:
        splits = (train_split, test_split, num_workers, config)
        super().__init__(path, tokens_per_batch, length, tokenizer, *splits)
        self.column = column

    def read(self) -> tuple[Sequences, Sequences]:
        """Read both splits, and train the tokenizer on the training split."""
        text = Text(self.path, self.column, config=self.config)

        def passages_of(split: str) -> list[str]:
            return [passage for row in text.rows(split) if (passage := row.strip())]

        train, test = self.read_lists(text.names, passages_of)
        encoder = self.encoder = self.tokenizer.train(train)
        train_set, test_set = (
            Sequences({"ids": cut(encoder.encode(passages, ends=False), self.length)})
            for passages in (train, test)
        )
        return train_set, test_set
