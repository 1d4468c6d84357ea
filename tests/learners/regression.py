"""A small learner and its data, with which `Learner` and the rates are tested."""

import csv
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

from dlreview.learners.learner import Learner
from tests.learners import bare_trainer

ROWS, BATCH = 12, 4  # three steps an epoch


class Regression(Learner):
    """Fit y by the network's answer to x, with noise on x. Batches are {"x", "y"}."""

    reads = ("x", "y")

    def __init__(self, net: nn.Module | None = None, noise: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.net, self.noise = net or nn.Linear(3, 2), noise

    def loss(self, batch, random):
        x = batch["x"] + self.noise * random.normal(3)
        return (self.net(x) - batch["y"]).square().mean(dim=1)


def rows(count: int = ROWS, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(count, width, generator=generator) for width in (3, 2))
    return [{"x": x[i], "y": y[i]} for i in range(count)]


def stack(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def train(learner, folder: Path, val_rows: int = 5, **options: Any):
    """Train under a plain trainer; return it and what it logged, a list of values by name."""
    run = bare_trainer.trainer(
        folder, logger=CSVLogger(folder, version=""), log_every_n_steps=1, **options
    )
    run.fit(learner, DataLoader(rows(), BATCH), DataLoader(rows(val_rows, seed=1), BATCH))
    logged: dict[str, list[float]] = {}
    with (Path(run.logger.log_dir) / "metrics.csv").open() as file:
        for line in csv.DictReader(file):
            for name, value in line.items():
                if value:
                    logged.setdefault(name, []).append(float(value))
    return run, logged
