"""Text decoding: choose the next word from the scores of all words.

With temperature T a word is drawn with p(w) = softmax(y / T)_w: T -> 0 is the likeliest word, T = 1
the model's own distribution. `top_k` keeps the k likeliest words only (Fan et al. 2018,
arXiv:1805.04833), `top_p` the fewest that have a share p of the probability (Holtzman et al. 2020,
arXiv:1904.09751).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def word_probabilities(
    logits: Float[Tensor, "batch vocabulary"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Float[Tensor, "batch vocabulary"]:
    """Return the chance of each word to be drawn; temperature 0 gives it all to the likeliest.

    Of equal scores the first counts as the likelier one.

    Raises:
        ValueError: `temperature` is negative, `top_k` below 1, or `top_p` not in (0, 1].
    """
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be at least 0, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
    if temperature == 0:
        likeliest = torch.zeros_like(logits)
        return likeliest.scatter_(1, logits.argmax(dim=1, keepdim=True), 1.0)
    scores, word = (logits / temperature).sort(dim=1, descending=True, stable=True)
    p = scores.softmax(dim=1)
    before = p.cumsum(dim=1) - p  # the probability of all likelier words
    kept = before < top_p
    if top_k is not None:
        kept[:, top_k:] = False
    p = p * kept
    return torch.zeros_like(p).scatter_(1, word, p / p.sum(dim=1, keepdim=True))


def next_word(
    logits: Float[Tensor, "batch vocabulary"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " batch"]:
    """Draw a word for each row; see `word_probabilities`."""
    p = word_probabilities(logits, temperature, top_k, top_p)
    return torch.multinomial(p, 1, generator=generator)[:, 0]
