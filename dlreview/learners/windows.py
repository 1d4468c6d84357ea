"""Subsampling, windows and negatives of word2vec for a whole batch at once.

Every random number is a hash of (key, row, position), so that it does not depend on the device or
on the distribution of the sentences over processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

KEEP, REACH, NEGATIVE = 1, 2, 3  # purposes of random numbers
Table = tuple[Int64[Tensor, " vocabulary"], Int64[Tensor, " vocabulary"]]


@dataclass(frozen=True)
class Examples:
    """Words to predict from the words of their `context` where `mask` is True."""

    context: Int[Tensor, "examples context"]
    mask: Bool[Tensor, "examples context"] | None
    word: Int[Tensor, " examples"]
    key: Int64[Tensor, " examples"]


def signed(number: int) -> int:
    """Return the signed 64-bit integer with these bits, since torch has no unsigned ones."""
    number %= 2**64
    return number - 2**64 if number >= 2**63 else number


def scatter_bits(x: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """Hash integers (splitmix64's finaliser, as in `dlreview.randomness`)."""
    x = x + signed(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> shift & 2 ** (64 - shift) - 1)) * signed(factor)
    return x ^ (x >> 31 & 2**33 - 1)


def upper_bits(bits: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """Return the upper 31 bits, 0..2^31 - 1."""
    return bits >> 33 & 2**31 - 1


def keep_probability(
    counts: Float[Tensor, " vocabulary"], sample: float
) -> Float[Tensor, " vocabulary"]:
    """Return the probability to keep a token: min(1, sqrt(t / f) + t / f), f the word's share.

    This is the formula of Mikolov's code, which keeps slightly more than the paper's eq. 5. t is
    `sample`; 0 keeps all tokens.
    """
    if sample == 0:
        return torch.ones_like(counts)
    ratio = sample * counts.sum() / counts
    return (ratio.sqrt() + ratio).clamp(max=1)


def examples(
    text: Int[Tensor, " tokens"],
    bounds: Int64[Tensor, " bounds"],
    row: Int64[Tensor, " sentences"],
    keep: Float[Tensor, " vocabulary"],
    *,
    window: int,
    skip_gram: bool,
    key: int,
) -> Examples:
    """Drop frequent words at random, draw each word's reach in 1..window, list the examples.

    In skip-gram the pairs are grouped by the predicted word. Since a word is in the window of its
    neighbour as often as the neighbour is in its window, these are the same pairs as in "predict
    the context from the target".
    """
    length = bounds.diff()
    position = torch.arange(len(text), device=text.device)
    position = position - torch.repeat_interleave(bounds[:-1], length)
    seed = scatter_bits(scatter_bits(row + signed(key)).repeat_interleave(length) + position)
    sentence = torch.repeat_interleave(torch.arange(len(row), device=text.device), length)
    kept = upper_bits(scatter_bits(seed + KEEP)) < (keep.double() * 2**31)[text.long()]
    word, seed, sentence = text.long()[kept], seed[kept], sentence[kept]

    reach = 1 + (upper_bits(scatter_bits(seed + REACH)) * window >> 31)
    offset = torch.arange(-window, window + 1, device=text.device)
    offset = offset[offset != 0]
    place = torch.arange(len(word), device=text.device)[:, None] + offset
    inside = (place >= 0) & (place < len(word)) & (offset.abs() <= reach[:, None])
    place = place.clamp(0, max(0, len(word) - 1))
    mask = inside & (sentence[place] == sentence[:, None])
    if skip_gram:
        target, slot = mask.nonzero(as_tuple=True)
        context = word[place[target, slot]][:, None]
        return Examples(context, None, word[target], scatter_bits(seed[target] + slot))
    used = mask.any(dim=1)
    return Examples(word[place][used], mask[used], word[used], seed[used])


def draw_negatives(
    key: Int64[Tensor, " examples"], count: int, table: Table
) -> Int64[Tensor, "examples count"]:
    """Draw words from an alias table, `count` for each example."""
    threshold, other = table
    place = torch.arange(count, device=key.device)
    bits = scatter_bits(scatter_bits(key + NEGATIVE)[:, None] + place)
    cell = upper_bits(bits) * len(other) >> 31
    return torch.where(bits & 2**32 - 1 < threshold[cell], cell, other[cell])
