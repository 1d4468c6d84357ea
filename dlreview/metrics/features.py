"""Features of a whole data set, computed once (rows 28 and 29): bring your own classifier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dlreview.nn.feature_map import check_finite, evaluating, feature_vectors


class Features(NamedTuple):
    """Feature vectors of a data set in its order, and labels where it has such."""

    vectors: Float[Tensor, "rows width"]
    labels: Int[Tensor, " rows"] | None


@torch.no_grad()
def embed(net: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> Features:
    """Compute the features of every batch, in evaluation mode, on the network's device.

    Args:
        net: has `features(images)`, `encode_image(images)` or `feature_map(images)`.
        batches: with "image", and "label" or not.

    Returns:
        Float32 features and labels on the CPU.

    Raises:
        ValueError: the network has no features, there is no batch, some batches have no labels, or
            a pixel or a feature is not a number.
    """
    parameter = next(net.parameters())
    vectors, labels, done = [], [], 0
    with evaluating(net):
        for batch in batches:
            images = batch["image"].to(parameter.device, parameter.dtype)
            check_finite(images, done)
            vectors.append(feature_vectors(net, images).float().cpu())
            check_finite(vectors[-1], done, "a feature")
            if "label" in batch:
                labels.append(batch["label"].cpu())
            done += len(images)
    if not vectors:
        raise ValueError("batches must have at least 1 batch, got 0")
    if labels and len(labels) != len(vectors):
        raise ValueError(f"label must be in all {len(vectors)} batches, got {len(labels)}")
    return Features(torch.cat(vectors), torch.cat(labels) if labels else None)
