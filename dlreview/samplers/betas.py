"""Common choices of the variances beta_0 ... beta_{T-1} that a noise schedule adds."""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from dlreview.messages import check_at_least

Betas = Float64[Tensor, " T"]


def _check_range(T: int, first: int | float, last: int | float) -> None:
    check_at_least(1, T=T)
    if not 0 < first <= last < 1:
        raise ValueError(f"must be 0 < first <= last < 1, got first {first}, last {last}")


def linear(T: int, first: int | float, last: int | float) -> Betas:
    """Let beta grow linearly (Ho et al. 2020: T = 1000, 1e-4 to 0.02)."""
    _check_range(T, first, last)
    return torch.linspace(first, last, T, dtype=torch.float64)


def scaled_linear(T: int, first: int | float, last: int | float) -> Betas:
    """Let sqrt(beta) grow linearly (Rombach et al. 2022: T = 1000, 0.00085 to 0.012)."""
    _check_range(T, first, last)
    return torch.linspace(first**0.5, last**0.5, T, dtype=torch.float64) ** 2


def cosine(T: int) -> Betas:
    """Let alpha_bar fall as a squared cosine (Nichol & Dhariwal 2021, eq. 17, arXiv:2102.09672).

    The offset is 0.008 and beta at most 0.999: the `squaredcos_cap_v2` of diffusers.
    """
    check_at_least(1, T=T)
    u = torch.arange(T + 1, dtype=torch.float64) / T
    alpha_bar = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)


def from_alpha_bar(alpha_bar: Float64[Tensor, " T"]) -> Betas:
    """Compute beta_t = 1 - alpha_bar_t / alpha_bar_{t-1}."""
    return 1 - alpha_bar / torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
