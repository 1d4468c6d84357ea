"""Noise schedules and the formulas that need only them (rows 72-79, 82, 85, 93 of the review).

Ho et al. 2020 (arXiv:2006.11239), equations 2-8. The lecture counts t = 1..T, the code
t = 0..T-1. Notation: beta_t is the variance added at step t, alpha_t = 1 - beta_t,
alpha_bar_t = alpha_0 ... alpha_t; a = sqrt(alpha_bar_t) and b = sqrt(1 - alpha_bar_t), so that
x_t = a x_0 + b eps. In the formulas of a step, `prev` is t - 1, with alpha_bar_prev = 1 at t = 0.
"""

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from einops import reduce
from jaxtyping import Float, Int
from torch import Tensor

from dlreview.messages import check_known
from dlreview.samplers import betas
from dlreview.samplers.diffusers_config import (
    read_betas,
    read_final_alpha_bar,
    scheduler_config,
)
from dlreview.samplers.spacing import choose_timesteps

Samples = Float[Tensor, "batch *shape"]
Timestep = int | Int[Tensor, "#batch"] | Int[Tensor, ""]
KINDS = ("eps", "x0", "v", "score")


class Schedule:
    """A noise schedule: beta, alpha, alpha_bar in float64, and the formulas that need only them.

    A timestep `t` is an int, or an integer tensor with one entry per sample. Results have the dtype
    and device of `x`; the arithmetic is in float32 or wider. With a tensor `t` no call waits for
    the device: tables are copied there at their first eager use and kept.

    At alpha_bar = 0 (zero terminal signal, Lin et al. 2024, arXiv:2305.08891) x0 and v do not
    follow from eps or score: an int `t` raises ValueError, a tensor `t` gives inf or nan for that
    sample. All other conversions hold there too.

    DDIM's last step ends at `final_alpha_bar`: at 1, clean data, or at alpha_bar_0 as Stable
    Diffusion's does (diffusers' `set_alpha_to_one=False`). No other formula uses it.

    Raises:
        ValueError: `beta` is not a vector in (0, 1); only its last entry may be 1. Or
            `final_alpha_bar` is not in alpha_bar_0..1.
    """

    def __init__(
        self, beta: Float[Tensor, " T"] | Sequence[float], final_alpha_bar: int | float = 1.0
    ) -> None:
        beta = torch.as_tensor(beta, dtype=torch.float64).detach().cpu().clone()
        if beta.ndim != 1 or len(beta) == 0:
            raise ValueError(f"beta must be a vector of length T, got shape {tuple(beta.shape)}")
        alpha_bar = torch.cumprod(1 - beta, dim=0)
        prev = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
        # Row 74: 1 > alpha_bar_0 > ... > alpha_bar_{T-1} >= 0.
        if not ((beta > 0) & (beta <= 1) & (alpha_bar < prev)).all():
            raise ValueError(
                "beta must be in (0, 1), and only its last entry may be 1, "
                f"got {beta.min():g} to {beta.max():g}"
            )
        if not (least := alpha_bar[0].item()) <= final_alpha_bar <= 1:
            raise ValueError(f"final_alpha_bar must be in {least:g}..1, got {final_alpha_bar}")
        self.T, self.final_alpha_bar = len(beta), float(final_alpha_bar)
        self.beta: Float[Tensor, " T"] = beta
        self.alpha: Float[Tensor, " T"] = 1 - beta
        self.alpha_bar: Float[Tensor, " T"] = alpha_bar
        alpha, snr, snr_prev = self.alpha, alpha_bar / (1 - alpha_bar), prev / (1 - prev)
        beta_tilde = (1 - prev) / (1 - alpha_bar) * beta
        self._tables = {
            "alpha_bar": alpha_bar,
            "sqrt alpha_bar": alpha_bar.sqrt(),
            "sqrt 1-alpha_bar": (1 - alpha_bar).sqrt(),
            "sqrt alpha": alpha.sqrt(),
            "sqrt beta": beta.sqrt(),
            "beta": beta,
            "beta_tilde": beta_tilde,
            "posterior x0": prev.sqrt() * beta / (1 - alpha_bar),
            "posterior x": alpha.sqrt() * (1 - prev) / (1 - alpha_bar),
            "snr": snr,
            "kl score": (1 - alpha) ** 2 / (2 * beta_tilde * alpha),
            "kl eps": (1 - alpha) ** 2 / (2 * beta_tilde * alpha * (1 - alpha_bar)),
            "kl x0": (snr_prev - snr) / 2,
            "kl v": (snr_prev - snr) / 2 * (1 - alpha_bar),
        }
        self._floats = {name: table.tolist() for name, table in self._tables.items()}
        self._copies: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}

    def __len__(self) -> int:
        return self.T

    def __repr__(self) -> str:
        return f"Schedule(T={self.T}, beta {self.beta[0]:g} to {self.beta[-1]:g})"

    # Ways to make a schedule: the functions of `samplers.betas`.

    @classmethod
    def linear(cls, T: int, first: int | float, last: int | float) -> "Schedule":
        """Let beta grow linearly (Ho et al. 2020: T = 1000, 1e-4 to 0.02)."""
        return cls(betas.linear(T, first, last))

    @classmethod
    def scaled_linear(cls, T: int, first: int | float, last: int | float) -> "Schedule":
        """Let sqrt(beta) grow linearly (Rombach et al. 2022: T = 1000, 0.00085 to 0.012)."""
        return cls(betas.scaled_linear(T, first, last))

    @classmethod
    def cosine(cls, T: int) -> "Schedule":
        """Let alpha_bar fall as a squared cosine (Nichol & Dhariwal 2021, eq. 17)."""
        return cls(betas.cosine(T))

    @classmethod
    def from_alpha_bar(cls, alpha_bar: Float[Tensor, " T"]) -> "Schedule":
        """Make the schedule that has this alpha_bar."""
        return cls(betas.from_alpha_bar(alpha_bar.detach().cpu().double()))

    @classmethod
    def from_diffusers(cls, scheduler: Any) -> "Schedule":
        """Read the noise schedule of any scheduler of diffusers that has `alphas_cumprod`.

        How it draws samples (clipping, spacing, what the network predicts, ...) is no part of the
        schedule: `samplers.sampling_options(scheduler)` gives it as arguments of our samplers.

        Raises:
            ValueError: it has none.
        """
        beta = read_betas(scheduler)
        return cls(beta, read_final_alpha_bar(scheduler, beta))

    def to_diffusers(self) -> dict[str, Any]:
        """Return the arguments with which a scheduler of diffusers has this schedule.

        Raises:
            ValueError: `final_alpha_bar` is neither 1 nor alpha_bar_0.
        """
        return scheduler_config(self.beta, self.final_alpha_bar)

    def respaced(self, timesteps: Sequence[int]) -> "Schedule":
        """Keep alpha_bar at these ascending timesteps only (Nichol & Dhariwal 2021, eq. 19)."""
        alpha_bar = self.alpha_bar[[self._index(t) for t in timesteps]]
        return type(self)(betas.from_alpha_bar(alpha_bar), self.final_alpha_bar)

    # Forward: we DEFINE a mapping from data to noise (row 72).

    def forward_step(self, x_prev: Samples, noise: Samples, t: Timestep) -> Samples:
        """Draw x_t ~ q(x_t | x_{t-1}) = N(sqrt(alpha_t) x_{t-1}, beta_t I) (row 73)."""
        x, z = _widen(x_prev), _widen(noise)
        x_t = self._at("sqrt alpha", t, x) * x + self._at("sqrt beta", t, x) * z
        return x_t.to(x_prev.dtype)

    def add_noise(self, x0: Samples, noise: Samples, t: Timestep) -> Samples:
        """Draw x_t ~ q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I) (row 74)."""
        a, b = self._amplitudes(t, x0)
        return (a * _widen(x0) + b * _widen(noise)).to(x0.dtype)

    def velocity(self, x0: Samples, noise: Samples, t: Timestep) -> Samples:
        """Return v = a eps - b x_0 (Salimans & Ho 2022, arXiv:2202.00512)."""
        a, b = self._amplitudes(t, x0)
        return (a * _widen(noise) - b * _widen(x0)).to(x0.dtype)

    def snr(self, t: Timestep) -> float | Tensor:
        """Return the signal-to-noise ratio alpha_bar_t / (1 - alpha_bar_t)."""
        return self._value("snr", t)

    def prior_matching(self, x0: Samples) -> Float[Tensor, " batch"]:
        """Return KL(q(x_T | x_0) || N(0, I)) of each sample in nats; it is near 0 for large T."""
        rest = self.alpha_bar[-1].item()
        if rest == 0:
            return x0.new_zeros(len(x0))
        terms = rest * _widen(x0) ** 2 - rest - math.log1p(-rest)
        return reduce(terms / 2, "batch ... -> batch", "sum").to(x0.dtype)

    # Four kinds of prediction that determine each other: noise, image, velocity, score (row 93).

    def to_eps(self, prediction: Samples, x: Samples, t: Timestep, kind: str) -> Samples:
        """Turn a prediction of `kind` "eps", "x0", "v" or "score" at x_t into the noise eps."""
        check_known("kind", kind, KINDS)
        p, x_t, (a, b) = _widen(prediction), _widen(x), self._amplitudes(t, x)
        match kind:
            case "eps":
                eps = p
            case "x0":
                eps = (x_t - a * p) / b
            case "v":
                eps = a * p + b * x_t
            case "score":
                eps = -b * p
        return eps.to(x.dtype)

    def to_x0(self, prediction: Samples, x: Samples, t: Timestep, kind: str) -> Samples:
        """Turn a prediction of `kind` at x_t into the clean x_0.

        Raises:
            ValueError: alpha_bar_t is 0 and `kind` is "eps" or "score".
        """
        check_known("kind", kind, KINDS)
        self._check_signal(t, kind, "x0")
        p, x_t, (a, b) = _widen(prediction), _widen(x), self._amplitudes(t, x)
        match kind:
            case "eps":
                x0 = (x_t - b * p) / a
            case "x0":
                x0 = p
            case "v":
                x0 = a * x_t - b * p
            case "score":
                x0 = (x_t + b**2 * p) / a
        return x0.to(x.dtype)

    def to_v(self, prediction: Samples, x: Samples, t: Timestep, kind: str) -> Samples:
        """Turn a prediction of `kind` at x_t into v = a eps - b x_0.

        Raises:
            ValueError: alpha_bar_t is 0 and `kind` is "eps" or "score".
        """
        check_known("kind", kind, KINDS)
        self._check_signal(t, kind, "v")
        p, x_t, (a, b) = _widen(prediction), _widen(x), self._amplitudes(t, x)
        match kind:
            case "eps":
                v = (p - b * x_t) / a
            case "x0":
                v = (a * x_t - p) / b
            case "v":
                v = p
            case "score":
                v = -b * (p + x_t) / a
        return v.to(x.dtype)

    def to_score(self, prediction: Samples, x: Samples, t: Timestep, kind: str) -> Samples:
        """Turn a prediction of `kind` at x_t into the score grad log p(x_t) = -eps / b.

        From x_0 it is -(x_t - a x_0) / b^2; the minus is missing in row 87.
        """
        check_known("kind", kind, KINDS)
        p, x_t, (a, b) = _widen(prediction), _widen(x), self._amplitudes(t, x)
        match kind:
            case "eps":
                score = -p / b
            case "x0":
                score = -(x_t - a * p) / b**2
            case "v":
                score = -a / b * p - x_t
            case "score":
                score = p
        return score.to(x.dtype)

    # Reverse: we LEARN a mapping from noise to data, modelled on q(x_{t-1} | x_t, x_0).

    def posterior_mean(self, x0: Samples, x: Samples, t: Timestep) -> Samples:
        """Return the mean of q(x_{t-1} | x_t, x_0) (row 76).

        sqrt(alpha_bar_prev) beta_t / (1 - alpha_bar_t) x_0
        + sqrt(alpha_t) (1 - alpha_bar_prev) / (1 - alpha_bar_t) x_t
        """
        clean = self._at("posterior x0", t, x) * _widen(x0)
        return (clean + self._at("posterior x", t, x) * _widen(x)).to(x.dtype)

    def posterior_variance(self, t: Timestep) -> float | Tensor:
        """Return beta_tilde_t = (1 - alpha_bar_prev) / (1 - alpha_bar_t) beta_t (row 76)."""
        return self._value("beta_tilde", t)

    def variance(self, t: Timestep, which: str = "small") -> float | Tensor:
        """Return sigma_t^2 (row 81): beta_tilde_t if `which` is "small", beta_t if "large"."""
        check_known("variance", which, ("small", "large"))
        return self._value("beta_tilde" if which == "small" else "beta", t)

    def mean_from_eps(self, x: Samples, eps: Samples, t: Timestep) -> Samples:
        """Return (x_t - (1 - alpha_t) / sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_t) (row 78)."""
        self._check_signal(t, "eps", "the mean")
        beta, b = self._at("beta", t, x), self._at("sqrt 1-alpha_bar", t, x)
        mean = (_widen(x) - beta / b * _widen(eps)) / self._at("sqrt alpha", t, x)
        return mean.to(x.dtype)

    def kl_weight(self, t: Timestep, kind: str = "score") -> float | Tensor:
        """Return w with KL(q(x_{t-1} | x_t, x_0) || p_theta) = w ||prediction error||^2 (row 85).

        For the score w is (1 - alpha_t)^2 / (2 sigma_q^2 alpha_t), sigma_q^2 = beta_tilde_t; for
        x_0 it is half the decrease of the signal-to-noise ratio. It is infinite at t = 0, where the
        loss has the reconstruction term instead, and for eps and score where alpha_t = 0.
        """
        check_known("kind", kind, KINDS)
        return self._value(f"kl {kind}", t)

    def timesteps(self, steps: int, spacing: str = "leading", offset: int = 0) -> list[int]:
        """Choose `steps` of the T timesteps, descending: see `choose_timesteps`."""
        return choose_timesteps(self.T, steps, spacing, offset)

    # Tables.

    def alpha_bar_at(self, t: int) -> float:
        """Return alpha_bar_t as a float; at t = -1, the end, it is `final_alpha_bar`."""
        return self.final_alpha_bar if t == -1 else self._floats["alpha_bar"][self._index(t)]

    def _amplitudes(self, t: Timestep, x: Tensor) -> tuple[float | Tensor, float | Tensor]:
        """Return (a, b) of x_t = a x_0 + b eps."""
        return self._at("sqrt alpha_bar", t, x), self._at("sqrt 1-alpha_bar", t, x)

    def _at(self, name: str, t: Timestep, x: Tensor) -> float | Tensor:
        """Return a table's entry: a float for an int t, else a tensor that broadcasts with x."""
        if not isinstance(t, Tensor):
            return self._floats[name][self._index(t)]
        table = self._table_on(name, x.device, torch.promote_types(x.dtype, torch.float32))
        return table[t][(..., *[None] * (x.ndim - t.ndim))]

    def _value(self, name: str, t: Timestep) -> float | Tensor:
        """Return a table's entry: a float for an int t, else a tensor of the default dtype."""
        if not isinstance(t, Tensor):
            return self._floats[name][self._index(t)]
        return self._table_on(name, t.device, torch.get_default_dtype())[t]

    def _table_on(self, name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
        key = (name, device, dtype)
        if key in self._copies:
            return self._copies[key]
        if torch.compiler.is_compiling():
            # Not kept: a compiled graph may reuse the memory of its tensors.
            return self._tables[name].to(device, dtype, non_blocking=True)
        with torch.inference_mode(False):  # so that a copy made in validation works in training
            self._copies[key] = self._tables[name].to(device, dtype, non_blocking=True)
        return self._copies[key]

    def _index(self, t: int) -> int:
        t = operator.index(t)
        if not 0 <= t < self.T:
            raise ValueError(f"t must be in 0..{self.T - 1}, got {t}")
        return t

    def _check_signal(self, t: Timestep, kind: str, wanted: str) -> None:
        if kind in ("eps", "score") and not isinstance(t, Tensor) and self.alpha_bar_at(t) == 0:
            raise ValueError(
                f"alpha_bar is 0 at t {t}: {wanted} does not follow from kind {kind!r}, "
                "only from 'x0' or 'v'"
            )


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
