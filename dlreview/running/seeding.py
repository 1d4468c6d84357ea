"""Random numbers of a step depend on (seed, epoch, batch, process) and not on what came before."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from dlreview.randomness import hash_seed, seed

TRAIN = 0  # as in dlreview.learners.learner


class StepSeeds(Callback):
    """Seeds each training step, so that a resumed run of any module draws what it would have."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed Python, NumPy and torch."""
        key = hash_seed(seed(), TRAIN, trainer.current_epoch, batch_idx, trainer.global_rank)
        random.seed(key)
        np.random.seed(key % 2**32)
        torch.manual_seed(key)
