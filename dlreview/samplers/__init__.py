"""Ways to draw samples: noise schedules, ddpm, ddim, guidance."""

from dlreview.samplers import ddim, ddpm, guidance
from dlreview.samplers.schedule import Schedule

__all__ = ["Schedule", "ddim", "ddpm", "guidance"]
