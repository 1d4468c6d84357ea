"""What is random in a step is a function of (seed, epoch, batch, row), and of nothing else.

So a run that was killed goes on with the numbers it would have drawn, no two ranks draw the same
noise, and a row of the global batch meets the same noise whatever the number of processes: every
process draws for the whole global batch from one seed and keeps the rows that are its own.
"""

from __future__ import annotations

import os

import torch
from jaxtyping import Float, Int
from torch import Tensor


def seed() -> int:
    """Return the recipe's `seed_everything`, as Lightning keeps it; 0 outside a run."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def hash_seed(*numbers: int) -> int:
    """Hash integers to one 63-bit seed (splitmix64's finaliser over each in turn)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


class RowRandom:
    """Random numbers for the rows of one process's share of a global batch.

    Args:
        rows: rows of this process.
        device: where the numbers are drawn.
        key: what the numbers depend on beside the recipe's seed: purpose, epoch, batch index.
        rank: which share of the global batch this process has.
        processes: number of shares.
        share: rows of a full share, where this one may be short; by default `rows`.
    """

    def __init__(
        self,
        rows: int,
        device: torch.device,
        key: tuple[int, ...],
        rank: int = 0,
        processes: int = 1,
        share: int | None = None,
    ) -> None:
        share = max(share or rows, rows)  # a user's data may validate in larger batches
        self.device, self.total = device, share * processes
        self.own = slice(rank * share, rank * share + rows)
        self.seed = hash_seed(seed(), *key)
        """The same in all processes: for draws that are hashes of a row's number."""
        self.own_seed = hash_seed(seed(), *key, rank)
        """Of this process alone: for dropout inside a network, say."""
        self.generator = torch.Generator(device).manual_seed(self.seed)

    def normal(self, *shape: int) -> Float[Tensor, "rows ..."]:
        """Draw standard normal numbers, `shape` for each row."""
        size = (self.total, *shape)
        return torch.randn(size, device=self.device, generator=self.generator)[self.own]

    def uniform(self, *shape: int) -> Float[Tensor, "rows ..."]:
        """Draw numbers uniform in [0, 1), `shape` for each row."""
        size = (self.total, *shape)
        return torch.rand(size, device=self.device, generator=self.generator)[self.own]

    def integers(self, high: int) -> Int[Tensor, " rows"]:
        """Draw one integer uniform in 0..high-1 for each row."""
        size = (self.total,)
        return torch.randint(high, size, device=self.device, generator=self.generator)[self.own]
