"""Ways to draw samples: noise schedules, ddpm, ddim, guidance."""

from dlreview.samplers import ddim, ddpm, guidance
from dlreview.samplers.diffusers_config import sampling_options
from dlreview.samplers.schedule import Schedule
from dlreview.samplers.thresholding import DynamicThreshold

__all__ = ["DynamicThreshold", "Schedule", "ddim", "ddpm", "guidance", "sampling_options"]
