"""Text decoding: write texts token by token, each chosen from the scores of all tokens.

With temperature T a token is drawn with p(w) = softmax(y / T)_w: T -> 0 gives the most likely
token, T = 1 the model's own distribution. Three filters then leave out unlikely tokens, in this
order, each of them from what the one before it has left:

- `top_k` keeps the k most likely tokens (Fan et al. 2018, arXiv:1805.04833);
- `top_p` the fewest tokens whose probabilities sum to p or more (Holtzman et al. 2020,
  arXiv:1904.09751);
- `min_p` the tokens with at least this share of the most likely token's probability (Nguyen et al.
  2024, arXiv:2407.01082).

Tokens with the same score as the k-th are kept too. All this is as in transformers, and the same
random numbers draw the same tokens. Beam search is in `beam_search.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlreview.messages import check_at_least

Ids = Int[Tensor, "batch tokens"]
Logits = Float[Tensor, "batch vocabulary"]
# read(new ids, cache) returns the logits of the token after the last new one, and keeps in the
# cache what it needs of the tokens that it has read.
Read = Callable[[Any, Any], Any]
Number = int | float
CHECK_EVERY = 8  # steps


@runtime_checkable
class Reorderable(Protocol):
    """Any object that keeps what a network has read, one row for each text."""

    def reorder(self, rows: Int[Tensor, " new_batch"]) -> None:
        """Let row i be what row `rows[i]` was."""


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen: see the head of this file. With temperature 0 it is the most likely.

    Raises:
        ValueError: `temperature` is negative or infinite, `top_k` below 1, `top_p` not in (0, 1],
            or `min_p` not in [0, 1].
    """

    temperature: Number = 1.0
    top_k: int | None = None
    top_p: Number = 1.0
    min_p: Number = 0.0

    def __post_init__(self) -> None:
        check_at_least(0, temperature=self.temperature)
        if self.temperature == float("inf"):
            raise ValueError(f"temperature must be finite, got {self.temperature}")
        check_at_least(1, top_k=self.top_k)
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be in [0, 1], got {self.min_p}")

    def filter(self, scores: Logits) -> Logits:
        """Set the scores of the tokens that the three filters leave out to minus infinity."""
        if self.top_k is not None and self.top_k < scores.shape[1]:
            least = scores.topk(self.top_k).values[:, -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        if self.top_p < 1:
            scores = keep_top_p(scores, self.top_p)
        if self.min_p > 0:
            p = scores.softmax(dim=1)
            unlikely = p < self.min_p * p.amax(dim=1, keepdim=True)
            scores = scores.masked_fill(unlikely, -torch.inf)
        return scores

    def probabilities(self, logits: Logits) -> Logits:
        """Return the probability to draw each token.

        With temperature 0 it is 1 for the most likely token, of equals for the first.
        """
        if self.temperature == 0:
            return torch.zeros_like(logits).scatter_(1, logits.argmax(1, keepdim=True), 1.0)
        scores = logits if self.temperature == 1 else logits / self.temperature
        return self.filter(scores).softmax(dim=1)

    def choose(
        self, logits: Logits, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, " batch"], Int[Tensor, " batch"]]:
        """Choose a token for each row.

        If e_w ~ Exp(1), the token with the largest p_w / e_w is w with probability p_w. So does
        `torch.multinomial`, with the same random numbers, but it waits for the device.

        Returns:
            The largest number of each row, NaN where a logit is NaN, and its token.
        """
        if self.temperature == 0:
            largest, token = logits.max(dim=1)
        else:
            p = self.probabilities(logits)
            noise = torch.empty_like(p).exponential_(generator=generator)
            largest, token = p.div_(noise).max(dim=1)
        return largest, token


def keep_top_p(scores: Logits, top_p: Number) -> Logits:
    """Keep the fewest tokens whose probabilities sum to `top_p` or more."""
    ordered, token = scores.sort(dim=1)  # the most likely last, so that small numbers add up first
    unlikely = ordered.softmax(dim=1).cumsum(dim=1) <= 1 - top_p
    unlikely[:, -1] = False
    return scores.masked_fill(torch.empty_like(unlikely).scatter_(1, token, unlikely), -torch.inf)


def left_pad(texts: Sequence[Sequence[int]], pad: int) -> tuple[Ids, Bool[Tensor, "batch tokens"]]:
    """Join texts of unequal length to a batch in which all end at the last column.

    Returns:
        The ids, and a mask that is True at tokens and False at padding.

    Raises:
        ValueError: there is no text, or an empty one.
    """
    check_at_least(1, texts=len(texts))
    for row, text in enumerate(texts):
        check_at_least(1, **{f"length of text {row}": len(text)})
    longest = max(map(len, texts))
    ids = torch.tensor([[pad] * (longest - len(text)) + list(text) for text in texts])
    lengths = torch.tensor([[len(text)] for text in texts])
    return ids, torch.arange(longest) >= longest - lengths


def check_prompt(prompt: Ids, length: int) -> None:
    """Refuse a prompt without tokens and a length below 1.

    Raises:
        ValueError: names the value.
    """
    check_at_least(1, prompts=len(prompt), prompt_length=prompt.shape[1], length=length)


def check_sound(sound: Bool[Tensor, " batch"]) -> None:
    """Refuse scores among which there was nothing to choose.

    Raises:
        ValueError: `sound` is False in a row.
    """
    if not bool(sound.all()):
        raise ValueError("logits must leave a token to choose, got NaN or only minus infinity")


def is_time_to_look(step: int, device: torch.device) -> bool:
    """Whether to look if all texts have ended: on a device this waits, so it is done seldom."""
    return device.type == "cpu" or step % CHECK_EVERY == CHECK_EVERY - 1


def forbid(logits: Logits, never: Int[Tensor, " forbidden"]) -> Logits:
    """Set the scores of some tokens to minus infinity."""
    return logits.index_fill(1, never, -torch.inf) if len(never) else logits


def cut(ids: Ids, first: int, end: int) -> Int[Tensor, "batch kept"]:
    """Leave out the columns after the last text's end; the new tokens begin at `first`."""
    ends = ids[:, first:] == end
    after = ends.cumsum(dim=1) - ends.long() > 0
    return ids[:, : first + int((~after.all(dim=0)).sum())]


@torch.no_grad()
def generate(  # 14 arguments: each is one of the plain options that transformers has too
    read: Read,
    prompt: Ids,
    cache: Reorderable,
    *,
    length: int,
    end: int | None = None,
    pad: int = 0,
    count: int = 1,
    temperature: Number = 1.0,
    top_k: int | None = None,
    top_p: Number = 1.0,
    min_p: Number = 0.0,
    never: Sequence[int] = (),
    generator: torch.Generator | None = None,
) -> Int[Tensor, "texts all_tokens"]:
    """Write `count` texts that begin with each prompt.

    Args:
        read: reads new ids and returns the logits of the next token.
        prompt: ids that texts begin with; padding, if any, is at the left and known to the cache.
        cache: an empty cache for `read`, with room for the prompt and `length` - 1 tokens.
        length: number of new tokens at most.
        end: token that ends a text; None if there is none.
        pad: token that is written after the end.
        count: texts for each prompt, in rows that follow each other; a prompt is read once.
        temperature: 0 takes the most likely token; see the head of this file for the others.
        top_k: keep so many tokens.
        top_p: keep tokens with this share of the probability.
        min_p: keep tokens with this share of the largest probability.
        never: tokens that are not written.
        generator: source of the random numbers.

    Returns:
        Prompts and new tokens, as long as the longest text.

    Raises:
        ValueError: a value is out of range, the prompt is empty, or logits are NaN.
    """
    sampling = Sampling(temperature, top_k, top_p, min_p)
    check_prompt(prompt, length)
    check_at_least(1, count=count)
    first, forbidden = prompt.shape[1], prompt.new_tensor(tuple(never))
    logits = read(prompt, cache)
    rows = torch.arange(len(prompt), device=prompt.device).repeat_interleave(count)
    if count > 1:
        cache.reorder(rows)
        logits = logits[rows]
    ids = prompt.new_full((len(rows), first + length), pad)
    ids[:, :first] = prompt[rows]
    ended, sound = torch.zeros_like(rows, dtype=torch.bool), torch.ones_like(rows, dtype=torch.bool)
    for place in range(first, first + length):
        if place > first:
            logits = read(ids[:, place - 1 : place], cache)
        largest, token = sampling.choose(forbid(logits.float(), forbidden), generator)
        sound &= largest > -torch.inf
        ids[:, place] = token.masked_fill_(ended, pad)
        if end is not None:
            ended |= token == end
            if is_time_to_look(place - first, ids.device) and bool(ended.all()):
                break
    check_sound(sound)
    return ids if end is None else cut(ids, first, end)
