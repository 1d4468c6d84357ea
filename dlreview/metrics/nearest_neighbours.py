"""Nearest neighbours in feature space (row 30), and the classifier that lets them vote.

The protocol of DINO (Caron et al. 2021, arXiv:2104.14294): of the 20 training images with the
largest cosine, each votes for its class with the weight exp(cosine / T), T = 0.07.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dlreview.messages import check_at_least

K, T = 20, 0.07
ROWS = 1024  # queries at a time, so that not all similarities are held at once

Vectors = Float[Tensor, "rows width"]


def neighbours(
    train: Vectors, queries: Float[Tensor, "queries width"], k: int = K
) -> tuple[Float[Tensor, "queries k"], Int[Tensor, "queries k"]]:
    """Return the cosines and the row numbers of the k nearest rows of `train`, nearest first.

    Raises:
        ValueError: there are no queries, or k is below 1 or above the number of rows.
    """
    check_at_least(1, k=k, queries=len(queries))
    if k > len(train):
        raise ValueError(f"k must be at most the {len(train)} rows of train, got {k}")
    unit = F.normalize(train, dim=1)
    found = [(F.normalize(part, dim=1) @ unit.T).topk(k, dim=1) for part in queries.split(ROWS)]
    return torch.cat([values for values, _ in found]), torch.cat([rows for _, rows in found])


def vote(
    cosines: Float[Tensor, "queries k"],
    classes: Int[Tensor, "queries k"],
    temperature: float = T,
    num_classes: int | None = None,
) -> Float[Tensor, "queries classes"]:
    """Return the share of each class in the votes; an infinite temperature gives equal weights.

    Raises:
        ValueError: the temperature is not positive, or a class is not in 0..num_classes - 1.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    # A softmax has the same shares, and does not overflow.
    weights = (cosines / temperature).softmax(dim=1)
    least, most = (int(k) for k in classes.aminmax())
    count = most + 1 if num_classes is None else num_classes
    if least < 0 or most >= count:
        raise ValueError(f"classes must be in 0..{count - 1}, got {least}..{most}")
    return weights.new_zeros(len(weights), count).scatter_add_(1, classes, weights)


def classify(
    train: Vectors,
    labels: Int[Tensor, " _"],
    queries: Float[Tensor, "queries width"],
    k: int = K,
    temperature: float = T,
) -> Int[Tensor, " queries"]:
    """Return the class of each query by the votes of its neighbours; of equal ones the first.

    Raises:
        ValueError: `labels` are not one for each row; see `neighbours` and `vote`.
    """
    if len(labels) != len(train):
        raise ValueError(f"labels must be {len(train)} numbers, got {len(labels)}")
    cosines, rows = neighbours(train, queries, k)
    return vote(cosines, labels[rows], temperature).argmax(dim=1)


def accuracy(
    train: Vectors,
    labels: Int[Tensor, " rows"],
    queries: Float[Tensor, "queries width"],
    answers: Int[Tensor, " queries"],
    k: int = K,
    temperature: float = T,
) -> float:
    """Return the share of queries whose class the neighbours find."""
    return float((classify(train, labels, queries, k, temperature) == answers).float().mean())
