"""Text decoding: choose the next word from the scores of all words.

With temperature T a word is drawn with p(w) = softmax(y / T)_w: T -> 0 gives the most likely word,
T = 1 the model's own distribution. `top_k` keeps only the k most likely words (Fan et al. 2018,
arXiv:1805.04833), `top_p` the fewest words whose probabilities sum to p or more (Holtzman et al.
2020, arXiv:1904.09751).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dlreview.messages import check_at_least


def word_probabilities(
    logits: Float[Tensor, "batch vocabulary"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Float[Tensor, "batch vocabulary"]:
    """Return the probability to draw each word; with temperature 0 it is 1 for the most likely.

    Of words with equal scores the first counts as the most likely.

    Raises:
        ValueError: `temperature` is negative or infinite, `top_k` below 1, or `top_p` not in
            (0, 1].
    """
    check_at_least(0, temperature=temperature)
    if temperature == float("inf"):
        raise ValueError(f"temperature must be finite, got {temperature}")
    check_at_least(1, top_k=top_k)
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
    if temperature == 0:
        most_likely = logits.argmax(dim=1, keepdim=True)
        return torch.zeros_like(logits).scatter_(1, most_likely, 1.0)
    scores, word = (logits / temperature).sort(dim=1, descending=True, stable=True)
    p = scores.softmax(dim=1)
    before = p.cumsum(dim=1) - p  # the probability of all more likely words
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
