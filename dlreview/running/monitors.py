"""Callbacks that watch a metric: one that nobody logs is told before it is waited for in vain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from dlreview.learners.learner import Learner
from dlreview.messages import UserError, nearest


class Monitors(Callback):
    """Compares what callbacks watch with what is logged, before they look themselves.

    Metrics of the validation are known after one batch of it, before training (Lightning's sanity
    check); those of the training are known when the first epoch ends.

    Args:
        callbacks: the recipe's.
    """

    def __init__(self, callbacks: list[Any]) -> None:
        self.watched = list(watched(callbacks))

    def sanity_steps(self, learner: type | None) -> int:
        """Return how many batches to validate before training: 1 where a metric is in doubt."""
        sure: set[str] = set()
        if learner is not None and issubclass(learner, Learner):
            sure = {"val/loss", learner.monitor[0]}
        return int(any(metric not in sure and _of_validation(metric) for _, metric in self.watched))

    def check_validation(self, trainer: Trainer, learner: LightningModule, data: Any) -> None:
        """Refuse to wait for a metric of the validation where there is no validation.

        Raises:
            UserError: names the callback and the metric.
        """
        validates = trainer.limit_val_batches and any(
            "val_dataloader" in vars(cls)
            for part in (learner, data)
            for cls in type(part).__mro__
            if not cls.__module__.startswith("lightning.")
        )
        for callback, metric in self.watched:
            if _of_validation(metric) and not validates:
                problem = f"{callback} watches {metric!r}, and nothing is validated"
                raise UserError("trainer.callbacks", problem, "watch train/loss, or validate")

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the metrics of the validation.

        Raises:
            UserError: one is not logged.
        """
        self._check(trainer, of_validation=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check them again where a resumed run skipped the sanity check.

        Raises:
            UserError: one is not logged.
        """
        if not trainer.sanity_checking:
            self._check(trainer, of_validation=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the metrics of the training.

        Raises:
            UserError: one is not logged.
        """
        self._check(trainer, of_validation=False)

    def _check(self, trainer: Trainer, of_validation: bool) -> None:
        for callback, metric in self.watched:
            if _of_validation(metric) is of_validation and metric not in trainer.callback_metrics:
                problem = f"{callback} watches {metric!r}, which is not logged"
                hint = nearest(metric, trainer.callback_metrics)
                raise UserError("trainer.callbacks", problem, hint)


def watched(callbacks: list[Any]) -> Iterator[tuple[str, str]]:
    """Give (name of the callback, metric) of each callback that cannot do without its metric."""
    for callback in callbacks:
        metric = getattr(callback, "monitor", None)
        if isinstance(metric, str) and getattr(callback, "strict", True):
            yield type(callback).__name__, metric


def _of_validation(metric: str) -> bool:
    return metric.startswith("val")
