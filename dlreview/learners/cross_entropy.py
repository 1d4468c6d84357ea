"""The cross-entropy of the tokens of a text, without room for the logits of all of them at once.

L_i = -sum_k q_k log p_k in nats, p = softmax(head(h_i)), q = (1 - smoothing) 1[k = target] +
smoothing / K (Szegedy et al. 2016, arXiv:1512.00567). A batch of 64 texts of 512 tokens has a
billion logits for 30,000 words, 4 GB in float32, and its backward pass needs them three times. So
the logits are computed for some tokens at a time, and again in the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

AT_ONCE = 2**25  # logits that are held at a time: 128 MiB in float32


def tokens_at_once(head: nn.Module) -> int:
    """Return how many tokens have `AT_ONCE` logits, one for each row of the head's weight."""
    scores: Any = head
    return max(1, AT_ONCE // len(scores.weight))


def token_losses(
    hidden: Float[Tensor, "*batch width"],
    head: nn.Module,
    targets: Int[Tensor, "*batch"],
    smoothing: float = 0.0,
    ignore: int | None = None,
) -> Float[Tensor, "*batch"]:
    """Return the cross-entropy of each token in nats, in float32 or wider.

    Args:
        hidden: the last hidden states.
        head: called head(hidden), gives the logits; has a `weight` with a row for each word, and
            draws no random numbers.
        targets: the words that should be predicted.
        smoothing: share of each target that is spread over all words.
        ignore: the target of tokens that do not count: their loss is 0.
    """

    def some(h: Float[Tensor, "some width"], words: Int[Tensor, " some"]) -> Float[Tensor, " some"]:
        logits = head(h)
        return F.cross_entropy(
            logits.to(torch.promote_types(logits.dtype, torch.float32)),
            words,
            reduction="none",
            label_smoothing=smoothing,
            ignore_index=-100 if ignore is None else ignore,
        )

    rows, words = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    most = tokens_at_once(head)
    if len(rows) <= most:
        return some(rows, words).view(targets.shape)
    how: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    parts = zip(rows.split(most), words.split(most), strict=True)
    return torch.cat([checkpoint(some, h, w, **how) for h, w in parts]).view(targets.shape)


@torch.no_grad()
def likeliest(hidden: Float[Tensor, "*batch width"], head: nn.Module) -> Int[Tensor, "*batch"]:
    """Return the word with the largest logit for each token."""
    rows = hidden.reshape(-1, hidden.shape[-1])
    words = [head(h).argmax(dim=-1) for h in rows.split(tokens_at_once(head))]
    return torch.cat(words).view(hidden.shape[:-1])
