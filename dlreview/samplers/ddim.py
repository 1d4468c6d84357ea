"""DDIM sampling: the network of DDPM with any sequence of timesteps and any amount of noise.

Song, Meng, Ermon 2021 (arXiv:2010.02502), equation 12. A step goes from t to any t_next,
x_next = sqrt(alpha_bar_next) x_0 + sqrt(1 - alpha_bar_next - sigma^2) eps + sigma z
with x_0 computed from eps; sigma is `eta` times that of the posterior in row 76. So eta = 0 is
deterministic, and eta = 1 with t_next = t - 1 is the DDPM step of row 81 with the small variance.
"""

import math

import torch

from dlreview.messages import check_at_least
from dlreview.samplers.ddpm import Callback, Clip, Network, clamp, draw_noise, timestep_tensors
from dlreview.samplers.schedule import Samples, Schedule


def step(
    x: Samples,
    eps: Samples,
    t: int,
    t_next: int,
    s: Schedule,
    eta: int | float = 0.0,
    noise: Samples | None = None,
    clip: Clip = None,
) -> Samples:
    """Go from x_t to x_{t_next}; `t_next` = -1 is the end, where alpha_bar is `s.final_alpha_bar`.

    `clip` limits the implied x_0, as in `ddpm.step`, and does not change `eps`. With `eta` 0 a step
    may also go up, t_next > t: such steps encode an image as noise.

    Raises:
        ValueError: `t` is not in 0..T-1, `t_next` not in -1..T-1, `eta` negative, too large, or
            above 0 where t_next is not below t, `noise` None with `eta` above 0, `clip` not
            above 0, or alpha_bar_t is 0.
    """
    signal, direction, sigma = _coefficients(t, t_next, s, eta)
    x0 = clamp(s.to_x0(eps, x, t, "eps"), clip)
    x_next = signal * x0 + direction * eps
    if sigma > 0:
        if noise is None:
            raise ValueError(f"noise must be given for eta {eta}, got None")
        x_next = x_next + sigma * noise
    return x_next.to(x.dtype)


def _coefficients(t: int, t_next: int, s: Schedule, eta: int | float) -> tuple[float, float, float]:
    """Return the factors of x_0, of eps and of z in equation 12."""
    now, after = s.alpha_bar_at(t), s.alpha_bar_at(t_next)
    check_at_least(0, eta=eta)
    if eta > 0 and t_next >= t:
        raise ValueError(f"eta must be 0 for a step from t {t} up to t_next {t_next}, got {eta}")
    sigma = eta * math.sqrt((1 - after) / (1 - now) * (1 - now / after)) if eta > 0 else 0.0  # 16
    rest = 1 - after - sigma**2  # 0 up to rounding if alpha_bar_t is near 0 and eta 1
    if rest < -1e-12:
        raise ValueError(f"eta {eta} is too large: at t {t} it gives a variance of {sigma**2:g}")
    return math.sqrt(after), math.sqrt(max(rest, 0.0)), sigma


@torch.no_grad()
def sample(
    net: Network,
    noise: Samples,
    s: Schedule,
    steps: int = 50,
    eta: int | float = 0.0,
    *,
    kind: str = "eps",
    clip: Clip = None,
    spacing: str = "leading",
    offset: int = 0,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> Samples:
    """Turn x_T = `noise` into data with `steps` calls of the network.

    The network, `kind`, `clip`, `generator` and `callback` are as in `ddpm.sample`. `spacing` and
    `offset` choose the timesteps (`Schedule.timesteps`). As in diffusers each step goes down by
    T // steps: with "leading" this is the next timestep, with other spacings perhaps not if T is
    not divisible by `steps`.

    Raises:
        ValueError: `kind` or `spacing` is unknown, `steps` not in 1..T, `eta` negative or too
            large, `clip` not above 0, or alpha_bar is 0 at a timestep and `kind` is "eps" or
            "score".
    """
    timesteps = s.timesteps(steps, spacing, offset)
    coefficients = [_coefficients(t, max(t - s.T // steps, -1), s, eta) for t in timesteps]
    x = noise.to(torch.promote_types(noise.dtype, torch.float32))
    for t, t_tensor, (signal, direction, sigma) in zip(
        timesteps, timestep_tensors(timesteps, noise), coefficients, strict=True
    ):
        prediction = net(x.to(noise.dtype), t_tensor)
        x0 = clamp(s.to_x0(prediction, x, t, kind), clip)
        eps = s.to_eps(prediction, x, t, kind)
        x = signal * x0 + direction * eps
        if sigma > 0:
            x = x + sigma * draw_noise(noise, generator)
        if callback is not None:
            callback(t, x.to(noise.dtype), x0.to(noise.dtype))
    return x.to(noise.dtype)
