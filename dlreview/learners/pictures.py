"""Where a learner's pictures go: the run's `pictures/` and every logger that takes images."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import UInt8
from lightning.pytorch import LightningModule
from PIL import Image
from torch import Tensor


def show(learner: LightningModule, name: str, picture: UInt8[Tensor, "height width 3"]) -> None:
    """Write `picture` to pictures/<name>_<step>.png; rank zero only, not before training.

    Raises:
        OSError: the disk is full or not writable.
    """
    if not learner.trainer.is_global_zero or learner.trainer.sanity_checking:
        return
    folder = Path(learner.trainer.default_root_dir) / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{name}_{learner.global_step:06d}.png"
    staged = final.with_name(f".{final.name}")
    image = Image.fromarray(picture.contiguous().numpy())
    image.save(staged, format="PNG")
    staged.replace(final)
    for logger in learner.loggers:
        if hasattr(logger, "log_image"):
            logger.log_image(key=name, images=[image])
