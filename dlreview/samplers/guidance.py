"""Guidance: sample from p(x | y) more or less insistently (rows 89-92 of the review).

Classifier guidance (Dhariwal & Nichol 2021, arXiv:2105.05233) adds the gradient of a classifier of
noisy images to the score. Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) has one
network with and without the condition and extrapolates. Each wrapper makes a `net(x, t)` for the
samplers.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dlreview.samplers.ddpm import Network
from dlreview.samplers.schedule import Samples, Schedule, Timestep


def scale(w: int | float, convention: str = "seed2") -> float:
    """Return the weight s of the conditional side in u + s (c - u).

    Row 91 prints two lines that differ. Its second line, "seed2", has s = w, as diffusers does. Its
    first, p(x | y) p(y | x)^w as in Ho & Salimans ("ho"), has s = 1 + w: w = 0 is no guidance.
    """
    match convention:
        case "seed2":
            return float(w)
        case "ho":
            return 1.0 + w
        case _:
            raise ValueError(
                f"convention {convention!r} is not 'seed2' (s = w) or 'ho' (s = 1 + w)"
            )


def guide(
    unconditional: Samples, conditional: Samples, w: int | float, convention: str = "seed2"
) -> Samples:
    """Row 91: return u + s (c - u), of scores or of any `kind` of prediction alike.

    The kinds are affine in each other at a given x_t and the weights sum to 1, so guiding eps, x0,
    v or the score is the same.
    """
    return unconditional + scale(w, convention) * (conditional - unconditional)


def classifier_free(
    net: Callable[[Samples, Timestep, Tensor], Samples],
    label: Tensor,
    null: int | Tensor,
    w: int | float,
    convention: str = "seed2",
) -> Network:
    """Make `net(x, t)` of a `net(x, t, label)` that was trained with dropped labels (row 91).

    `label` has one entry per sample: a class, or a whole context. `null` stands for no condition:
    a class number, or a tensor that broadcasts against `label`. Both passes run in one batch; where
    s is 1 or 0 only one of them runs.

    Raises:
        ValueError: unknown `convention`; called with another batch size than that of `label`.
    """
    s = scale(w, convention)
    nothing = torch.as_tensor(null, dtype=label.dtype, device=label.device).expand_as(label)
    both = torch.cat([nothing, label])

    def guided(x: Samples, t: Timestep) -> Samples:
        if len(x) != len(label):
            raise ValueError(f"x has {len(x)} samples, label has {len(label)}")
        if s in (0, 1):
            return net(x, t, label if s == 1 else nothing)
        twice = torch.cat([t, t]) if isinstance(t, Tensor) and t.ndim else t
        unconditional, conditional = net(torch.cat([x, x]), twice, both).chunk(2)
        return guide(unconditional, conditional, s)

    return guided


def classifier_score(score: Samples, gradient: Samples, gamma: int | float = 1.0) -> Samples:
    """Row 90: return grad log p(x_t | y) = grad log p(x_t) + gamma grad log p(y | x_t)."""
    return score + gamma * gradient


def classifier_gradient(
    classifier: Callable[[Samples, Timestep], Float[Tensor, "batch classes"]],
    x: Samples,
    t: Timestep,
    label: Int[Tensor, " batch"],
) -> Samples:
    """Row 90: return grad_x log p(y | x_t) of a classifier of noisy images, given its logits."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        chosen = classifier(x, t).log_softmax(-1).gather(-1, label[:, None])
        # Samples do not meet in the classifier, so the gradient of the sum is that of each.
        return torch.autograd.grad(chosen.sum(), x)[0]


def classifier_guided(
    net: Network,
    classifier: Callable[[Samples, Timestep], Float[Tensor, "batch classes"]],
    label: Int[Tensor, " batch"],
    s: Schedule,
    gamma: int | float = 1.0,
    kind: str = "eps",
) -> Network:
    """Make a `net(x, t)` predicting eps of p(x | y) from one that predicts `kind` of p(x) (row 90).

    Works in the score, as the review does; in eps that is Dhariwal & Nichol's algorithm 2.
    """

    def guided(x: Samples, t: Int[Tensor, " batch"]) -> Samples:
        score = s.to_score(net(x, t), x, t, kind)
        score = classifier_score(score, classifier_gradient(classifier, x, t, label), gamma)
        return s.to_eps(score, x, t, "score")

    return guided
