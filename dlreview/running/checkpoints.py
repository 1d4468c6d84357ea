"""Checkpoints that survive SIGKILL, a full disk and Ctrl-C, and resume to the same weights.

A checkpoint says "batch k is done". Lightning knows that state well when it is saved in
`on_train_batch_end`, but the step's log row, a validation and the module's own end-of-batch work
(an EMA teacher, say) come after that hook. So the loops' state is taken there, and everything is
written when the next batch starts: nothing of batch k is then still to come, nothing of batch k + 1
has happened.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging

from dlreview.running.metrics_csv import MetricsCSV

MINUTES = 10.0  # between checkpoints of a long epoch
LAST = "last.ckpt"
PLAIN = (bool, int, float, str, type(None))


class Interrupted(BaseException):
    """Ctrl-C was pressed, and a checkpoint is written."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the final place, syncs, renames: a reader sees the old file or the new one."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write `checkpoint` to `path`.

        Raises:
            OSError: the disk is full or not writable; the earlier file is as it was.
        """
        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        staged = final.with_name(f".{final.name}.tmp")
        try:
            with staged.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            staged.replace(final)
        except BaseException as error:
            with contextlib.suppress(OSError):
                staged.unlink(missing_ok=True)
            # torch's zip writer reports a failed write as a RuntimeError that hides the errno.
            if isinstance(error, RuntimeError) and not isinstance(error, OSError):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(final)) from error
            raise


class Checkpoints(Callback):
    """Writes `last.ckpt` at the end of each epoch, every ten minutes, every N steps, on Ctrl-C.

    Args:
        folder: where `last.ckpt` goes.
        every: write every so many optimizer steps too.
        metrics: the log whose rows belong to the state.
    """

    def __init__(self, folder: Path, every: int | None, metrics: MetricsCSV) -> None:
        self.folder, self.every, self.metrics = folder, every, metrics
        self.interrupted = False
        self.on_signal: Any = None
        """Handler of SIGTERM, which Lightning would take for a reason to leave at once."""
        self.done: list[int | None] = []
        """The limits at which the training came to its end."""
        self.began = False
        """Whether a batch was begun in this process."""
        self.stepped = False
        """Whether a batch was trained on in this process."""
        self.about: dict[str, Any] = {}
        """Configuration and usage of the networks, so that an unfinished run can be loaded."""
        self._loops: dict[str, Any] | None = None
        self._latest_time = time.monotonic()
        self._latest_step = 0

    @property
    def path(self) -> Path:
        """Where the checkpoint is."""
        return self.folder / LAST

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin counting from the present step; Lightning has set its signal handlers by now."""
        if self.on_signal is not None and "SLURM_JOB_ID" not in os.environ:  # SLURM may requeue
            signal.signal(signal.SIGTERM, self.on_signal)
        self._latest_time, self._latest_step = time.monotonic(), trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the loops' state (70 microseconds); not between the halves of an optimizer step."""
        self.stepped = True
        refuse_non_finite(trainer, outputs)
        between = not trainer.fit_loop.epoch_loop._should_accumulate()
        self._loops = trainer.fit_loop.state_dict() if between else None

    def _due(self, trainer: Trainer, batch_idx: int) -> bool:
        step = trainer.global_step
        if batch_idx == 0:  # the last batch that is done ended an epoch
            return True
        if self.every and step // self.every > self._latest_step // self.every:
            return True
        wanted = self.interrupted or time.monotonic() - self._latest_time > MINUTES * 60
        if trainer.world_size == 1:
            return wanted
        # Clocks and signals differ between processes; a joint decision costs a round trip.
        return batch_idx % 10 == 0 and trainer.strategy.reduce_boolean_decision(wanted, all=False)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write a checkpoint where one is due."""
        self.began = True
        if self._loops is None or not self._due(trainer, batch_idx):
            return
        self._write(trainer)
        stop = self.interrupted
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            raise Interrupted

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last state, before averaged weights are copied into the network."""
        if self.stepped:
            self.done = [trainer.max_epochs, trainer.max_steps]
            self._loops = self._loops or trainer.fit_loop.state_dict()
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._latest_time, self._latest_step = time.monotonic(), trainer.global_step

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put in the loops' state of the finished batch, and the log's."""
        checkpoint["metrics_csv"] = self.metrics.state()
        checkpoint["dlreview"] = self.about | {"done": self.done}
        for name in ("hyper_parameters", "datamodule_hyper_parameters"):
            values = checkpoint.pop(name, {})  # config.yaml holds all; only plain values are kept
            if plain := {k: v for k, v in values.items() if isinstance(v, PLAIN)}:
                checkpoint[name] = plain
        if self._loops is not None:
            checkpoint["loops"]["fit_loop"] = _canonical(self._loops)
            checkpoint["epoch"] = self._loops["epoch_progress"]["current"]["processed"]

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Drop log rows that the run wrote after this checkpoint; it will write them again."""
        if "metrics_csv" in checkpoint and trainer.is_global_zero:
            self.metrics.restore(checkpoint["metrics_csv"])
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        averages = any(isinstance(callback, WeightAveraging) for callback in callbacks)
        if "current_model_state" in checkpoint and not averages:
            # Lightning has loaded the averages; the optimizer goes with the weights beside them.
            pl_module.load_state_dict(checkpoint["current_model_state"])


def refuse_non_finite(trainer: Trainer, outputs: Any) -> None:
    """Stop when the loss is not finite; on a GPU looked at where metrics are logged.

    Raises:
        ValueError: names the step and the loss.
    """
    step = trainer.global_step
    on_cpu = trainer.strategy.root_device.type == "cpu"
    if not on_cpu and step % max(1, trainer.log_every_n_steps):  # type: ignore[attr-defined]
        return
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    losses = {"loss": loss} if torch.is_tensor(loss) else {}
    if not losses:  # several optimizers: what the module logs is all that is known
        losses = {k: v for k, v in trainer.callback_metrics.items() if k.startswith("train/")}
    for name, value in losses.items():
        if not torch.isfinite(value.detach()).all():
            raise ValueError(
                f"{name} is {float(value.detach().mean())} at step {step}; the last checkpoint is "
                "from before it (a lower rate, gradient clipping or another precision may help)"
            )


def _canonical(loops: dict[str, Any]) -> dict[str, Any]:
    """Say "in the middle of an epoch" in one way only.

    Lightning leaves `ready` and `started` one short when it goes on after an epoch's last batch,
    and would take the next such state for another.
    """
    for progress in (loops["epoch_progress"]["current"], loops["epoch_progress"]["total"]):
        progress["ready"] = progress["started"] = progress["processed"] + 1
        progress["completed"] = progress["processed"]
    # Where the last validation stood is over and done with; a new process starts it afresh.
    validation = loops["epoch_loop.val_loop.batch_progress"]
    for counts in ("current", "total"):
        validation[counts] = dict.fromkeys(validation[counts], 0)
    validation["is_last_batch"] = False
    return loops
