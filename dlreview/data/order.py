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


class Share(list[int]):
    """Row numbers of one process's share of a global batch.

    Args:
        rows: the row numbers.
        together: those of the whole global batch, for what all processes must do alike: how far to
            pad, say.
        full: rows of a full share; the shares of later processes may be smaller.
        epoch: the present epoch.
    """

    def __init__(self, rows: list[int], together: list[int], full: int, epoch: int) -> None:
        super().__init__(rows)
        self.together, self.full, self.epoch = together, full, epoch


class Order(DistributedSampler[list[int]], SequentialSampler):
    """Yields the row numbers of this process's batches.

    It is a DistributedSampler because Lightning does not replace one; it chooses the rows of this
    process itself. With `trainer.overfit_batches` Lightning replaces all but a SequentialSampler;
    `fixed` is our answer to that flag. A subclass says how many `batches` an epoch has, the same in
    all epochs, and lists the `global_batches` of the present one.

    Args:
        seed: of the shuffling.
        shuffle: another order each epoch; otherwise always the same.
        rank: number of this process, from 0.
        processes: number of processes.
        epoch: epoch to begin with.
        start: batches of that epoch that are done already.
        fixed: whether all epochs have the order of the first.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        processes: int = 1,
        epoch: int = 0,
        start: int = 0,
        fixed: bool = False,
    ) -> None:
        self.seed, self.shuffle = seed, shuffle
        self.rank, self.processes = rank, processes
        self.epoch, self.start, self.fixed = epoch, start, fixed

    @property
    def batches(self) -> int:
        """Global batches of an epoch."""
        raise NotImplementedError(f"{type(self).__name__} has no batches")

    def global_batches(self) -> Iterator[tuple[list[int], int]]:
        """Yield the rows of each global batch from `start` on, and the rows of a full share."""
        raise NotImplementedError(f"{type(self).__name__} has no global_batches()")

    def __len__(self) -> int:
        return self.batches

    def set_epoch(self, epoch: int) -> None:
        """Begin another epoch at its first batch; the present epoch goes on where it is."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def generator(self) -> torch.Generator:
        """Return the random numbers of this epoch."""
        key = (self.seed, 0 if self.fixed else self.epoch) if self.shuffle else (0,)
        return torch.Generator().manual_seed(hash_seed(*key))

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]
        for rows, full in self.global_batches():
            own = rows[self.rank * full : (self.rank + 1) * full]
            yield Share(own, rows, full, self.epoch)


class BatchOrder(Order):
    """The order of batches that all have the same number of rows.

    Args:
        rows: size of the data set.
        batch_size: rows per process and step.
        drop_last: leave out a last batch that is not full; otherwise the later processes get fewer
            rows than `batch_size` there, or none.
        **options: see `Order`. Without `shuffle` rows stay in order.

    Raises:
        ValueError: `batch_size` is below 1, or there is not one full global batch to train on.
    """

    def __init__(
        self, rows: int, batch_size: int, *, drop_last: bool = True, **options: Any
    ) -> None:
        super().__init__(**options)
        check_at_least(1, batch_size=batch_size)
        if drop_last and rows < batch_size * self.processes:
            raise ValueError(
                f"batch_size {batch_size} times {self.processes} processes is more than the "
                f"{rows} rows"
            )
        self.rows, self.batch_size, self.drop_last = rows, batch_size, drop_last

    @property
    def batches(self) -> int:
        """Global batches of an epoch."""
        size = self.batch_size * self.processes
        return self.rows // size if self.drop_last else math.ceil(self.rows / size)

    def permutation(self) -> torch.Tensor:
        """Return this epoch's order of all rows."""
        if not self.shuffle:
            return torch.arange(self.rows)
        return torch.randperm(self.rows, generator=self.generator())

    def global_batches(self) -> Iterator[tuple[list[int], int]]:
        """Yield the rows of each global batch from `start` on, and the rows of a full share."""
        order, size = self.permutation(), self.batch_size * self.processes
        for batch in range(self.start, self.batches):
            yield order[batch * size : (batch + 1) * size].tolist(), self.batch_size


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
    begin(order, trainer)
    return order


def begin(order: Order, trainer: Any) -> None:
    """Let an order begin at the trainer's present epoch and step."""
    if trainer:
        order.epoch, order.start = position(trainer, len(order))
        order.fixed = bool(getattr(trainer, "overfit_batches", 0))


def order_once(trainer: Any, rows: int, batch_size: int) -> BatchOrder:
    """Return the order of a validation: every row once, not shuffled."""
    rank, processes = place_among_processes(trainer)
    how: dict[str, Any] = {"shuffle": False, "drop_last": False}
    return BatchOrder(rows, batch_size, rank=rank, processes=processes, **how)


def place_among_processes(trainer: Any) -> tuple[int, int]:
    """Return the number of this process and the number of processes."""
    return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)


def batches(
    data: Dataset[Any], order: Order, workers: int, pin_memory: bool = False
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
