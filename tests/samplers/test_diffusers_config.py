"""Whole loops of diffusers' schedulers, over all settings that change their results."""

import itertools

import diffusers
import numpy as np
import pytest
import torch

from dlreview.samplers import DynamicThreshold, Schedule, ddim, ddpm, sampling_options
from tests.samplers.test_ddpm import T, assert_same_steps, generator, net, start

STEPS = 7
SPACINGS = ("leading", "trailing", "linspace")
PREDICTIONS = ("epsilon", "sample", "v_prediction")
CLIPS = (
    {"clip_sample": False},
    {"clip_sample_range": 0.8},
    {"thresholding": True, "dynamic_thresholding_ratio": 0.7, "sample_max_value": 1.3},
)
DARK = "rescale_betas_zero_snr"
BETAS = {"num_train_timesteps": T, "beta_start": 1e-3, "beta_end": 0.3}


def exact(theirs, s):
    """Give their scheduler our tables: its own are float32."""
    one = torch.ones((), dtype=torch.float64)
    theirs.alphas_cumprod = s.alpha_bar
    if hasattr(theirs, "one"):
        theirs.one = one
    else:
        theirs.final_alpha_cumprod = one if theirs.config.set_alpha_to_one else s.alpha_bar[0]
    return theirs


def their_steps(theirs, x, steps=STEPS, **how):
    theirs.set_timesteps(steps)
    draws, seen = generator(), []
    for t in theirs.timesteps:
        out = theirs.step(net(x, t.repeat(len(x))), int(t), x, generator=draws, **how)
        x = out.prev_sample
        seen.append((int(t), x, out.pred_original_sample))
    return seen


def our_steps(sampler, s, options, x, steps=STEPS, **how):
    seen = []
    options = options | how | {"generator": generator()}
    sampler.sample(net, x, s, steps, **options, callback=lambda *step: seen.append(step))
    return seen


def assert_same_loop(sampler, theirs, **how):
    s, options = Schedule.from_diffusers(theirs), sampling_options(theirs)
    dark, spacing = theirs.config[DARK], options["spacing"]
    if dark and spacing != "leading" and options["kind"] == "eps":
        # At alpha_bar 0 theirs divides by 0, and clips the infinity or goes on with nan.
        with pytest.raises(ValueError, match="alpha_bar is 0 at t 23"):
            our_steps(sampler, s, options, start(), **how)
        return
    others = their_steps(exact(theirs, s), start(), **how)
    scale = max(1.0, *(x0.abs().max().item() for _, _, x0 in others))
    # Theirs has variances of at least 1e-20, so that its last step may add 1e-10 z.
    tolerance = {"rtol": 1e-10, "atol": max(1e-9, 1e-10 * scale)}
    assert_same_steps(our_steps(sampler, s, options, start(), **how), others, tolerance)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("dark", [False, True])
def test_ddim_loops(spacing, prediction, dark):
    config = BETAS | {"timestep_spacing": spacing, "prediction_type": prediction, DARK: dark}
    for clip, offset, to_one in itertools.product(CLIPS, (0, 1), (True, False)):
        change = clip | {"steps_offset": offset, "set_alpha_to_one": to_one}
        for eta in (0, 0.6):
            assert_same_loop(ddim, diffusers.DDIMScheduler(**config, **change), eta=eta)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("dark", [False, True])
def test_ddpm_loops(spacing, prediction, dark):
    config = BETAS | {"timestep_spacing": spacing, "prediction_type": prediction, DARK: dark}
    variances = ("fixed_small", "fixed_small_log", "fixed_large")
    for clip, offset, variance in itertools.product(CLIPS, (0, 1), variances):
        change = clip | {"steps_offset": offset, "variance_type": variance}
        assert_same_loop(ddpm, diffusers.DDPMScheduler(**config, **change))


@pytest.mark.parametrize(
    ("sampler", "kind", "change"),
    [
        (ddim, "DDIMScheduler", {"set_alpha_to_one": False}),
        (ddim, "DDIMScheduler", {"clip_sample": False}),
        (ddim, "DDIMScheduler", CLIPS[1]),
        (ddim, "DDIMScheduler", CLIPS[2]),
        (ddim, "DDIMScheduler", {"steps_offset": 1}),
        (ddim, "DDIMScheduler", {"timestep_spacing": "trailing"}),
        (ddim, "DDIMScheduler", {"prediction_type": "sample"}),
        (ddim, "DDIMScheduler", {DARK: True, "prediction_type": "v_prediction"}),
        (ddpm, "DDPMScheduler", {"variance_type": "fixed_large"}),
        (ddpm, "DDPMScheduler", {"variance_type": "fixed_large", "timestep_spacing": "trailing"}),
    ],
)
def test_no_setting_is_lost(sampler, kind, change):
    """Each setting changes the result, so that the loops above would show that it was dropped."""
    plain, changed = (getattr(diffusers, kind)(**BETAS | c) for c in ({}, change))
    ours = [
        our_steps(sampler, Schedule.from_diffusers(one), sampling_options(one), start())[-1][1]
        for one in (plain, changed)
    ]
    assert (ours[0] - ours[1]).abs().max() > 1e-3


def test_noise_at_end_is_theirs_and_off_by_default():
    theirs = diffusers.DDPMScheduler(
        **BETAS, variance_type="fixed_large", timestep_spacing="trailing", clip_sample=False
    )
    s, options = Schedule.from_diffusers(theirs), sampling_options(theirs)
    noisy = our_steps(ddpm, s, options, start())[-1]
    clean = our_steps(ddpm, s, options | {"noise_at_end": False}, start())[-1]
    assert noisy[0] > 0 and torch.equal(noisy[2], clean[2])
    torch.testing.assert_close(clean[1], clean[2], atol=1e-10, rtol=1e-10)  # x_0 itself
    assert (noisy[1] - noisy[2]).std() > 0.01
    leading = options | {"spacing": "leading"}  # from t = 0 neither adds noise
    last = our_steps(ddpm, s, leading, start())[-1]
    torch.testing.assert_close(last[1], last[2], atol=1e-10, rtol=1e-10)


def test_a_loop_of_a_thousand_float32_betas():
    theirs = diffusers.DDIMScheduler(set_alpha_to_one=False, beta_start=0.01, clip_sample=False)
    s, options = Schedule.from_diffusers(theirs), sampling_options(theirs)
    other = their_steps(theirs, start().float(), steps=10)[-1][1]
    ours = our_steps(ddim, s, options, start().float(), steps=10)[-1][1]
    torch.testing.assert_close(ours, other, atol=1e-4, rtol=1e-4)
    wrong = our_steps(ddim, Schedule(s.beta), options, start().float(), steps=10)[-1][1]
    assert (wrong - other).abs().max() > 1e-3


def test_final_alpha_bar_goes_back_to_diffusers():
    theirs = diffusers.DDIMScheduler(set_alpha_to_one=False)
    s = Schedule.from_diffusers(theirs)
    assert s.final_alpha_bar == s.alpha_bar[0].item() == s.alpha_bar_at(-1)
    assert s.respaced([3, 9]).final_alpha_bar == s.final_alpha_bar
    assert s.to_diffusers()["set_alpha_to_one"] is False
    again = Schedule.from_diffusers(diffusers.DDIMScheduler(**s.to_diffusers()))
    assert again.final_alpha_bar == again.alpha_bar[0].item()
    assert "set_alpha_to_one" not in Schedule(s.beta).to_diffusers()
    theirs.final_alpha_cumprod = torch.tensor(0.99995)
    s = Schedule.from_diffusers(theirs)
    assert s.final_alpha_bar == pytest.approx(0.99995)
    with pytest.raises(ValueError, match=r"final_alpha_bar must be 1 or alpha_bar_0, got 0\.9999"):
        s.to_diffusers()


def test_trained_betas():
    betas = np.linspace(0.01, 0.2, 12)
    theirs = diffusers.DDIMScheduler(num_train_timesteps=12, trained_betas=betas)
    s, options = Schedule.from_diffusers(theirs), sampling_options(theirs)
    others = their_steps(exact(theirs, s), start(), steps=4)
    assert_same_steps(our_steps(ddim, s, options, start(), steps=4), others)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs
@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("EulerDiscreteScheduler", {}, "EulerDiscreteScheduler is not supported; supported: DDPM"),
        ("DPMSolverMultistepScheduler", {}, "DPMSolverMultistepScheduler is not supported"),
        ("PNDMScheduler", {}, "PNDMScheduler is not supported"),
        ("LCMScheduler", {}, "LCMScheduler is not supported"),
        ("DDIMInverseScheduler", {}, "DDIMInverseScheduler is not supported"),
        ("FlowMatchEulerDiscreteScheduler", {}, "FlowMatchEulerDiscreteScheduler is not supp"),
        ("DDPMScheduler", {"variance_type": "learned"}, "variance_type='learned' is not supp"),
        ("DDPMScheduler", {"variance_type": "learned_range"}, "variance_type='learned_range'"),
        # Theirs takes the root of a logarithm below 0.
        ("DDPMScheduler", {"variance_type": "fixed_large_log"}, "variance_type='fixed_large_log'"),
        ("DDPMScheduler", {"prediction_type": "flow"}, "prediction_type='flow' is not supported"),
        ("DDIMScheduler", {"trained_betas": [0.1, 0.2]}, "num_train_timesteps must be 2, the"),
    ],
)
def test_refuses_by_name(kind, config, message):
    with pytest.raises(ValueError, match=message):
        sampling_options(getattr(diffusers, kind)(**config))


@pytest.mark.parametrize("final", [0.5, 1.1])
def test_final_alpha_bar_has_a_range(final):
    with pytest.raises(ValueError, match=rf"final_alpha_bar must be in 0.9\.\.1, got {final}"):
        Schedule([0.1, 0.2], final)


def test_dynamic_threshold():
    x0 = torch.tensor([[0.5, -0.2, 0.1], [4.0, -2.0, 1.0], [1.5, -1.2, 0.0]])
    half = DynamicThreshold(quantile=0.5, largest=1.6)(x0)
    # The medians of |x_0| are 0.2, 2 and 1.2: s is 1, 1.6 and 1.2.
    expected = torch.tensor([[0.5, -0.2, 0.1], [1.0, -1.0, 0.625], [1.0, -1.0, 0.0]])
    torch.testing.assert_close(half, expected)
    torch.testing.assert_close(DynamicThreshold()(x0), x0.clamp(-1, 1))
    for wrong in ({"quantile": 0.0}, {"quantile": 1.5}, {"largest": 0.9}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            DynamicThreshold(**wrong)
