"""A user's own DataLoader in an order that survives a break: a function of (seed, epoch).

The data modules of dlreview have such an order already (`dlreview.data.order`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from dlreview.data.order import Order, position
from dlreview.randomness import hash_seed, seed


class OrderedBatches:
    """The batches of another batch sampler, shuffled by the epoch and begun where a run stands.

    Args:
        batches: the batch sampler; what it draws comes from torch's random numbers.
        trainer: whose epoch and batch it begins with.
    """

    def __init__(self, batches: Any, trainer: Any) -> None:
        self.batches = batches
        self.sampler = self  # where Lightning looks for set_epoch
        self.epoch, self.done = position(trainer, len(batches))
        self.fixed = bool(trainer.overfit_batches)  # the same batches in every epoch

    def __len__(self) -> int:
        return len(self.batches)

    def set_epoch(self, epoch: int) -> None:
        """Begin another epoch from its first batch; naming the present one changes nothing."""
        if epoch != self.epoch:
            self.epoch, self.done = epoch, 0

    def __iter__(self) -> Iterator[Any]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash_seed(seed(), 0 if self.fixed else self.epoch))
            order = list(self.batches)
        return itertools.islice(order, self.done, None)


def keep_order(data: Any, trainer: Any) -> None:
    """Let the training loader of a user's data module go on in the middle of an epoch.

    Several processes share rows out by Lightning's sampler, and a stream has no order to keep:
    these are left as they are.
    """
    if trainer.world_size > 1 or isinstance(data.train_dataloader, Ordered):
        return
    data.train_dataloader = Ordered(data.train_dataloader, trainer)


class Ordered:
    """A `train_dataloader` whose batches are `OrderedBatches`."""

    def __init__(self, make: Any, trainer: Any) -> None:
        self.make, self.trainer = make, trainer

    def __call__(self) -> Any:
        """Make the loader."""
        loader = self.make()
        usual = type(loader) is DataLoader and loader.batch_sampler is not None
        if not usual or isinstance(loader.sampler, Order):
            return loader
        if isinstance(loader.dataset, IterableDataset):
            return loader
        names = ("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn",
                 "multiprocessing_context", "prefetch_factor", "persistent_workers")  # fmt: skip
        same = {name: getattr(loader, name) for name in names}
        batches: Any = OrderedBatches(loader.batch_sampler, self.trainer)
        return DataLoader(loader.dataset, batch_sampler=batches, generator=loader.generator, **same)
