"""Batches by their number of tokens: rows of similar length together, padded to the longest.

A global batch of P processes has at most P times `tokens_per_batch` tokens, padding included. Which
rows it holds depends on the seed and the epoch alone. Its number of rows is a multiple of 8 where
so many fit, otherwise 4, 2 or 1: so 1, 2, 4 or 8 processes have equal shares of the same batches.
Another number of processes makes batches of its own, whose rows it divides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int64
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dlreview.data.corpus import Ragged
from dlreview.data.order import Order, batches, begin, place_among_processes
from dlreview.data.splits import TwoSplits
from dlreview.data.tokenizer import BPE, Encoder, Tokenizer
from dlreview.messages import check_at_least
from dlreview.randomness import seed

MULTIPLE = 8  # rows of a batch; larger numbers of processes than this are rare
STEPS = 4  # lengths between two powers of two are of 2**4 classes


def round_up(lengths: Int64[Tensor, " rows"]) -> Int64[Tensor, " rows"]:
    """Round lengths up, by at most a sixteenth: rows that are then equal may change places."""
    longest = lengths.max() if len(lengths) else 0
    exponent = lengths.clamp(min=1).double().log2().floor().long()
    step = 2 ** (exponent - STEPS).clamp(min=0)
    return ((lengths + step - 1) // step * step).clamp(max=longest)


def whole_rows(fit: int, processes: int) -> int:
    """Return the number of rows of a global batch where `fit` rows have room."""
    multiple = math.lcm(MULTIPLE, processes)
    if fit >= multiple:
        return fit // multiple * multiple
    return processes << (fit // processes).bit_length() - 1 if fit >= processes else 0


def plan_sizes(widths: list[int], tokens: int, processes: int, drop_last: bool) -> list[int]:
    """Cut rows into global batches and return their numbers of rows.

    Args:
        widths: padded length of each row, the longest first.
        tokens: largest number of tokens of a global batch.
        processes: number of processes.
        drop_last: leave out last rows that do not fill equal shares.
    """
    sizes: list[int] = []
    place = 0
    while place < len(widths):
        full = whole_rows(tokens // widths[place], processes)
        size, left = full, len(widths) - place
        if left < full:
            small = sizes and left < MULTIPLE
            size = 0 if small else whole_rows(left, processes)
        if size == 0:
            break
        sizes.append(size)
        place += size
    rest = len(widths) - place
    return sizes if drop_last or not rest else [*sizes, rest]


class LengthOrder(Order):
    """The order of batches of rows of similar length.

    Args:
        lengths: tokens of each row.
        tokens_per_batch: largest number of tokens per process and step, with padding.
        drop_last: leave out the few rows, other ones in each epoch, that do not fill equal shares;
            otherwise the later processes get fewer rows in the last batch, or none.
        **options: see `Order`.

    Raises:
        ValueError: `tokens_per_batch` is below the longest row, or there are fewer rows than
            processes.
    """

    def __init__(
        self,
        lengths: Int64[Tensor, " rows"],
        tokens_per_batch: int,
        *,
        drop_last: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.lengths, self.widths = lengths, round_up(lengths)
        check_at_least(int(lengths.max()) if len(lengths) else 1, tokens_per_batch=tokens_per_batch)
        if drop_last and len(lengths) < self.processes:
            raise ValueError(f"{len(lengths)} rows are too few for {self.processes} processes")
        tokens = tokens_per_batch * self.processes
        widths = self.widths.sort(descending=True).values.tolist()
        self.sizes = plan_sizes(widths, tokens, self.processes, drop_last)

    @property
    def batches(self) -> int:
        """Global batches of an epoch."""
        return len(self.sizes)

    def parts(self) -> list[list[int]]:
        """Return the rows of this epoch's global batches.

        When rows are left out, the k-th longest of the others is not longer than the k-th longest
        of all, so that the planned sizes fit whichever they are.
        """
        generator = self.generator()
        order = torch.randperm(len(self.lengths), generator=generator)[: sum(self.sizes)]
        order = order[self.widths[order].argsort(descending=True, stable=True)]
        parts = [part.tolist() for part in order.split(self.sizes)]
        turns = torch.randperm(len(parts), generator=generator).tolist()
        return [parts[turn] for turn in turns]

    def global_batches(self) -> Iterator[tuple[list[int], int]]:
        """Yield the rows of each global batch from `start` on, and the rows of a full share."""
        for rows in self.parts()[self.start :]:
            yield rows, math.ceil(len(rows) / self.processes)


def pad(
    rows: Ragged, share: list[int]
) -> tuple[Int64[Tensor, "batch time"], Bool[Tensor, "batch time"]]:
    """Return token numbers, filled up with 0, and where they are.

    They are as long as the longest row of the global batch, so that all processes draw random
    numbers of the same shape.
    """
    together = getattr(share, "together", share)
    longest = int(rows.length[together].max()) if together else 0
    part = rows[share]
    mask = torch.arange(longest) < part["bounds"].diff()[:, None]
    return mask.long().masked_scatter(mask, part["text"].long()), mask


class Sequences(Dataset[Any]):
    """Rows of token numbers in memory.

    A batch holds each column and its mask, "ids" and "mask", "source" and "source_mask" say; "row",
    the numbers of its rows in the data; and "share", the number of rows of a full share.

    Args:
        columns: token numbers of all rows, by name.
    """

    def __init__(self, columns: dict[str, list[list[int]]]) -> None:
        self.columns = {name: Ragged(rows) for name, rows in columns.items()}

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @cached_property
    def lengths(self) -> Int64[Tensor, " rows"]:
        """Tokens of each row, of its longest column."""
        return torch.stack([column.length for column in self.columns.values()]).amax(0)

    def __getitem__(self, rows: list[int]) -> dict[str, Any]:
        batch: dict[str, Any] = {}
        for name, column in self.columns.items():
            mask = "mask" if name == "ids" else f"{name}_mask"
            batch[name], batch[mask] = pad(column, rows)
        row = torch.tensor(rows, dtype=torch.int64)
        return batch | {"row": row, "share": getattr(rows, "full", len(rows))}

    def padding(self, order: LengthOrder) -> float:
        """Return the share of the tokens of an epoch that are padding."""
        kept = total = 0
        for rows in order.parts():
            for column in self.columns.values():
                length = column.length[rows]
                kept, total = kept + int(length.sum()), total + len(rows) * int(length.max())
        return 1 - kept / total


class TokenBatches(TwoSplits):
    """A data module whose batches hold at most `tokens_per_batch` tokens per process.

    A subclass has `read()`, which trains the tokenizer, keeps it as `encoder`, and returns both
    splits as `Sequences`.

    Args:
        path: where the data are.
        tokens_per_batch: largest number of tokens per process and step, with padding.
        length: largest number of tokens of a row.
        tokenizer: what a token is; None for `BPE` of 4,000 tokens.
        train_split: split to train on.
        test_split: split to validate on, or a share of the training split.
        num_workers: processes that fetch batches.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        path: str,
        tokens_per_batch: int,
        length: int,
        tokenizer: Tokenizer | None,
        train_split: str,
        test_split: float | str,
        num_workers: int,
        config: str | None = None,
    ) -> None:
        super().__init__(path, None, train_split, test_split, num_workers, config=config)
        check_at_least(3, length=length)  # <bos>, a token, <eos>
        check_at_least(length, tokens_per_batch=tokens_per_batch)
        self.tokens_per_batch, self.length = tokens_per_batch, length
        self.tokenizer = tokenizer or BPE()
        self.encoder: Encoder | None = None
        self.padding: float | None = None
        """Share of the tokens of training batches that are padding, when there is a loader."""

    def order(self, data: Sequences, training: bool) -> LengthOrder:
        """Return the order of batches, at its beginning."""
        rank, processes = place_among_processes(self.trainer)
        how: dict[str, Any] = {"rank": rank, "processes": processes}
        how |= {"seed": seed()} if training else {"shuffle": False, "drop_last": False}
        return LengthOrder(data.lengths, self.tokens_per_batch, **how)

    def tell(self, order: LengthOrder) -> None:
        """Tell once how much of the training batches is padding."""
        if self.padding is None:
            self.padding = self.train_set.padding(order)
            rank_zero_only(print)(
                f"{self.path}: {len(self.train_set):,} {self.row_name} in {len(order):,} batches, "
                f"{self.padding:.1%} of their tokens padding"
            )

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches, from the trainer's present epoch and step."""
        try:
            order = self.order(self.train_set, training=True)
        except ValueError as error:
            raise ValueError(f"path {self.path!r}: {error}") from None
        self.tell(order)
        begin(order, self.trainer)
        return batches(self.train_set, order, self.num_workers)

    def val_dataloader(self) -> DataLoader[Any]:
        """Every row of the test split once, always in the same batches."""
        order = self.order(self.test_set, training=False)
        return batches(self.test_set, order, self.num_workers)

    @property
    def sizes(self) -> dict[str, int]:
        """What networks need to know of the data, by the names of their arguments."""
        assert self.encoder is not None
        return {"vocabulary_size": len(self.encoder), "max_length": self.length}

    def usage(self) -> dict[str, Any]:
        """Name the tokens that the network's numbers stand for: see `dlreview.usage`."""
        assert self.encoder is not None
        where = {"data": self.path, "split": self.tested_on}
        return where | {"tokenizer": self.encoder.json, "max_length": self.length}
