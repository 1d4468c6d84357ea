"""Rows to train on and rows to test on: which they are, and what all data modules do with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence, Sized
from typing import Any, TypeVar

import torch
from jaxtyping import Int64
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader

from dlreview.data.order import batches, order_once, training_order
from dlreview.messages import check_at_least, check_known
from dlreview.randomness import hash_seed, seed

TEST = "test"
INSTEAD_OF_TEST = ("validation", "valid", "dev")
DEFAULT_SHARE = 0.1
MOST_WORKERS = 1024


def choose_test_split(
    path: str, names: Sequence[str], train_split: str, test_split: float | str
) -> float | str:
    """Return the name of the test split, or the share of the training split that is divided off.

    A data set without a split "test" is tested on "validation", "valid" or "dev". If its training
    split is its only one, a tenth of that is divided off, and the first process prints a line.

    Args:
        path: of the data set, for messages.
        names: of its splits.
        train_split: the split to train on.
        test_split: what the user named, or "test".

    Raises:
        ValueError: there is no such split.
    """
    if not isinstance(test_split, str):
        return test_split
    if test_split == TEST and TEST not in names:
        for name in INSTEAD_OF_TEST:
            if name in names and name != train_split:
                return name
        if list(names) == re.findall(r"^[\w.-]+", train_split):
            rank_zero_only(print)(
                f"{path} has one split, {names[0]!r}: {DEFAULT_SHARE} of its rows are for testing"
            )
            return DEFAULT_SHARE
    if re.fullmatch(r"[\w.-]+", test_split):  # otherwise a slice such as "train[90%:]"
        check_known(f"split of {path!r}", test_split, names)
    return test_split


Row = TypeVar("Row")
Parts = tuple[Int64[Tensor, " train"], Int64[Tensor, " test"]]


def divide(count: int, share: float, classes: Int64[Tensor, " rows"] | None = None) -> Parts:
    """Divide rows at random, by the recipe's seed: return those for training and for testing.

    Both stay in order. The test rows have the proportions of the classes, and each class keeps a
    row for training.

    Args:
        count: number of rows.
        share: of the rows that are for testing, at least one row.
        classes: the class of each row; by default all rows are of one class.

    Raises:
        ValueError: there are too few rows.
    """
    classes = torch.zeros(count, dtype=torch.int64) if classes is None else classes
    order = torch.randperm(count, generator=torch.Generator().manual_seed(hash_seed(seed())))
    order = order[classes[order].argsort(stable=True)]  # at random within each class
    first = classes[order].diff(prepend=torch.tensor([-1])) != 0
    free, wanted = order[~first], max(1, round(share * count))
    if wanted > len(free):
        raise ValueError(f"{count} rows are too few to have {share:g} of them for testing")
    # Of n rows, w at equal distances: those where floor(i w / n) grows.
    chosen = (torch.arange(len(free) + 1) * wanted // len(free)).diff() > 0
    return torch.cat([order[first], free[~chosen]]).sort().values, free[chosen].sort().values


def divide_end(count: int, share: float) -> Parts:
    """Return the first rows for training, and a share of the rows at the end for testing.

    Raises:
        ValueError: there are too few rows.
    """
    wanted = max(1, round(share * count))
    if wanted >= count:
        raise ValueError(f"{count} rows are too few to have {share:g} of them for testing")
    return torch.arange(count - wanted), torch.arange(count - wanted, count)


class TwoSplits(LightningDataModule):
    """A data module with a training split and a test split.

    A subclass has `read()`, which returns both as torch data sets that fetch a batch by one
    indexing operation, and `row_name`, the plural of what a row is.

    Args:
        path: where the data are.
        batch_size: rows per process and step; None where batches differ in it.
        train_split: split to train on.
        test_split: split to validate on, or a share of the training split.
        num_workers: processes that fetch batches.
        pin_memory: whether batches are staged in pinned memory.
        config: name of the data set's configuration, where it has several, as in
            `datasets.load_dataset(path, config)`.

    Raises:
        ValueError: an argument is outside its range.
    """

    row_name = "rows"

    def __init__(
        self,
        path: str,
        batch_size: int | None,
        train_split: str,
        test_split: float | str,
        num_workers: int,
        pin_memory: bool = False,
        config: str | None = None,
    ) -> None:
        super().__init__()
        check_at_least(1, batch_size=batch_size)
        if not 0 <= num_workers <= MOST_WORKERS:
            raise ValueError(f"num_workers must be in 0..{MOST_WORKERS}, got {num_workers}")
        if not isinstance(test_split, str) and not 0 < test_split < 1:
            raise ValueError(f"test_split must be a name or a share in (0, 1), got {test_split}")
        self.path, self.config = path, config
        self.batch_size: Any = batch_size
        self.train_split, self.test_split = train_split, test_split
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self.tested_on = str(test_split)
        """What `val/...` metrics are measured on, in words."""
        self.train_set: Any = None
        self.test_set: Any = None

    def read(self) -> tuple[Any, Any]:
        """Return the training set and the test set."""
        raise NotImplementedError(f"{type(self).__name__} has no read()")

    def choose_test_split(self, names: Sequence[str]) -> float | str:
        """Return the name or the share of the test split, and remember what it is."""
        chosen = choose_test_split(self.path, names, self.train_split, self.test_split)
        named = isinstance(chosen, str)
        self.tested_on = str(chosen) if named else f"{chosen:g} of {self.train_split}"
        return chosen

    def read_lists(
        self,
        names: Sequence[str],
        read: Callable[[str], list[Row]],
        divide: Callable[[int, float], Parts] = divide,
    ) -> tuple[list[Row], list[Row]]:
        """Return the training rows and the test rows.

        Args:
            names: of the splits.
            read: returns the rows of a split.
            divide: chooses test rows where they are a share of the training split.
        """
        chosen = self.choose_test_split(names)
        rows = read(self.train_split)
        if isinstance(chosen, str):
            return rows, read(chosen)
        try:
            train, test = divide(len(rows), chosen)
        except ValueError as error:
            raise ValueError(f"path {self.path!r}: {error}") from None
        return [rows[i] for i in train.tolist()], [rows[i] for i in test.tolist()]

    def check_rows(self, rows: Sized) -> None:
        """Refuse training rows that do not fill a batch.

        Raises:
            ValueError: names both numbers.
        """
        if self.batch_size is not None and len(rows) < self.batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is more than the {len(rows)} {self.row_name} of "
                f"{self.path!r}"
            )

    def setup(self, stage: str | None = None) -> None:
        """Read both splits once."""
        if self.train_set is None:
            train, test = self.read()
            self.check_rows(train)
            self.train_set, self.test_set = train, test

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled full batches, from the trainer's present epoch and step."""
        order = training_order(self.trainer, len(self.train_set), self.batch_size)
        return batches(self.train_set, order, self.num_workers, self.pin_memory)

    def val_dataloader(self) -> DataLoader[Any]:
        """Every row of the test split once, in order."""
        order = order_once(self.trainer, len(self.test_set), self.batch_size)
        return batches(self.test_set, order, self.num_workers, self.pin_memory)
