import diffusers
import pytest
import torch

from dlreview.samplers import Schedule, ddim, ddpm
from tests.samplers.test_ddpm import (
    EXACT,
    PREDICTS,
    SCHEDULES,
    T,
    assert_same_steps,
    best_eps,
    generator,
    net,
    start,
)


def theirs(s, **config):
    """Return their scheduler with our tables: its own are float32."""
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=s.T, **config)
    scheduler.alphas_cumprod = s.alpha_bar
    scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    return scheduler


def their_steps(scheduler, steps, x, eta):
    scheduler.set_timesteps(steps)
    draws, seen = generator(), []
    for t in scheduler.timesteps:
        prediction = net(x, t.repeat(len(x)))
        out = scheduler.step(prediction, int(t), x, eta=eta, generator=draws)
        x = out.prev_sample
        seen.append((int(t), x, out.pred_original_sample))
    return seen


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", PREDICTS)
@pytest.mark.parametrize("eta", [0, 0.5, 1])
@pytest.mark.parametrize("clip", [None, 0.8])
@pytest.mark.parametrize("steps", [1, 5, 7, T])
def test_every_step_is_that_of_diffusers(schedule, kind, eta, clip, steps):
    s = SCHEDULES[schedule]
    scheduler = theirs(
        s,
        prediction_type=PREDICTS[kind],
        clip_sample=clip is not None,
        clip_sample_range=clip or 1.0,
    )
    others, ours = their_steps(scheduler, steps, start(), eta), []
    final = ddim.sample(
        net,
        start(),
        s,
        steps,
        eta,
        kind=kind,
        clip=clip,
        generator=generator(),
        callback=lambda *seen: ours.append(seen),
    )
    # Without clipping the first estimates of x_0 in the cosine schedule are of order 1e4.
    scale = max(1.0, *(x0.abs().max().item() for _, _, x0 in others))
    assert_same_steps(ours, others, {"rtol": 1e-10, "atol": 1e-10 * scale})
    assert torch.equal(final, ours[-1][1])


@pytest.mark.parametrize("eta", [0, 1])
@pytest.mark.parametrize(
    "spacing, offset", [("trailing", 0), ("linspace", 0), ("leading", 1), ("leading", 3)]
)
@pytest.mark.parametrize("steps", [3, 5, 7])
def test_other_spacings(eta, spacing, offset, steps):
    s = SCHEDULES["linear"]
    scheduler = theirs(s, clip_sample=False, timestep_spacing=spacing, steps_offset=offset)
    others, ours = their_steps(scheduler, steps, start(), eta), []
    ddim.sample(
        net,
        start(),
        s,
        steps,
        eta,
        spacing=spacing,
        offset=offset,
        generator=generator(),
        callback=lambda *seen: ours.append(seen),
    )
    assert_same_steps(ours, others)


@pytest.mark.parametrize("eta", [0, 0.5, 1])
@pytest.mark.parametrize("clip", [None, 0.8])
def test_one_step(eta, clip):
    s, steps = SCHEDULES["cosine"], 6
    scheduler = theirs(s, clip_sample=clip is not None, clip_sample_range=clip or 1.0)
    scheduler.set_timesteps(steps)
    x, eps, z = start(1), start(2), start(3)
    for t in range(T - 1):
        t_next = max(t - T // steps, -1)
        other = scheduler.step(eps, t, x, eta, variance_noise=z).prev_sample
        ours = ddim.step(x, eps, t, t_next, s, eta, z, clip)
        torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-9)  # x_0 is of order 10


def test_eta_one_is_ddpm():
    """With eta 1 each single step is row 81 with the small variance."""
    s, x, eps, z = SCHEDULES["linear"], start(1), start(2), start(3)
    for t in range(T):
        for clip in (None, 0.8):
            # DDIM keeps eps when x_0 is clipped, DDPM does not.
            clean = s.to_x0(eps, x, t, "eps")
            inside = clip is None or clean.abs().max() < clip
            ours, other = (
                ddim.step(x, eps, t, t - 1, s, 1, z, clip),
                ddpm.step(x, eps, t, s, z, clip=clip),
            )
            assert torch.allclose(ours, other, **EXACT) == (inside or t == 0)


def test_the_comparison_catches_mistakes():
    s, x, eps, z = SCHEDULES["linear"], start(1), start(2), start(3)
    right = ddim.step(x, eps, 9, 4, s, 0.5, z)
    for wrong in (
        ddim.step(x, eps, 9, 4, s, 0.5 + 1e-6, z),
        ddim.step(x, eps, 9, 5, s, 0.5, z),
        ddim.step(x, eps, 10, 4, s, 0.5, z),
        ddim.step(x, eps, 9, 4, s),
        ddim.step(x, eps, 9, 4, s, 0.5, z, clip=1),
    ):
        assert (wrong - right).abs().max() > 1e-8


def test_gaussian_data_come_back_by_a_deterministic_map():
    """Without noise x_T moves to the point of the data distribution at the same quantile."""
    s = Schedule.linear(2000, 5e-5, 0.01)
    m, spread = -0.7, 0.5
    noise = torch.linspace(-3, 3, 9, dtype=torch.float64)
    errors = []
    for steps in (20, 200, 2000):
        x0 = ddim.sample(lambda x, t: best_eps(x, t, s, m, spread**2), noise, s, steps)
        errors.append((x0 - (m + spread * noise)).abs().max().item())
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 0.01


def test_without_noise_a_step_can_be_undone():
    s, x, eps = SCHEDULES["linear"], start(1), start(2)
    for t, t_next in ((9, 4), (23, 0), (5, 5)):
        there = ddim.step(x, eps, t, t_next, s)
        torch.testing.assert_close(ddim.step(there, eps, t_next, t, s), x, **EXACT)
    x0 = ddim.step(x, eps, 9, -1, s)
    torch.testing.assert_close(s.add_noise(x0, eps, 9), x, **EXACT)


def test_score_networks_and_zero_terminal_signal():
    s, x = SCHEDULES["linear"], start()

    def score(x, t):
        return s.to_score(net(x, t), x, t, "eps")

    by_eps, by_score = ddim.sample(net, x, s, 6), ddim.sample(score, x, s, 6, kind="score")
    torch.testing.assert_close(by_eps, by_score, **EXACT)

    dark = Schedule.from_diffusers(
        diffusers.DDIMScheduler(num_train_timesteps=T, rescale_betas_zero_snr=True)
    )
    for eta in (0, 1):
        scheduler = theirs(
            dark, prediction_type="v_prediction", clip_sample=False, timestep_spacing="trailing"
        )
        others = their_steps(scheduler, 6, x, eta)
        ours = ddim.sample(
            net, x, dark, 6, eta, kind="v", spacing="trailing", generator=generator()
        )
        torch.testing.assert_close(ours, others[-1][1], **EXACT)
    with pytest.raises(ValueError, match="alpha_bar is 0 at t 23"):
        ddim.sample(net, x, dark, 6, spacing="trailing")


def test_dtype_generator_and_gradient():
    s, x = SCHEDULES["linear"], start()
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        half = ddim.sample(net, x.to(dtype).requires_grad_(), s, 6, 0.5, generator=generator())
        assert half.dtype == dtype
        assert not half.requires_grad
        assert ddim.step(x.to(dtype), x.to(dtype), 9, 4, s).dtype == dtype
    one, two = (ddim.sample(net, x, s, 6, 0.5, generator=generator()) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(ddim.sample(net, x, s, 6), ddim.sample(net, x, s, 6))
    assert ddim.sample(net, x, Schedule.cosine(100)).shape == x.shape  # 50 steps by default


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda s, x: ddim.step(x, x, T, 3, s), r"t must be in 0\.\.23, got 24"),
        (lambda s, x: ddim.step(x, x, -1, -1, s), r"t must be in 0\.\.23, got -1"),
        (lambda s, x: ddim.step(x, x, 3, -2, s), r"t must be in 0\.\.23, got -2"),
        (lambda s, x: ddim.step(x, x, 3, T, s), r"t must be in 0\.\.23, got 24"),
        (lambda s, x: ddim.step(x, x, 3, 2, s, -0.1, x), "eta must be at least 0, got -0.1"),
        (lambda s, x: ddim.step(x, x, 3, 5, s, 0.5, x), "from t 3 up to t_next 5, got 0.5"),
        (lambda s, x: ddim.step(x, x, 3, 2, s, 3.0, x), "eta 3.0 is too large"),
        (lambda s, x: ddim.step(x, x, 3, 2, s, 1), "noise must be given for eta 1, got None"),
        (lambda s, x: ddim.step(x, x, 3, 2, s, clip=-1), "clip must be above 0, got -1"),
        (lambda s, x: ddim.sample(net, x, s), r"steps must be in 1\.\.24, got 50"),
        (lambda s, x: ddim.sample(net, x, s, 0), r"steps must be in 1\.\.24, got 0"),
        (lambda s, x: ddim.sample(net, x, s, 5, -1), "eta must be at least 0, got -1"),
        (lambda s, x: ddim.sample(net, x, s, 5, kind="noise"), "kind 'noise'"),
        (lambda s, x: ddim.sample(net, x, s, 5, clip=0.0), "clip must be above 0, got 0"),
        (lambda s, x: ddim.sample(net, x, s, 5, spacing="even"), "spacing 'even'"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call(SCHEDULES["linear"], start())
