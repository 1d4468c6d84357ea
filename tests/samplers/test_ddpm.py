import diffusers
import pytest
import torch

from dlreview.samplers import Schedule, ddpm

EXACT = {"atol": 1e-10, "rtol": 1e-10}
PREDICTS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
T = 24
SCHEDULES = {
    "linear": Schedule.linear(T, 1e-3, 0.3),
    "scaled_linear": Schedule.scaled_linear(T, 1e-3, 0.3),
    "cosine": Schedule.cosine(T),
}


def net(x, t):
    """Depend on x, on its neighbours and on t."""
    t = t.to(x.dtype).reshape(-1, 1, 1)
    return 0.7 * torch.sin(2 * x + 0.1 * t) + 0.3 * x.roll(1, -1) * torch.cos(0.3 * t) + 0.1


def start(seed=0):
    return torch.randn(3, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def generator():
    return torch.Generator().manual_seed(7)


def theirs(s, **config):
    """Return their scheduler with our tables: its own are float32."""
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=s.T, **config)
    scheduler.alphas_cumprod, scheduler.one = s.alpha_bar, torch.ones((), dtype=torch.float64)
    return scheduler


def their_steps(scheduler, steps, x):
    """Return (t, x after the step, x_0) of each step."""
    scheduler.set_timesteps(steps)
    draws, seen = generator(), []
    for t in scheduler.timesteps:
        prediction = net(x, t.repeat(len(x)))
        out = scheduler.step(prediction, int(t), x, generator=draws)
        x = out.prev_sample
        seen.append((int(t), x, out.pred_original_sample))
    return seen


def assert_same_steps(ours, others, tolerance=EXACT):
    assert [t for t, _, _ in ours] == [t for t, _, _ in others]
    for (_, x, x0), (_, y, y0) in zip(ours, others, strict=True):
        torch.testing.assert_close(x, y, **tolerance)
        torch.testing.assert_close(x0, y0, **tolerance)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", PREDICTS)
@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("clip", [None, 0.8])
@pytest.mark.parametrize("steps", [None, 1, 5, 7, 12])
def test_every_step_is_that_of_diffusers(schedule, kind, variance, clip, steps):
    s = SCHEDULES[schedule]
    scheduler = theirs(
        s,
        prediction_type=PREDICTS[kind],
        variance_type=f"fixed_{variance}",
        clip_sample=clip is not None,
        clip_sample_range=clip or 1.0,
    )
    others, ours = their_steps(scheduler, steps or T, start()), []
    final = ddpm.sample(
        net,
        start(),
        s,
        steps,
        kind=kind,
        variance=variance,
        clip=clip,
        generator=generator(),
        callback=lambda *seen: ours.append(seen),
    )
    # Without clipping the first estimates of x_0 in the cosine schedule are of order 1e4.
    scale = max(1.0, *(x0.abs().max().item() for _, _, x0 in others))
    assert_same_steps(ours, others, {"rtol": 1e-10, "atol": 1e-10 * scale})
    assert torch.equal(final, ours[-1][1])


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@pytest.mark.parametrize("steps", [3, 5, 12])
def test_other_spacings(variance, spacing, steps):
    s = SCHEDULES["linear"]
    scheduler = theirs(
        s, variance_type=f"fixed_{variance}", clip_sample=False, timestep_spacing=spacing
    )
    others, ours = their_steps(scheduler, steps, start()), []
    ddpm.sample(
        net,
        start(),
        s,
        steps,
        variance=variance,
        spacing=spacing,
        generator=generator(),
        callback=lambda *seen: ours.append(seen),
    )
    if ours[-1][0] > 0:
        # diffusers takes a step for the last only if it starts at t = 0, and else adds noise to the
        # final sample. Row 81: z = 0 in the step that reaches x_0.
        others[-1] = (others[-1][0], others[-1][2], others[-1][2])
    assert_same_steps(ours, others)


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("clip", [None, 1])
def test_row_81_one_step(variance, clip):
    s = SCHEDULES["linear"]
    scheduler = theirs(s, variance_type=f"fixed_{variance}", clip_sample=clip is not None)
    for t in range(T):
        x, eps = start(1), start(2)
        z = torch.randn(x.shape, dtype=x.dtype, generator=generator())
        ours = ddpm.step(x, eps, t, s, z, variance, clip)
        other = scheduler.step(eps, t, x, generator=generator()).prev_sample
        torch.testing.assert_close(ours, other, **EXACT)
        if clip is None:
            sigma2 = s.beta[t] if variance == "large" else s.posterior_variance(t)
            mean = (x - (1 - s.alpha[t]) / (1 - s.alpha_bar[t]).sqrt() * eps) / s.alpha[t].sqrt()
            row_81 = mean + sigma2**0.5 * z if t > 0 else mean
            torch.testing.assert_close(ours, row_81, **EXACT)
    assert torch.equal(ddpm.step(x, eps, 0, s, None), ddpm.step(x, eps, 0, s, z, "large"))


def test_the_comparison_catches_mistakes():
    s, x, eps, z = SCHEDULES["linear"], start(1), start(2), start(3)
    right = ddpm.step(x, eps, 9, s, z)
    beside = Schedule.linear(T, 1e-3, 0.3 + 1e-6)
    for wrong in (
        ddpm.step(x, eps, 9, s, z, "large"),
        ddpm.step(x, eps, 10, s, z),
        ddpm.step(x, -eps, 9, s, z),
        ddpm.step(x, eps, 9, s, z, clip=1.0),
        ddpm.step(x, eps, 9, beside, z),
    ):
        assert (wrong - right).abs().max() > 1e-8


# Gaussian data x_0 ~ N(m, variance): the best eps is known, every x_t stays Gaussian.


def best_eps(x, t, s, m, variance):
    alpha_bar = s.alpha_bar[t]
    total = alpha_bar * variance + 1 - alpha_bar
    return (1 - alpha_bar).sqrt() / total * (x - alpha_bar.sqrt() * m)


def moments_of_the_chain(s, m, variance, which):
    """Compute the exact mean and variance after all steps, each affine in x and z."""
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    mean = s.alpha_bar[-1].sqrt() * m
    spread = s.alpha_bar[-1] * variance + 1 - s.alpha_bar[-1]
    for t in reversed(range(s.T)):
        at = {
            (x, z): ddpm.step(x, best_eps(x, t, s, m, variance), t, s, z, which)
            for x in (zero, one)
            for z in (zero, one)
        }
        offset = at[zero, zero]
        slope, sigma = at[one, zero] - offset, at[zero, one] - offset
        mean, spread = slope * mean + offset, slope**2 * spread + sigma**2
    return mean.item(), spread.item()


def test_rows_76_81_gaussian_data_come_back_exactly():
    # The true reverse variance is beta for unit-variance data and beta-tilde for a single point.
    for s in SCHEDULES.values():
        mean, spread = moments_of_the_chain(s, 1.5, 1.0, "large")
        assert mean == pytest.approx(1.5, abs=1e-10)
        assert spread == pytest.approx(1.0 - s.beta[0].item(), abs=1e-10)  # z = 0 at the end
        mean, spread = moments_of_the_chain(s, 1.5, 0.0, "small")
        assert (mean, spread) == pytest.approx((1.5, 0.0), abs=1e-10)


def test_rows_76_81_gaussian_data_come_back_with_many_steps():
    errors = []
    for steps in (25, 100, 400):
        s = Schedule.linear(steps, 0.1 / steps, 20 / steps)
        mean, spread = moments_of_the_chain(s, -0.7, 0.25, "small")
        assert mean == pytest.approx(-0.7, abs=1e-9)  # the mean is exact for any variance
        errors.append(abs(spread - 0.25))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.02


def test_rows_80_81_sampling_gives_the_data_distribution():
    s, m, n = Schedule.linear(200, 5e-4, 0.1), 2.0, 20_000
    mean, spread = moments_of_the_chain(s, m, 0.25, "small")
    assert (mean, spread) == pytest.approx((m, 0.25), abs=0.03)
    data, noise = torch.randn(2, n, dtype=torch.float64, generator=generator())
    last = s.add_noise(m + 0.5 * data, noise, s.T - 1)
    samples = ddpm.sample(lambda x, t: best_eps(x, t, s, m, 0.25), last, s, generator=generator())
    # Within five standard errors.
    assert samples.mean().item() == pytest.approx(mean, abs=5 * (spread / n) ** 0.5)
    assert samples.var().item() == pytest.approx(spread, rel=5 * (2 / n) ** 0.5)


def test_score_networks_and_zero_terminal_signal():
    s, x = SCHEDULES["linear"], start()
    by_eps = ddpm.sample(net, x, s, generator=generator())

    def score(x, t):
        return s.to_score(net(x, t), x, t, "eps")

    by_score = ddpm.sample(score, x, s, kind="score", generator=generator())
    torch.testing.assert_close(by_eps, by_score, **EXACT)

    dark = Schedule.from_diffusers(
        diffusers.DDPMScheduler(num_train_timesteps=T, rescale_betas_zero_snr=True)
    )
    for kind in ("v", "x0"):
        others = their_steps(theirs(dark, prediction_type=PREDICTS[kind], clip_sample=False), T, x)
        ours = ddpm.sample(net, x, dark, kind=kind, generator=generator())
        torch.testing.assert_close(ours, others[-1][1], **EXACT)
    with pytest.raises(ValueError, match=r"alpha_bar is 0 at t 23: x0 does not follow .* 'eps'"):
        ddpm.sample(net, x, dark)


def test_the_network_sees_one_timestep_per_sample_and_no_gradient():
    calls = []

    def seen(x, t):
        calls.append(t)
        assert not torch.is_grad_enabled()
        return net(x, t)

    noise = start().requires_grad_()
    result = ddpm.sample(seen, noise, SCHEDULES["linear"], 4)
    assert not result.requires_grad
    assert [t.tolist() for t in calls] == [[18] * 3, [12] * 3, [6] * 3, [0] * 3]
    # Expanded, so that a network can see that all rows have the same t and embed it once.
    assert all(t.dtype == torch.int64 and t.stride() == (0,) for t in calls)
    assert noise.equal(start())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dtype_is_kept_and_steps_are_not_lost_to_rounding(dtype):
    s = Schedule.linear(1000, 1e-4, 0.02)
    m, noise = 0.5, start().to(dtype)

    def predict(x, t):
        assert x.dtype == dtype
        alpha_bar = s.alpha_bar[t].reshape(-1, 1, 1)
        return ((x.double() - alpha_bar.sqrt() * m) / (1 - alpha_bar).sqrt()).to(dtype)

    result = ddpm.sample(predict, noise, s, generator=generator())
    assert result.dtype == dtype
    # All data are at m. The last estimate of x_0 is as exact as x - eps in this dtype.
    torch.testing.assert_close(result.double(), torch.full_like(start(), m), atol=0.02, rtol=0)
    assert ddpm.step(noise, noise, 500, s, noise).dtype == dtype


def test_reproducible_by_generator():
    s, x = SCHEDULES["cosine"], start()
    first, second = (ddpm.sample(net, x, s, generator=generator()) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, ddpm.sample(net, x, s))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda s, x: ddpm.step(x, x, T, s, x), r"t must be in 0\.\.23, got 24"),
        (lambda s, x: ddpm.step(x, x, -1, s, x), r"t must be in 0\.\.23, got -1"),
        (lambda s, x: ddpm.step(x, x, 3, s, None), "noise must be given at t 3, got None"),
        (lambda s, x: ddpm.step(x, x, 3, s, x, "fixed_small"), "variance 'fixed_small'"),
        (lambda s, x: ddpm.step(x, x, 3, s, x, clip=0), "clip must be above 0, got 0"),
        (lambda s, x: ddpm.sample(net, x, s, clip=-1.0), "clip must be above 0, got -1.0"),
        (lambda s, x: ddpm.sample(net, x, s, variance="learned"), "variance 'learned'"),
        (lambda s, x: ddpm.sample(net, x, s, kind="epsilon"), "kind 'epsilon'"),
        (lambda s, x: ddpm.sample(net, x, s, T + 1), r"steps must be in 1\.\.24, got 25"),
        (lambda s, x: ddpm.sample(net, x, s, 0), r"steps must be in 1\.\.24, got 0"),
        (lambda s, x: ddpm.sample(net, x, s, 5, spacing="even"), "spacing 'even'"),
        (lambda s, x: ddpm.sample(net, x, s, offset=1), r"offset must be in 0\.\.0, got 1"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call(SCHEDULES["linear"], start())


@pytest.mark.gpu
def test_nothing_waits_for_the_device():
    s, x = SCHEDULES["linear"], start().float().cuda()
    t = torch.tensor([1, 5, 23], device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        s.add_noise(x, x, t), s.to_x0(x, x, t, "v"), s.kl_weight(t)
        result = ddpm.sample(net, x, s, 5, clip=1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert result.isfinite().all()
    on_cpu = ddpm.sample(net, x.cpu(), s, generator=generator())
    on_gpu = ddpm.sample(net, x, s, generator=generator())
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-4, rtol=1e-4)
