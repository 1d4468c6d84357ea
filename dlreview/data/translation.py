"""Pairs of a text and its translation, as numbers of tokens: for encoder-decoders."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from dlreview.data.lengths import Sequences, TokenBatches
from dlreview.data.numbers import COLUMNS, EMBEDDED_NUMBERS, SPLITS, numbers
from dlreview.data.sources import refuse_config
from dlreview.data.text import Strings
from dlreview.data.tokenizer import Tokenizer
from dlreview.messages import check_known

Pair = tuple[str, str]


class PairedText:
    """Pairs of texts by split.

    Args:
        path: `numbers` (embedded), a folder that `datasets` reads, or a hub name.
        source: column of the texts to translate.
        target: column of their translations.
        config: name of the data set's configuration, where it has several.

    Raises:
        ValueError: there are no such data or columns.
        OSError: the hub cannot be reached.
    """

    def __init__(self, path: str, source: str, target: str, config: str | None = None) -> None:
        self.path, self.source, self.target = path, source, target
        self.data = None if path == EMBEDDED_NUMBERS else Strings(path, config)
        self.names = tuple(self.data.names) if self.data else SPLITS
        if self.data is None:
            refuse_config(path, config)
            for column in (source, target):
                check_known(f"column of {path!r}", column, COLUMNS)

    def read(self, split: str) -> list[Pair]:
        """Read a split; pairs with an empty text are left out, and their number is told.

        Raises:
            ValueError: there is no such split or column, or no pair of texts.
        """
        if self.data is None:
            rows = [dict(zip(COLUMNS, pair, strict=True)) for pair in numbers(split)]
            pairs = [(row[self.source], row[self.target]) for row in rows]
        else:
            columns = self.data.columns(split, self.source, self.target)
            pairs = [(a.strip(), b.strip()) for a, b in zip(*columns, strict=True)]
        whole = [pair for pair in pairs if all(pair)]
        where = f"path {self.path!r}, split {split!r}"
        if not whole:
            raise ValueError(f"{where}: there is no pair of texts")
        if len(whole) < len(pairs):
            tell(f"{where}: {len(pairs) - len(whole)} of {len(pairs)} pairs have an empty text")
        return whole


def tell(line: str) -> None:
    """Print that rows are left out."""
    rank_zero_only(print)(f"{line}, left out")


class Translation(TokenBatches):
    """Batches of pairs: "source" ends with <eos>, "target" stands between <bos> and <eos>.

    Both are padded with <pad>; "source_mask" and "target_mask" are True at their tokens; "row" are
    the numbers of the pairs in their split. Pairs of similar length are in the same batch: see
    `dlreview.data.lengths`. One tokenizer serves both.

    Args:
        path: `numbers` (embedded: "1,204" is "one thousand two hundred four"), a folder that
            `datasets` reads, or a name on the hub.
        source: column of the texts to translate.
        target: column of their translations.
        tokens_per_batch: largest number of tokens per process and step, of sources or of targets,
            with padding.
        length: largest number of tokens of a text, with <bos> and <eos>; pairs with a longer text
            are left out, and their number is told.
        tokenizer: what a token is; null for `BPE` of 4,000 tokens. It is trained on both columns of
            the training split.
        train_split: split to train on.
        test_split: split to validate on; `val/...` metrics are measured there. A number in (0, 1)
            is a share of the training split, chosen by the recipe's seed. Without a split "test",
            "test" is the validation split, or 0.1 of the training split if that is the only one.
        num_workers: processes that fetch batches; the text is in memory, so that 0 is right.
        config: name of the data set's configuration, where it has several.

    Raises:
        ValueError: a size is not positive, `tokens_per_batch` is below `length`, there is no such
            data, column or split, or no pair of at most `length` tokens.
        OSError: the hub cannot be reached.
    """

    gives = ("source", "source_mask", "target", "target_mask", "row")
    row_name = "pairs"

    def __init__(
        self,
        path: str = EMBEDDED_NUMBERS,
        source: str = COLUMNS[0],
        target: str = COLUMNS[1],
        tokens_per_batch: int = 4096,
        length: int = 128,
        tokenizer: Tokenizer | None = None,
        train_split: str = "train",
        test_split: float | str = "test",
        num_workers: int = 0,
        config: str | None = None,
    ) -> None:
        splits = (train_split, test_split, num_workers, config)
        super().__init__(path, tokens_per_batch, length, tokenizer, *splits)
        if source == target:
            raise ValueError(f"source and target are the same column, {source!r}")
        self.source, self.target = source, target

    def read(self) -> tuple[Sequences, Sequences]:
        """Read both splits, and train the tokenizer on the training split."""
        text = PairedText(self.path, self.source, self.target, self.config)
        train, test = self.read_lists(text.names, text.read)
        self.encoder = self.tokenizer.train(side for pair in train for side in pair)
        return self._encode(train, "training"), self._encode(test, "test")

    def _encode(self, pairs: list[Pair], kind: str) -> Sequences:
        """Return pairs as token numbers.

        Raises:
            ValueError: all pairs are too long.
        """
        assert self.encoder is not None
        sources = [ids[1:] for ids in self.encoder.encode([source for source, _ in pairs])]
        targets = self.encoder.encode([target for _, target in pairs])
        rows = list(zip(sources, targets, strict=True))
        kept = [row for row in rows if max(map(len, row)) <= self.length]
        longer = f"{len(rows) - len(kept)} of {len(rows)} {kind} pairs"
        if not kept:
            raise ValueError(
                f"path {self.path!r}: {longer} have more than {self.length} tokens (length)"
            )
        if len(kept) < len(rows):
            tell(f"{self.path}: {longer} have more than {self.length} tokens")
        return Sequences({"source": [row[0] for row in kept], "target": [row[1] for row in kept]})

    def usage(self) -> dict[str, Any]:
        """Name the tokens and the columns: see `dlreview.usage`."""
        return super().usage() | {"columns": {"source": self.source, "target": self.target}}
