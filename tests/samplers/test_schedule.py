import os
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from dlreview.samplers import Schedule

KINDS = ["eps", "x0", "v", "score"]
EXACT = {"atol": 1e-10, "rtol": 1e-10}


def close(ours, theirs, **tolerance):
    torch.testing.assert_close(ours, theirs, **(EXACT | tolerance))


def zero_terminal(T=9):
    """alpha_bar falls to exactly 0."""
    return Schedule.from_alpha_bar(torch.linspace(1, 0, T + 1, dtype=torch.float64)[1:])


def truth(s, t, shape=(5, 2, 3), seed=0):
    """Return x_t and the perfect prediction of each kind, by definition from x_0 and eps."""
    generator = torch.Generator().manual_seed(seed)
    x0, eps = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    alpha_bar = s.alpha_bar[t].reshape(-1, *[1] * (len(shape) - 1))
    a, b = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    x = a * x0 + b * eps
    return x, {"eps": eps, "x0": x0, "v": a * eps - b * x0, "score": -(x - a * x0) / b**2}


# Tables.


@pytest.mark.parametrize(
    "ours, config",
    [
        (Schedule.linear(1000, 1e-4, 0.02), {}),
        (Schedule.linear(37, 3e-4, 0.1), {"beta_start": 3e-4, "beta_end": 0.1}),
        (
            Schedule.scaled_linear(1000, 0.00085, 0.012),
            {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
        ),
        (Schedule.cosine(1000), {"beta_schedule": "squaredcos_cap_v2"}),
        (Schedule.cosine(7), {"beta_schedule": "squaredcos_cap_v2"}),
    ],
)
def test_tables_are_those_of_diffusers(ours, config):
    theirs = diffusers.DDPMScheduler(num_train_timesteps=ours.T, **config)
    assert ours.beta.dtype == ours.alpha.dtype == ours.alpha_bar.dtype == torch.float64
    assert ours.beta.shape == ours.alpha.shape == ours.alpha_bar.shape == (len(ours),)
    # Theirs is float32, and alpha_bar a product of up to 1000 roundings.
    close(ours.beta, theirs.betas.double(), atol=1e-7, rtol=1e-6)
    close(ours.alpha_bar, theirs.alphas_cumprod.double(), atol=1e-6, rtol=1e-4)
    close(ours.alpha_bar, torch.cumprod(ours.alpha, 0))


CONFIGS = [
    {},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"beta_schedule": "sigmoid"},
    {"trained_betas": [0.01, 0.03, 0.02, 0.3]},
    {"rescale_betas_zero_snr": True},
    {"beta_schedule": "scaled_linear", "num_train_timesteps": 50, "rescale_betas_zero_snr": True},
]


@pytest.mark.parametrize("config", CONFIGS)
def test_from_diffusers_and_back(config):
    theirs = diffusers.DDPMScheduler(**config)
    ours = Schedule.from_diffusers(theirs)
    assert torch.equal(ours.beta, theirs.betas.double())
    # Theirs is a float32 product of up to 1000 factors.
    close(ours.alpha_bar, theirs.alphas_cumprod.double(), atol=1e-7, rtol=1e-4)
    back = diffusers.DDIMScheduler(**ours.to_diffusers())
    assert len(back.betas) == back.config.num_train_timesteps == ours.T
    close(back.betas, theirs.betas, atol=0, rtol=1e-6)  # float32
    if config.get("rescale_betas_zero_snr"):
        assert ours.alpha_bar[-1] == back.alphas_cumprod[-1] == 0


@pytest.mark.parametrize(
    "ours, named",
    [
        (Schedule.linear(1000, 1e-4, 0.02), "linear"),
        (Schedule.scaled_linear(100, 0.00085, 0.012), "scaled_linear"),
        (Schedule.cosine(100), "squaredcos_cap_v2"),
        (Schedule([0.1, 0.3, 0.2]), None),
        (zero_terminal(), None),
    ],
)
def test_to_diffusers_names_known_schedules(ours, named):
    config = ours.to_diffusers()
    assert config.get("beta_schedule") == named
    theirs = diffusers.DDPMScheduler(**config)
    close(theirs.betas.double(), ours.beta, atol=0, rtol=1e-6)  # theirs is float32


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs
@pytest.mark.parametrize(
    "name",
    [
        "DDIMScheduler",
        "DDPMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "LCMScheduler",
        "PNDMScheduler",
        "UniPCMultistepScheduler",
    ],
)
def test_from_any_scheduler_that_has_the_tables(name):
    theirs = getattr(diffusers, name)(beta_schedule="scaled_linear")
    close(
        Schedule.from_diffusers(theirs).alpha_bar,
        theirs.alphas_cumprod.double(),
        atol=1e-7,  # float32
        rtol=1e-4,  # a product of 1000 roundings
    )


def test_from_diffusers_sees_changed_tables():
    ours = Schedule.cosine(20)
    theirs = diffusers.DDPMScheduler(num_train_timesteps=20)
    theirs.alphas_cumprod = ours.alpha_bar
    close(Schedule.from_diffusers(theirs).alpha_bar, ours.alpha_bar)
    # Changed to float64 values of the same schedule: they are more exact than the float32 betas.
    theirs = diffusers.DDPMScheduler(num_train_timesteps=20, beta_schedule="squaredcos_cap_v2")
    theirs.alphas_cumprod = ours.alpha_bar
    close(Schedule.from_diffusers(theirs).alpha_bar, ours.alpha_bar)
    # This class replaces a last alpha_bar of 0 by 2^-24, which is more than the entry before it.
    theirs = diffusers.EulerDiscreteScheduler(rescale_betas_zero_snr=True)
    assert Schedule.from_diffusers(theirs).alpha_bar[-1] == 0
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler has no"):
        Schedule.from_diffusers(diffusers.FlowMatchEulerDiscreteScheduler())


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("T", [1, 7, 30, 50, 1000])
def test_timesteps_are_those_of_diffusers(T, spacing):
    s = Schedule.linear(T, 1e-4, 0.02)
    theirs = diffusers.DDIMScheduler(num_train_timesteps=T, timestep_spacing=spacing)
    for steps in {1, 2, 3, 5, 6, 7, 10, 20, 28, 30, 48, 50, 96, 333, 1000}:
        if steps <= T:
            theirs.set_timesteps(steps)
            # Where T / steps rounds badly theirs adds a step at t = -1.
            assert s.timesteps(steps, spacing) == theirs.timesteps.tolist()[:steps]
            assert len(set(s.timesteps(steps, spacing))) == steps


def test_timesteps_with_offset():
    theirs = diffusers.DDIMScheduler(num_train_timesteps=30, steps_offset=2)
    theirs.set_timesteps(7)
    assert Schedule.cosine(30).timesteps(7, offset=2) == theirs.timesteps.tolist()


# Forward.


@pytest.mark.parametrize(
    "s", [Schedule.linear(30, 1e-3, 0.3), Schedule.cosine(11), zero_terminal()]
)
def test_rows_73_74_markov_chain_has_the_stated_marginal(s):
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    mean, variance = one, zero
    for t in range(s.T):
        factor, added = s.forward_step(one, zero, t), s.forward_step(zero, one, t) ** 2
        mean, variance = factor * mean, factor**2 * variance + added
        close(mean, s.add_noise(one, zero, t))
        close(variance, s.add_noise(zero, one, t) ** 2)
    assert (s.alpha_bar.diff() < 0).all()


def test_row_74_and_velocity_equal_diffusers():
    s = Schedule.linear(30, 1e-3, 0.3)
    theirs = diffusers.DDPMScheduler(num_train_timesteps=30)
    theirs.alphas_cumprod = s.alpha_bar  # float64, where theirs is float32
    x0, noise = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    t = torch.tensor([0, 29, 13, 7])
    close(s.add_noise(x0, noise, t), theirs.add_noise(x0, noise, t))
    close(s.velocity(x0, noise, t), theirs.get_velocity(x0, noise, t))
    close(s.velocity(x0, noise, 7)[3], s.velocity(x0, noise, t)[3])


def test_row_77_prior_matching():
    x0 = torch.randn(3, 2, 4, dtype=torch.float64)
    for s in (Schedule.linear(9, 1e-3, 0.1), Schedule.cosine(5), zero_terminal()):
        a, b = s.alpha_bar[-1].sqrt(), (1 - s.alpha_bar[-1]).sqrt()
        exact = kl_divergence(Normal(a * x0, b), Normal(0.0, 1.0)).sum((1, 2))
        close(s.prior_matching(x0), exact)
    values = [Schedule.linear(T, 1e-3, 0.1).prior_matching(x0).max() for T in (10, 100, 1000)]
    assert values[0] > 1 > values[1] > values[2]
    assert values[2] < 1e-10


def test_signal_to_noise_ratio():
    s = zero_terminal()
    t = torch.arange(s.T)
    ratio = s.alpha_bar / (1 - s.alpha_bar)
    close(s.snr(t), ratio.float(), rtol=1e-6)  # float32, the default dtype
    assert s.snr(3) == pytest.approx(ratio[3].item(), rel=1e-14)
    assert s.snr(s.T - 1) == 0


# Conversions, row 93.


@pytest.mark.parametrize("s", [Schedule.linear(30, 1e-3, 0.3), Schedule.cosine(11)])
@pytest.mark.parametrize("given", KINDS)
@pytest.mark.parametrize("wanted", KINDS)
def test_row_93_each_prediction_gives_the_others(s, given, wanted):
    t = torch.tensor([0, s.T - 1, 4, 4, 9])
    x, predictions = truth(s, t)
    convert = getattr(s, f"to_{wanted}")
    # 1 / alpha_bar, up to 4e8 in the cosine schedule, multiplies the rounding.
    wide = {"atol": 1e-14 / s.alpha_bar.min().item() + 1e-12}
    close(convert(predictions[given], x, t, given), predictions[wanted], **wide)
    for i in range(len(t)):
        one = slice(i, i + 1)
        for moment in (int(t[i]), t[i], t[one]):
            result = convert(predictions[given][one], x[one], moment, given)
            close(result, predictions[wanted][one], **wide)


def test_conversions_at_zero_signal():
    s = zero_terminal()
    last = s.T - 1
    x, predictions = truth(s, torch.full((5,), last))
    for given in KINDS:
        for wanted in KINDS:
            convert = getattr(s, f"to_{wanted}")
            # eps and score are functions of x alone there: x0 and v cannot be computed from them.
            if given in ("eps", "score") and wanted in ("x0", "v"):
                with pytest.raises(ValueError, match=rf"t {last}: {wanted} .* kind '{given}'"):
                    convert(predictions[given], x, last, given)
                continue
            for t in (last, torch.full((5,), last)):
                close(convert(predictions[given], x, t, given), predictions[wanted])
    x0 = predictions["x0"]
    close(s.posterior_mean(x0, x, last), s.alpha_bar[-2].sqrt() * x0)
    assert s.posterior_variance(last) == pytest.approx(1 - s.alpha_bar[-2].item())
    with pytest.raises(ValueError, match="alpha_bar is 0"):
        s.mean_from_eps(x, predictions["eps"], last)
    assert s.kl_weight(last, "x0") == pytest.approx(s.snr(last - 1) / 2)
    assert s.kl_weight(last, "v") == pytest.approx(s.snr(last - 1) / 2)
    assert s.kl_weight(last, "eps") == s.kl_weight(last, "score") == float("inf")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("tensor", [False, True])
def test_half_precision_rounds_once(dtype, tensor):
    s = Schedule.linear(1000, 1e-4, 0.02)
    t = torch.full((5,), 700) if tensor else 700
    x, predictions = truth(s, torch.full((5,), 700))
    x, predictions = x.to(dtype), {k: p.to(dtype) for k, p in predictions.items()}
    eps, x0 = predictions["eps"], predictions["x0"]
    calls = {
        f"{given} to {wanted}": (getattr(s, f"to_{wanted}"), predictions[given], x, t, given)
        for given in KINDS
        for wanted in KINDS
    } | {
        "add_noise": (s.add_noise, x0, eps, t),
        "velocity": (s.velocity, x0, eps, t),
        "forward_step": (s.forward_step, x, eps, t),
        "posterior_mean": (s.posterior_mean, x0, x, t),
        "mean_from_eps": (s.mean_from_eps, x, eps, t),
    }
    for name, (function, *arguments) in calls.items():
        result = function(*arguments)
        exact = function(
            *(a.double() if isinstance(a, torch.Tensor) and a is not t else a for a in arguments)
        )
        assert result.dtype == dtype, name
        # Half a unit in the last place of the result; a few for the float32 arithmetic itself,
        # whose cancellation 1 / sqrt(alpha_bar) = 12 multiplies.
        allowed = torch.finfo(dtype).eps * (0.51 if dtype != torch.float32 else 1.0)
        close(result.double(), exact, rtol=allowed, atol=3e-5 if dtype != torch.float32 else 1e-5)


def test_a_copy_made_in_validation_serves_training():
    s = Schedule.cosine(10)
    x, t = torch.randn(3, 2), torch.tensor([1, 5, 9])
    with torch.inference_mode():
        s.to_x0(x, x, t, "v")
    prediction = x.clone().requires_grad_()
    s.to_x0(prediction, x, t, "v").sum().backward()
    close(prediction.grad, -(1 - s.alpha_bar[t]).sqrt().float()[:, None].expand(3, 2), rtol=1e-6)


COMPILED = """
import torch
from dlreview.samplers import Schedule
s, other = Schedule.cosine(20), Schedule.linear(20, 1e-3, 0.1)
x, t, compiled = torch.randn(3, 2, 4), torch.tensor([0, 7, 19]), 0
def count(graph, _):
    global compiled
    compiled += 1
    return graph
def every(s, x, t):
    kinds = ("eps", "x0", "v", "score")
    return [getattr(s, f"to_{b}")(x, x, t, a) for a in kinds for b in kinds] + [
        s.add_noise(x, x, t), s.velocity(x, x, t), s.forward_step(x, x, t),
        s.posterior_mean(x, x, t), s.mean_from_eps(x, x, t), s.posterior_variance(t),
        s.snr(t), s.kl_weight(t)]
run = torch.compile(every, fullgraph=True, backend=count)
for schedule in (s, other):
    for _ in range(2):  # before any eager use, and after
        for moment in (t, t.flip(0)):
            eager = every(Schedule(schedule.beta), x, moment)
            for one, two in zip(run(schedule, x, moment), eager):
                torch.testing.assert_close(one, two)
        every(schedule, x, t)
assert compiled <= 3, compiled
half = run(s, x.bfloat16(), t)
assert half[0].dtype == torch.bfloat16
fixed = torch.compile(lambda x: s.to_x0(x, x, 7, "v"), fullgraph=True, backend=count)
torch.testing.assert_close(fixed(x), s.to_x0(x, x, 7, "v"))
print("same")
"""


def test_compiles_without_a_graph_break():
    # In another process, without the run-time check of shape hints.
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", COMPILED],
        capture_output=True,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert result.stdout.strip() == "same", result.stderr


# Reverse.


@pytest.mark.parametrize(
    "s", [Schedule.linear(30, 1e-3, 0.3), Schedule.cosine(11), zero_terminal()]
)
def test_row_76_posterior_by_bayes(s):
    x0, x = torch.randn(2, 4, 3, dtype=torch.float64)
    for t in range(1, s.T):
        # q(x_t | x_{t-1}) q(x_{t-1} | x_0), a product of two Gaussians in x_{t-1}: precisions add.
        prior, alpha, beta = s.alpha_bar[t - 1], s.alpha[t], s.beta[t]
        precision = 1 / (1 - prior) + alpha / beta
        mean = (prior.sqrt() * x0 / (1 - prior) + alpha.sqrt() * x / beta) / precision
        close(s.posterior_mean(x0, x, t), mean)
        close(s.posterior_mean(x0, x, torch.full((4,), t)), mean)
        assert s.posterior_variance(t) == pytest.approx(1 / precision.item(), rel=1e-12)
        assert s.variance(t, "small") == s.posterior_variance(t) < s.variance(t, "large")
        assert s.variance(t, "large") == beta
    # The last step goes to x_0 itself.
    close(s.posterior_mean(x0, x, 0), x0)
    assert s.posterior_variance(0) == 0


@pytest.mark.parametrize("s", [Schedule.linear(30, 1e-3, 0.3), Schedule.cosine(11)])
def test_row_78_is_the_posterior_mean_in_eps(s):
    x, eps = torch.randn(2, 4, 3, dtype=torch.float64)
    for t in range(s.T):
        x0 = s.to_x0(eps, x, t, "eps")
        close(s.mean_from_eps(x, eps, t), s.posterior_mean(x0, x, t), rtol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_row_85_kl_is_a_weighted_squared_error(kind):
    s = Schedule.linear(30, 1e-3, 0.3)
    for t in (1, 2, 17, 29):
        x, predictions = truth(s, torch.full((5,), t))
        wrong = predictions[kind] + torch.randn_like(x)
        sigma = s.posterior_variance(t) ** 0.5
        q = Normal(s.posterior_mean(predictions["x0"], x, t), sigma)
        p = Normal(s.posterior_mean(s.to_x0(wrong, x, t, kind), x, t), sigma)
        error = (wrong - predictions[kind]) ** 2
        close(kl_divergence(q, p), s.kl_weight(t, kind) * error, rtol=1e-7, atol=1e-8)
    assert s.kl_weight(0, kind) == float("inf")
    weights = torch.tensor([s.kl_weight(t, kind) for t in range(s.T)])
    assert torch.equal(s.kl_weight(torch.arange(s.T), kind), weights)


@pytest.mark.parametrize("m, variance", [(0.0, 1.0), (1.5, 0.09)])
def test_row_87_score_of_gaussian_data_has_the_minus(m, variance):
    s = Schedule.linear(30, 1e-3, 0.3)
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    for t in range(s.T):
        a, b = s.alpha_bar[t].sqrt(), (1 - s.alpha_bar[t]).sqrt()
        total = a**2 * variance + b**2
        # What denoising score matching learns: its target averaged over q(x_0 | x_t).
        x0 = m + a * variance / total * (x - a * m)
        score = s.to_score(x0, x, t, "x0")
        close(score, -(x - a * m) / total)
        close((score[1:] - score[:-1]), (-1 / total).expand(6))  # the slope, x in steps of 1
        printed = (x - a * x0) / b**2
        assert ((printed[1:] - printed[:-1]) > 0).all()  # would climb away from the data


def test_respaced_keeps_alpha_bar():
    s = Schedule.cosine(50)
    kept = [0, 7, 20, 49]
    close(s.respaced(kept).alpha_bar, s.alpha_bar[kept], atol=1e-15)
    assert zero_terminal(9).respaced([3, 8]).alpha_bar[-1] == 0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda s, x: Schedule.linear(0, 1e-4, 0.02), "T must be at least 1, got 0"),
        (lambda s, x: Schedule.cosine(-3), "T must be at least 1, got -3"),
        (lambda s, x: Schedule.linear(5, 0.02, 1e-4), "got first 0.02, last 0.0001"),
        (lambda s, x: Schedule.scaled_linear(5, -0.1, 0.02), "got first -0.1"),
        (lambda s, x: Schedule.linear(5, 0.1, 1.5), "last 1.5"),
        (lambda s, x: Schedule([]), r"beta must be a vector of length T, got shape \(0,\)"),
        (lambda s, x: Schedule([0.1, 1.0, 0.1]), "only its last entry may be 1"),
        (lambda s, x: Schedule([0.1, float("nan")]), "got nan to nan"),
        (lambda s, x: Schedule([0.0, 0.1]), "got 0 to 0.1"),
        (lambda s, x: s.add_noise(x, x, 10), r"t must be in 0\.\.9, got 10"),
        (lambda s, x: s.to_eps(x, x, -1, "v"), r"t must be in 0\.\.9, got -1"),
        (lambda s, x: s.alpha_bar_at(-2), r"t must be in 0\.\.9, got -2"),
        (
            lambda s, x: s.to_eps(x, x, 3, "epsilon"),
            "'epsilon' is unknown; did you mean 'eps'",
        ),
        (lambda s, x: s.to_x0(x, x, 3, "sample"), "kind 'sample'"),
        (lambda s, x: s.to_v(x, x, 3, ""), "kind ''"),
        (lambda s, x: s.to_score(x, x, 3, "V"), "kind 'V'"),
        (lambda s, x: s.kl_weight(3, "y"), "kind 'y'"),
        (lambda s, x: s.variance(3, "fixed_small"), "variance 'fixed_small' is unknown"),
        (lambda s, x: s.timesteps(11), r"steps must be in 1\.\.10, got 11"),
        (lambda s, x: s.timesteps(0), r"steps must be in 1\.\.10, got 0"),
        (lambda s, x: s.timesteps(5, "uniform"), "spacing 'uniform' is unknown"),
        (lambda s, x: s.timesteps(5, offset=2), r"offset must be in 0\.\.1, got 2"),
        (lambda s, x: s.timesteps(5, offset=-1), r"offset must be in 0\.\.1, got -1"),
        (lambda s, x: s.respaced([3, 2]), "beta must be in"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call(Schedule.linear(10, 1e-3, 0.3), torch.randn(2, 3))


def test_a_tensor_t_beyond_the_schedule_is_an_error_on_the_cpu():
    s, x = Schedule.cosine(10), torch.randn(2, 3)
    with pytest.raises(IndexError):
        s.add_noise(x, x, torch.tensor([1, 10]))


def test_repr():
    assert repr(Schedule.linear(1000, 1e-4, 0.02)) == "Schedule(T=1000, beta 0.0001 to 0.02)"
