"""Noise schedules in the form of diffusers' schedulers; the library itself is not needed."""

from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from dlreview.samplers.betas import Betas, cosine, from_alpha_bar


def read_betas(scheduler: Any) -> Float64[Tensor, " T"]:
    """Return beta of any scheduler of diffusers that has `alphas_cumprod`.

    Its `betas` are more exact than its float32 `alphas_cumprod`, which are used only if somebody
    has changed them since.

    Raises:
        ValueError: the scheduler has no `alphas_cumprod`.
    """
    alpha_bar, beta = (getattr(scheduler, n, None) for n in ("alphas_cumprod", "betas"))
    if not isinstance(alpha_bar, Tensor):
        raise ValueError(f"scheduler {type(scheduler).__name__} has no tensor alphas_cumprod")
    theirs = alpha_bar.detach().cpu().double()
    if isinstance(beta, Tensor) and beta.shape == alpha_bar.shape:
        beta = beta.detach().cpu().double()
        rounding = len(beta) * torch.finfo(alpha_bar.dtype).eps
        if torch.allclose(torch.cumprod(1 - beta, dim=0), theirs, rtol=rounding, atol=rounding):
            return beta
    return from_alpha_bar(theirs)


def scheduler_config(beta: Betas) -> dict[str, Any]:
    """Return the arguments with which a scheduler of diffusers has this beta, in its float32."""
    T, first, last = len(beta), beta[0].item(), beta[-1].item()
    ends = {"beta_start": first, "beta_end": last}
    even = torch.linspace(first, last, T, dtype=torch.float64)
    even_root = torch.linspace(first**0.5, last**0.5, T, dtype=torch.float64) ** 2
    named: list[tuple[Tensor, dict[str, Any]]] = [
        (even, {"beta_schedule": "linear"} | ends),
        (even_root, {"beta_schedule": "scaled_linear"} | ends),
        (cosine(T), {"beta_schedule": "squaredcos_cap_v2"}),
        (beta, {"trained_betas": beta.tolist()}),
    ]
    config = next(c for known, c in named if torch.allclose(known, beta, rtol=1e-6, atol=0))
    return {"num_train_timesteps": T} | config
