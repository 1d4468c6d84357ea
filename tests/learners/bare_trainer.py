"""A plain Lightning trainer on the CPU: no checkpoints, no progress bar, no logs."""

from typing import Any

from lightning.pytorch import Trainer

QUIET = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "num_sanity_val_steps": 0,
}


def trainer(folder: Any, **options: Any) -> Trainer:
    """Make a trainer that keeps its pictures in `folder`, of one epoch by default."""
    changes = QUIET | {"max_epochs": 1} | options
    return Trainer(default_root_dir=folder, accelerator="cpu", **changes)
