"""Fewer timesteps than the schedule has (Lin et al. 2024, arXiv:2305.08891, table 2)."""

from dlreview.messages import check_known

SPACINGS = ("leading", "trailing", "linspace")


def choose_timesteps(T: int, steps: int, spacing: str, offset: int = 0) -> list[int]:
    """Choose `steps` of the timesteps 0..T-1, descending, rounded as diffusers does.

    "leading" contains 0, "trailing" T - 1, "linspace" both. `offset`, diffusers' `steps_offset`,
    is added to the timesteps of "leading". For a few numbers of steps (61 of 1000) diffusers'
    "trailing" has, by rounding, one timestep too many, -1; ours has not.

    Raises:
        ValueError: `steps` is not in 1..T, `spacing` unknown, or a timestep plus `offset` is not
            in 0..T-1.
    """
    check_known("spacing", spacing, SPACINGS)
    if not 1 <= steps <= T:
        raise ValueError(f"steps must be in 1..{T}, got {steps}")
    if spacing == "leading":
        stride = T // steps
        largest = T - 1 - (steps - 1) * stride
        if not 0 <= offset <= largest:
            raise ValueError(f"offset must be in 0..{largest}, got {offset}")
        return [k * stride + offset for k in reversed(range(steps))]
    if spacing == "trailing":
        gap = T - (T - T / steps)  # as numpy.arange rounds it, which decides ties
        return [round(T - k * gap) - 1 for k in range(steps)]
    gap = (T - 1) / max(steps - 1, 1)
    return [round(k * gap) for k in reversed(range(steps))]
