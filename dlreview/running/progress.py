"""What a run says while it trains: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

SECONDS = 15.0


class ProgressLines(Callback):
    """Prints a line every fifteen seconds, for logs and pipes."""

    def __init__(self) -> None:
        self.latest = self.began = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin counting."""
        self.latest = self.began = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print where the run is."""
        now = time.monotonic()
        if trainer.is_global_zero and now - self.latest >= SECONDS:
            self.latest = now
            shown = {k: v for k, v in trainer.progress_bar_metrics.items() if k != "v_num"}
            numbers = "  ".join(f"{name} {float(value):.4g}" for name, value in shown.items())
            of = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
            print(
                f"{now - self.began:5.0f} s  epoch {trainer.current_epoch + 1}{of}  "
                f"step {trainer.global_step}  {numbers}",
                flush=True,
            )


def progress_bar() -> list[Callback]:
    """Return the callback that suits where stdout goes."""
    return [RichProgressBar() if sys.stdout.isatty() else ProgressLines()]
