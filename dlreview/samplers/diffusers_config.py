"""Noise schedules and samplers in the form of diffusers' schedulers; it need not be installed."""

from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from dlreview.samplers.betas import Betas, cosine, from_alpha_bar
from dlreview.samplers.thresholding import DynamicThreshold

SAMPLERS = ("DDPMScheduler", "DDIMScheduler")
PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
# Theirs takes the root of "fixed_small_log" in the logarithm; the noise is the same.
VARIANCES = {"fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large"}


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


def read_final_alpha_bar(scheduler: Any, beta: Betas) -> float:
    """Return the alpha_bar at which the last step of DDIM ends, 1 unless the scheduler has another.

    With `set_alpha_to_one=False` it is alpha_bar_0, taken from `beta`, which is more exact.
    """
    final = getattr(scheduler, "final_alpha_cumprod", None)
    if final is None:
        return 1.0
    if float(final) == float(scheduler.alphas_cumprod[0]):
        return 1 - beta[0].item()
    return float(final)


def scheduler_config(beta: Betas, final_alpha_bar: float = 1.0) -> dict[str, Any]:
    """Return the arguments with which a scheduler of diffusers has this schedule, in its float32.

    Raises:
        ValueError: `final_alpha_bar` is neither 1 nor alpha_bar_0.
    """
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
    config = {"num_train_timesteps": T} | config
    if final_alpha_bar == 1:
        return config
    if final_alpha_bar != 1 - first:
        raise ValueError(f"final_alpha_bar must be 1 or alpha_bar_0, got {final_alpha_bar}")
    return config | {"set_alpha_to_one": False}


def sampling_options(scheduler: Any) -> dict[str, Any]:
    """Return the arguments with which our sampler draws as a scheduler of diffusers does.

    They are of `ddpm.sample` for a DDPMScheduler, of `ddim.sample` for a DDIMScheduler; the betas
    and alpha_bar are those of `Schedule.from_diffusers(scheduler)`. The arguments of diffusers'
    pipelines (the number of steps, eta) are no part of a scheduler.

    Raises:
        ValueError: the scheduler is of another class, or an option of it is not supported.
    """
    name = type(scheduler).__name__
    if name not in SAMPLERS:
        raise ValueError(
            f"scheduler {name} is not supported; supported: {', '.join(SAMPLERS)}, which "
            "diffusers makes with .from_config(scheduler.config)"
        )
    config, T = scheduler.config, len(scheduler.betas)
    if config["num_train_timesteps"] != T:
        # Theirs would choose timesteps that have no beta.
        found = config["num_train_timesteps"]
        raise ValueError(f"num_train_timesteps must be {T}, the number of betas, got {found}")
    kinds = {theirs: ours for ours, theirs in PREDICTIONS.items()}
    options = {
        "kind": _translate("prediction_type", config["prediction_type"], kinds),
        "clip": _read_clip(config),
        "spacing": config["timestep_spacing"],
        "offset": config["steps_offset"],
    }
    if name == "DDIMScheduler":
        return options
    variance = _translate("variance_type", config["variance_type"], VARIANCES)
    return options | {"variance": variance, "noise_at_end": True}


def _read_clip(config: Any) -> float | DynamicThreshold | None:
    """Read how theirs limits the estimate of x_0; thresholding comes first."""
    if config["thresholding"]:
        ratio, largest = config["dynamic_thresholding_ratio"], config["sample_max_value"]
        return DynamicThreshold(float(ratio), float(largest))
    return float(config["clip_sample_range"]) if config["clip_sample"] else None


def _translate(field: str, value: Any, names: dict[str, str]) -> str:
    if value not in names:
        raise ValueError(f"{field}={value!r} is not supported; supported: {', '.join(names)}")
    return names[value]
