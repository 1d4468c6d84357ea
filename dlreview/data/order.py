"""The order of rows: a pure function of (seed, epoch), so that a resumed run goes on with it.

Step k of an epoch reads rows k G .. (k + 1) G - 1 of that epoch's permutation, where G is the size
of the global batch. Process r of P takes the r-th of P equal parts of them. So step k reads the
same rows whatever P is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, SequentialSampler

from dlreview.messages import check_at_least
from dlreview.randomness import hash_seed, seed


class BatchOrder(DistributedSampler[list[int]], SequentialSampler):
    """Yields the row numbers of this process's batches.

    It is a DistributedSampler because Lightning does not replace one; it chooses the rows of this
    process itself. With `trainer.overfit_batches` Lightning replaces all but a SequentialSampler;
    `fixed` is our answer to that flag.

    Args:
        rows: size of the data set.
        batch_size: rows per process and step.
        seed: of the shuffling.
        shuffle: a new permutation each epoch; otherwise rows stay in order.
        drop_last: leave out a last batch that is not full; otherwise the later processes get fewer
            rows than `batch_size` there, or none.
        rank: number of this process, from 0.
        processes: number of processes.
        epoch: epoch to begin with.
        start: batches of that epoch that are done already.
        fixed: whether all epochs have the order of the first.

    Raises:
        ValueError: `batch_size` is below 1, or there is not one full global batch to train on.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        rank: int = 0,
        processes: int = 1,
        epoch: int = 0,
        start: int = 0,
        fixed: bool = False,
    ) -> None:
        check_at_least(1, batch_size=batch_size)
        if drop_last and rows < batch_size * processes:
            raise ValueError(
                f"batch_size {batch_size} times {processes} processes is more than the {rows} rows"
            )
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.shuffle, self.drop_last = shuffle, drop_last
        self.rank, self.processes = rank, processes
        self.epoch, self.start, self.fixed = epoch, start, fixed

    @property
    def batches(self) -> int:
        """Global batches of an epoch."""
        size = self.batch_size * self.processes
        return self.rows // size if self.drop_last else math.ceil(self.rows / size)

    def __len__(self) -> int:
        return self.batches

    def set_epoch(self, epoch: int) -> None:
        """Begin another epoch at its first batch; the present epoch goes on where it is."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def permutation(self) -> torch.Tensor:
        """Return this epoch's order of all rows."""
        if not self.shuffle:
            return torch.arange(self.rows)
        epoch = 0 if self.fixed else self.epoch
        generator = torch.Generator().manual_seed(hash_seed(self.seed, epoch))
        return torch.randperm(self.rows, generator=generator)

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]
        order, size = self.permutation(), self.batch_size * self.processes
        for batch in range(self.start, self.batches):
            first = batch * size + self.rank * self.batch_size
            yield order[first : first + self.batch_size].tolist()


def position(trainer: Any, batches: int) -> tuple[int, int]:
    """Return (epoch, batches done in it) where a trainer begins, also when it goes on mid-epoch.

    Args:
        trainer: may train on fewer batches of an epoch than there are.
        batches: how many there are.
    """
    loop = trainer.fit_loop
    done = loop.epoch_loop.batch_progress.current.processed if loop.epoch_loop.restarting else 0
    epoch = loop.epoch_progress.current.processed
    limit = getattr(trainer, "limit_train_batches", 1.0)
    length = int(batches * limit) if isinstance(limit, float) else min(batches, limit)
    return (epoch + 1, 0) if done >= length else (epoch, done)


def training_order(trainer: Any, rows: int, batch_size: int) -> BatchOrder:
    """Return the shuffled order of training batches, from the trainer's present epoch and step."""
    rank, processes = place_among_processes(trainer)
    order = BatchOrder(rows, batch_size, seed=seed(), rank=rank, processes=processes)
    if trainer:
        order.epoch, order.start = position(trainer, len(order))
        order.fixed = bool(getattr(trainer, "overfit_batches", 0))
    return order


def order_once(trainer: Any, rows: int, batch_size: int) -> BatchOrder:
    """Return the order of a validation: every row once, not shuffled."""
    rank, processes = place_among_processes(trainer)
    how: dict[str, Any] = {"shuffle": False, "drop_last": False}
    return BatchOrder(rows, batch_size, rank=rank, processes=processes, **how)


def place_among_processes(trainer: Any) -> tuple[int, int]:
    """Return the number of this process and the number of processes."""
    return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)


def batches(
    data: Dataset[Any], order: BatchOrder, workers: int, pin_memory: bool = False
) -> DataLoader[Any]:
    """Return a loader that fetches the batches of an order, each by one indexing operation."""
    return DataLoader(
        data,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(seed()),
    )


class Rows(Dataset[Any]):
    """Tensors in memory, fetched a batch at a time by one indexing operation.

    Args:
        columns: tensors of equal length by name.
    """

    def __init__(self, columns: dict[str, torch.Tensor]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        index = torch.as_tensor(rows, dtype=torch.int64)
        return {name: column[index] for name, column in self.columns.items()}
