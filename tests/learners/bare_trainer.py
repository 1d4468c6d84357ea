"""A trainer that trains and does nothing else: no logs, no checkpoints, no progress bar."""

from typing import Any

from lightning.pytorch import Trainer


def trainer(folder: Any, **options: Any) -> Trainer:
    """Make one that keeps its pictures in `folder`, of one epoch by default."""
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        **{"max_epochs": 1} | options,
    )
