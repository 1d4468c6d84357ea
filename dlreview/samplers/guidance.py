"""Guidance: sample from p(x | y), with a chosen weight for the condition y (review rows 89-92).

Classifier guidance (Dhariwal & Nichol 2021, arXiv:2105.05233) adds the gradient of a classifier of
noisy images to the score. Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) calls one
network with and without the condition and extrapolates. Each wrapper makes a `net(x, t)` for the
samplers.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dlreview.messages import check_known
from dlreview.samplers.ddpm import Network
from dlreview.samplers.schedule import Samples, Schedule, Timestep

CONVENTIONS = ("seed2", "ho")


def scale(w: int | float, convention: str = "seed2") -> float:
    """Return the weight s of the conditional prediction in u + s (c - u).

    The two lines of row 91 disagree. The second line, "seed2", has s = w, as diffusers does. The
    first, p(x | y) p(y | x)^w as in Ho & Salimans ("ho"), has s = 1 + w: w = 0 is no guidance.

    Raises:
        ValueError: `convention` is neither "seed2" nor "ho".
    """
    check_known("convention", convention, CONVENTIONS)
    return float(w) if convention == "seed2" else 1.0 + w


def guide(
    unconditional: Samples, conditional: Samples, w: int | float, convention: str = "seed2"
) -> Samples:
    """Return u + s (c - u) (row 91), for scores or for any other `kind` of prediction.

    At a given x_t each kind is an affine function of every other, and the weights sum to 1, so that
    guided eps, x0, v and scores are equivalent.
    """
    return unconditional + scale(w, convention) * (conditional - unconditional)


def classifier_free(
    net: Callable[[Samples, Timestep, Tensor], Samples],
    label: Tensor,
    null: int | Tensor,
    w: int | float,
    convention: str = "seed2",
) -> Network:
    """Make a `net(x, t)` from a `net(x, t, label)` that was trained with dropped labels (row 91).

    `label` has one entry per sample: a class, or a whole context. `null` is the label that means no
    condition: a class number, or a tensor that broadcasts against `label`. Both passes run in one
    batch; if s is 1 or 0 only one of them runs.

    Raises:
        ValueError: unknown `convention`; called with another batch size than that of `label`.
    """
    s = scale(w, convention)
    null_label = torch.as_tensor(null, dtype=label.dtype, device=label.device).expand_as(label)
    both_labels = torch.cat([null_label, label])

    def guided(x: Samples, t: Timestep) -> Samples:
        if len(x) != len(label):
            raise ValueError(f"x must have a sample for each of {len(label)} labels, got {len(x)}")
        if s in (0, 1):
            return net(x, t, label if s == 1 else null_label)
        both_t = torch.cat([t, t]) if isinstance(t, Tensor) and t.ndim else t
        unconditional, conditional = net(torch.cat([x, x]), both_t, both_labels).chunk(2)
        return guide(unconditional, conditional, s)

    return guided


def classifier_score(score: Samples, gradient: Samples, gamma: int | float = 1.0) -> Samples:
    """Return grad log p(x_t | y) = grad log p(x_t) + gamma grad log p(y | x_t) (row 90)."""
    return score + gamma * gradient


def classifier_gradient(
    classifier: Callable[[Samples, Timestep], Float[Tensor, "batch classes"]],
    x: Samples,
    t: Timestep,
    label: Int[Tensor, " batch"],
) -> Samples:
    """Return grad_x log p(y | x_t) of a classifier of noisy images that returns logits (row 90)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        chosen = classifier(x, t).log_softmax(-1).gather(-1, label[:, None])
        # The samples are independent, so one gradient of the sum has the gradient of every sample.
        return torch.autograd.grad(chosen.sum(), x)[0]


def classifier_guided(
    net: Network,
    classifier: Callable[[Samples, Timestep], Float[Tensor, "batch classes"]],
    label: Int[Tensor, " batch"],
    s: Schedule,
    gamma: int | float = 1.0,
    kind: str = "eps",
) -> Network:
    """Make a `net(x, t)` that predicts eps of p(x | y) from one that predicts `kind` of p(x).

    The score is guided (row 90), which for eps is algorithm 2 of Dhariwal & Nichol.
    """

    def guided(x: Samples, t: Int[Tensor, " batch"]) -> Samples:
        score = s.to_score(net(x, t), x, t, kind)
        score = classifier_score(score, classifier_gradient(classifier, x, t, label), gamma)
        return s.to_eps(score, x, t, "score")

    return guided
