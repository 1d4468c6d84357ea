"""Weights & Biases: offline inside the run directory unless the user asks for more."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Any

ID_FILE = "run-id.txt"


def wandb_logger(where: str, run: Path) -> list[Any]:
    """Return Lightning's logger for `where` ("offline", "online"), or nothing for "off".

    The run's id is kept in wandb/run-id.txt, so that a resumed run is the same run there; only the
    first process talks to W&B, which Lightning's logger sees to.
    """
    if where == "off" or os.environ.get("WANDB_MODE") == "disabled":
        return []
    from lightning.pytorch.loggers import WandbLogger
    from lightning.pytorch.utilities import rank_zero_only

    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_CONSOLE", "off")
    os.environ.setdefault("WANDB_DISABLE_GIT", "true")
    os.environ.setdefault("WANDB_DISABLE_CODE", "true")

    class RunLogger(WandbLogger):
        """Makes its folder and id when the run first logs, not when it is built."""

        @property
        def experiment(self) -> Any:
            if self._experiment is None and not getattr(rank_zero_only, "rank", 0):
                folder = run / "wandb"
                folder.mkdir(parents=True, exist_ok=True)
                kept = folder / ID_FILE
                if not kept.exists():
                    kept.write_text(secrets.token_hex(4))
                self._wandb_init["id"] = kept.read_text().strip()
                self._wandb_init["dir"] = str(run)
                if where == "offline":
                    self._wandb_init["resume"] = None
            return super().experiment

    name = f"{run.parent.name}/{run.name}"
    return [
        RunLogger(
            name=name,
            project="dlreview",
            offline=where == "offline",
            save_dir=str(run),
        )
    ]


def finish(status: int) -> None:
    """Close the run, so that its file is whole, whether training ended well or not."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=status)


def how_to_sync(run: Path) -> str | None:
    """Return the command that sends an offline run to W&B, if there is one to send."""
    folders = sorted((run / "wandb").glob("offline-run-*"))
    return f"wandb sync --append {run / 'wandb'}/offline-run-*" if folders else None
