import pytest
import torch

from dlreview.samplers import Schedule, ddim, ddpm, guidance

EXACT = {"atol": 1e-10, "rtol": 1e-10}
KINDS = ["eps", "x0", "v", "score"]
S = Schedule.linear(20, 1e-3, 0.3)
# Data: a mixture of two Gaussians of unit variance in the plane, one per label.
MEANS = torch.tensor([[2.0, 1.0], [-1.0, 0.5]], dtype=torch.float64)
LABEL = torch.tensor([0, 1, 1, 0, 1])
X = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
MOMENT = torch.full((5,), 7)


def log_joint(x, t):
    """Return log p(x_t, y) up to a constant, which are logits of p(y | x_t): x_t has variance 1."""
    centres = S.alpha_bar[t].sqrt()[:, None, None] * MEANS
    return -((x[:, None] - centres) ** 2).sum(-1) / 2


def conditional_score(x, t, label):
    return S.alpha_bar[t].sqrt()[:, None] * MEANS[label] - x


def unconditional_score(x, t):
    shares = log_joint(x, t).softmax(-1)
    return sum(
        shares[:, k, None] * conditional_score(x, t, torch.full((len(x),), k)) for k in (0, 1)
    )


def net(x, t, label):
    """Predict the score with label 2 for no condition."""
    conditional = conditional_score(x, t, label.clamp(max=1))
    return torch.where(label[:, None] == 2, unconditional_score(x, t), conditional)


def test_row_90_bayes():
    """grad log p(x|y) = grad log p(x) + grad log p(y|x), all three in closed form."""
    gradient = guidance.classifier_gradient(log_joint, X, MOMENT, LABEL)
    ours = guidance.classifier_score(unconditional_score(X, MOMENT), gradient)
    torch.testing.assert_close(ours, conditional_score(X, MOMENT, LABEL), **EXACT)
    stronger = guidance.classifier_score(unconditional_score(X, MOMENT), gradient, 3.0)
    torch.testing.assert_close(stronger - ours, 2 * gradient, **EXACT)


def test_row_90_gradient_of_a_batch_is_that_of_each_sample():
    with torch.no_grad():
        together = guidance.classifier_gradient(log_joint, X, MOMENT, LABEL)
    for i in range(5):
        one = slice(i, i + 1)
        alone = guidance.classifier_gradient(log_joint, X[one], MOMENT[one], LABEL[one])
        torch.testing.assert_close(together[one], alone, **EXACT)
    assert not together.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_row_90_network(kind):
    def unconditional(x, t):
        return getattr(S, f"to_{kind}")(unconditional_score(x, t), x, t, "score")

    guided = guidance.classifier_guided(unconditional, log_joint, LABEL, S, kind=kind)
    wanted = S.to_eps(conditional_score(X, MOMENT, LABEL), X, MOMENT, "score")
    torch.testing.assert_close(guided(X, MOMENT), wanted, **EXACT)
    # Algorithm 2 of Dhariwal & Nichol: eps - sqrt(1 - alpha_bar) gamma grad log p(y|x).
    guided = guidance.classifier_guided(unconditional, log_joint, LABEL, S, 2.5, kind)
    eps = S.to_eps(unconditional_score(X, MOMENT), X, MOMENT, "score")
    gradient = guidance.classifier_gradient(log_joint, X, MOMENT, LABEL)
    wanted = eps - (1 - S.alpha_bar[7]).sqrt() * 2.5 * gradient
    torch.testing.assert_close(guided(X, MOMENT), wanted, **EXACT)


def test_row_91_two_conventions():
    u, c = torch.randn(2, 3, 4, dtype=torch.float64)
    for w in (0, 0.5, 1, 3.0):
        printed = u + w * (c - u)
        torch.testing.assert_close(guidance.guide(u, c, w), printed, **EXACT)
        ho = (1 + w) * c - w * u  # Ho & Salimans 2022, equation 6
        torch.testing.assert_close(guidance.guide(u, c, w, "ho"), ho, **EXACT)
        torch.testing.assert_close(guidance.guide(u, c, w + 1), ho, **EXACT)
    assert guidance.scale(3) == 3
    assert guidance.scale(3, "ho") == 4


@pytest.mark.parametrize("w", [0.5, 2.0])
def test_row_91_erratum_the_first_line_is_the_score_of_ho(w):
    """p(x|y) p(y|x)^w, the review's first line, differentiated on the mixture."""
    x = X.clone().requires_grad_()
    joint = log_joint(x, MOMENT).gather(1, LABEL[:, None])
    posterior = log_joint(x, MOMENT).log_softmax(-1).gather(1, LABEL[:, None])
    (first_line,) = torch.autograd.grad((joint + w * posterior).sum(), x)
    u, c = unconditional_score(X, MOMENT), conditional_score(X, MOMENT, LABEL)
    torch.testing.assert_close(guidance.guide(u, c, w, "ho"), first_line, **EXACT)
    assert not torch.allclose(guidance.guide(u, c, w, "seed2"), first_line)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_91_93_guiding_any_kind_is_the_same(kind):
    scores = unconditional_score(X, MOMENT), conditional_score(X, MOMENT, LABEL)
    u, c = (getattr(S, f"to_{kind}")(score, X, MOMENT, "score") for score in scores)
    guided = S.to_score(guidance.guide(u, c, 2.5), X, MOMENT, kind)
    torch.testing.assert_close(guided, guidance.guide(*scores, 2.5), **EXACT)


@pytest.mark.parametrize("w, convention, batch", [(2.5, "seed2", 10), (1.5, "ho", 10)])
def test_one_batch_for_both_passes(w, convention, batch):
    calls = []

    def seen(x, t, label):
        calls.append(len(x))
        assert t is MOMENT[0] or len(t) == len(x)
        t = t.expand(len(x)) if t.ndim == 0 else t
        return net(x, t, label)

    guided = guidance.classifier_free(seen, LABEL, 2, w, convention)
    u, c = unconditional_score(X, MOMENT), conditional_score(X, MOMENT, LABEL)
    wanted = guidance.guide(u, c, 2.5)
    torch.testing.assert_close(guided(X, MOMENT), wanted, **EXACT)
    assert calls == [batch]


@pytest.mark.parametrize(
    "w, convention, wanted",
    [
        (1, "seed2", "conditional"),
        (0.0, "ho", "conditional"),
        (0, "seed2", "unconditional"),
        (-1.0, "ho", "unconditional"),
    ],
)
def test_no_second_pass_where_it_has_no_weight(w, convention, wanted):
    calls = []

    def seen(x, t, label):
        calls.append(label.tolist())
        return net(x, t, label)

    result = guidance.classifier_free(seen, LABEL, 2, w, convention)(X, MOMENT)
    if wanted == "conditional":
        torch.testing.assert_close(result, conditional_score(X, MOMENT, LABEL), **EXACT)
        assert calls == [LABEL.tolist()]
    else:
        torch.testing.assert_close(result, unconditional_score(X, MOMENT), **EXACT)
        assert calls == [[2] * 5]


def test_a_condition_may_be_a_sequence():
    context, null = (
        torch.randn(5, 3, 2, dtype=torch.float64),
        torch.randn(3, 2, dtype=torch.float64),
    )

    def mixing(x, t, context):
        return x + context.mean(1) * t[:, None]

    guided = guidance.classifier_free(mixing, context, null, 4.0)
    wanted = X + 7 * (null.mean(0) + 4 * (context.mean(1) - null.mean(0)))
    torch.testing.assert_close(guided(X, MOMENT), wanted, **EXACT)


def test_row_92_guided_sampling_moves_to_the_label():
    noise = torch.randn(400, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    label = torch.arange(400) % 2
    between = (MEANS[0] - MEANS[1]) / (MEANS[0] - MEANS[1]).norm()

    def spread_and_distance(w):
        guided = guidance.classifier_free(net, label, 2, w)
        generator = torch.Generator().manual_seed(2)
        x = ddpm.sample(guided, noise, S, kind="score", generator=generator)
        along = (x @ between) * torch.where(label == 0, 1, -1)
        return along[label == 0].std().item(), along[label == 0].mean().item()

    spreads, distances = zip(*(spread_and_distance(w) for w in (0, 1, 3)), strict=True)
    assert spreads[0] > spreads[1] > spreads[2]  # less diverse
    assert distances[0] < distances[1] < distances[2]  # more of the label
    assert distances[1] == pytest.approx((MEANS[0] @ between).item(), abs=0.25)
    x = ddim.sample(guidance.classifier_free(net, label, 2, 1), noise, S, 20, kind="score")
    # Without noise the error in the mean of x_T, 0 instead of sqrt(alpha_bar) m, remains.
    mean = (1 - S.alpha_bar[-1].sqrt()) * MEANS[0]
    assert x[label == 0].mean(0).tolist() == pytest.approx(mean.tolist(), abs=0.25)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: guidance.guide(X, X, 1.0, "diffusers"), "convention 'diffusers'"),
        (lambda: guidance.scale(1.0, ""), "convention ''"),
        (lambda: guidance.classifier_free(net, LABEL, 2, 1.0, "seed"), "convention 'seed'"),
        (
            lambda: guidance.classifier_free(net, LABEL, 2, 3.0)(X[:3], MOMENT[:3]),
            "x must have a sample for each of 5 labels, got 3",
        ),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
