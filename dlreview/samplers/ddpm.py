"""DDPM sampling, from noise to data one timestep at a time (rows 76-82 of the review).

Ho et al. 2020 (arXiv:2006.11239), algorithm 2. Each step draws from p_theta(x_{t-1} | x_t) =
q(x_{t-1} | x_t, x_theta(x_t, t)): the network's estimate of x_0 replaces x_0. For a network that
predicts eps this is row 81,
x_{t-1} = (x_t - (1 - alpha_t) / sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_t) + sigma_t z.
"""

import math
from collections.abc import Callable

import torch
from einops import repeat
from jaxtyping import Int
from torch import Tensor

from dlreview.samplers.schedule import Samples, Schedule

Network = Callable[[Samples, Int[Tensor, " batch"]], Samples]
Callback = Callable[[int, Samples, Samples], None]
Clip = int | float | Callable[[Samples], Samples] | None


def step(
    x: Samples,
    eps: Samples,
    t: int,
    s: Schedule,
    noise: Samples | None,
    variance: str = "small",
    clip: Clip = None,
) -> Samples:
    """Draw x_{t-1} given x_t, the predicted noise `eps` and new `noise` z (rows 78, 81).

    sigma_t^2 is beta-tilde_t if `variance` is "small", beta_t if "large". `clip` clamps the implied
    x_0 to [-clip, clip]; a function, such as `DynamicThreshold`, is applied to it. At t = 0 no
    noise is added, and `noise` may be None.

    Raises:
        ValueError: `t` is not in 0..T-1, `variance` unknown, `clip` not above 0, `noise` None at
            t > 0, or alpha_bar_t is 0.
    """
    x0 = clamp(s.to_x0(eps, x, t, "eps"), clip)
    if t > 0 and noise is None:
        raise ValueError(f"noise must be given at t {t}, got None")
    return _draw(x0, x, t, s, noise if t > 0 else None, variance)


def _draw(
    x0: Samples, x: Samples, t: int, s: Schedule, noise: Samples | None, variance: str
) -> Samples:
    """Draw x_{t-1} ~ q(x_{t-1} | x_t, x_0), with variance beta-tilde or beta (row 82).

    Without `noise` return the mean.
    """
    mean, sigma = s.posterior_mean(x0, x, t), math.sqrt(s.variance(t, variance))
    return mean if noise is None else (mean + sigma * noise).to(x.dtype)


@torch.no_grad()
def sample(
    net: Network,
    noise: Samples,
    s: Schedule,
    steps: int | None = None,
    *,
    kind: str = "eps",
    variance: str = "small",
    clip: Clip = None,
    spacing: str = "leading",
    offset: int = 0,
    noise_at_end: bool = False,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> Samples:
    """Turn x_T = `noise` into data with `steps` calls of the network; by default T.

    `net(x, t)` predicts `kind`: "eps", "x0", "v" or "score". Its t is an integer tensor with one
    entry per sample, so that a compiled network is not compiled again at each step. `spacing` and
    `offset` choose the timesteps (`Schedule.timesteps`); with fewer than T the schedule is
    `s.respaced`. The last step adds no noise (row 81). diffusers takes for the last only a step
    from t = 0: where the last timestep is above 0 (spacing "trailing", or an offset), it leaves
    noise in its samples if the variance is "large". `noise_at_end` does the same.

    Between steps x is float32 or wider; the network gets the dtype of `noise`. The `generator` may
    be on the CPU for any device. After each step from t, `callback(t, x, x0)` gets the new x and
    the estimate of x_0 from which it was drawn.

    Raises:
        ValueError: `kind`, `variance` or `spacing` is unknown, `steps` not in 1..T, `clip` not
            above 0, or alpha_bar is 0 at a timestep and `kind` is "eps" or "score".
    """
    ascending = s.timesteps(s.T if steps is None else steps, spacing, offset)[::-1]
    respaced = s.respaced(ascending)
    t_tensors = timestep_tensors(ascending, noise)
    x = noise.to(torch.promote_types(noise.dtype, torch.float32))
    for k in reversed(range(len(ascending))):
        prediction = net(x.to(noise.dtype), t_tensors[k])
        x0 = clamp(s.to_x0(prediction, x, ascending[k], kind), clip)
        noisy = k > 0 or (noise_at_end and ascending[0] > 0)
        z = draw_noise(noise, generator) if noisy else None
        x = _draw(x0, x, k, respaced, z, variance)
        if callback is not None:
            callback(ascending[k], x.to(noise.dtype), x0.to(noise.dtype))
    return x.to(noise.dtype)


def clamp(x0: Samples, clip: Clip) -> Samples:
    """Clamp to [-clip, clip], or apply `clip` if it is a function; do nothing if it is None."""
    if clip is None:
        return x0
    if callable(clip):
        return clip(x0)
    if not clip > 0:
        raise ValueError(f"clip must be above 0, got {clip}")
    return x0.clamp(-clip, clip)


def draw_noise(like: Samples, generator: torch.Generator | None) -> Samples:
    """Draw z ~ N(0, I) of the same shape, on the generator's device, then move it."""
    device = like.device if generator is None else generator.device
    z = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=device)
    return z.to(like.device)


def timestep_tensors(timesteps: list[int], x: Samples) -> tuple[Int[Tensor, " batch"], ...]:
    """Return a tensor for each timestep, with one entry per sample; copy to the device only once.

    All entries of a tensor share memory (stride 0), so that a network can see that they are equal.
    """
    column = torch.tensor(timesteps).to(x.device, non_blocking=True)
    return repeat(column, "steps -> steps batch", batch=len(x)).unbind()
