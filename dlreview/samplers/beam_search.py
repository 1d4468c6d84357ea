"""Beam search: go on with the `beams` likeliest texts at once (Sutskever et al. 2014, section 3.2).

The score of a text of n new tokens is sum_i log p(w_i | w_<i) / n^length_penalty
(arXiv:1409.3215; the penalty of Wu et al. 2016, arXiv:1609.08144, in the form of transformers,
to whose search this one is equal). Each step takes the 2 `beams` best continuations of all beams:
those that end become hypotheses, the best `beams` of the others go on.

Only the last token of a beam and the beam that it continues are kept; texts are read from back to
front when the search is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlreview.messages import check_at_least
from dlreview.samplers.decoding import (
    Ids,
    Number,
    Read,
    Reorderable,
    check_prompt,
    check_sound,
    forbid,
    generate,
    is_time_to_look,
)

Scores = Float[Tensor, "batch beams"]
Choices = Int[Tensor, "batch beams"]  # beam * vocabulary + token
# The score of what is no text: below that of any text, but finite, as differences are taken.
NO_TEXT = -1e9


class Hypotheses:
    """The best `beams` texts of each prompt that have ended.

    A text is known by the step in which it ended and its last choice. `is_open` tells the prompts
    whose beams may still give a better one. With `early_stopping` True a prompt is done when it
    has `beams` texts; with False, when the best beam would not be among them if it ended now; with
    "never", when it cannot be among them at any length.
    """

    def __init__(
        self,
        batch: int,
        beams: int,
        length: int,
        length_penalty: Number,
        early_stopping: bool | str,
        device: torch.device,
    ) -> None:
        self.length, self.length_penalty = length, length_penalty
        self.early_stopping = early_stopping
        self.scores = torch.full((batch, beams), NO_TEXT, device=device)
        self.steps = torch.full((batch, beams), -1, device=device)
        self.choices = torch.zeros_like(self.steps)
        self.is_text = torch.zeros_like(self.steps, dtype=torch.bool)
        self.is_open = torch.ones(batch, 1, dtype=torch.bool, device=device)

    def add(
        self, scores: Scores, choices: Choices, ended: Bool[Tensor, "batch beams"], step: int
    ) -> None:
        """Add the continuations that end at `step`, where they are better than earlier texts."""
        beams = scores.shape[1]
        ended = ended & self.is_open
        scores = scores / (step + 1) ** self.length_penalty
        scores = torch.cat([self.scores, scores.where(ended, NO_TEXT)], dim=1)
        self.scores, kept = scores.topk(beams, dim=1)
        steps = torch.cat([self.steps, torch.full_like(choices, step)], dim=1)
        self.steps = steps.gather(1, kept)
        self.choices = torch.cat([self.choices, choices], dim=1).gather(1, kept)
        self.is_text = torch.cat([self.is_text, ended], dim=1).gather(1, kept)

    def close(self, running: Scores, step: int) -> None:
        """Close the prompts that have their texts, given the scores of the beams that go on."""
        to_the_end = self.early_stopping == "never" and self.length_penalty > 0
        longest = self.length if to_the_end else step + 1
        hope = running[:, :1] / longest**self.length_penalty
        worst = self.scores.amin(dim=1, keepdim=True).where(self.is_text, NO_TEXT)
        self.is_open &= (hope > worst).any(dim=1, keepdim=True)
        if self.early_stopping is True:
            self.is_open &= ~self.is_text.all(dim=1, keepdim=True)


class Trace:
    """The choices of all steps, from which texts are read from back to front."""

    def __init__(self, length: int, batch: int, beams: int, device: torch.device) -> None:
        self.parents = torch.zeros(length, batch, beams, dtype=torch.int64, device=device)
        self.tokens = torch.zeros_like(self.parents)

    def texts(
        self, ends: Hypotheses, count: int, vocabulary: int, pad: int
    ) -> Int[Tensor, "batch count tokens"]:
        """Return the best `count` texts of each prompt, without the prompt."""
        steps, choices = ends.steps[:, :count], ends.choices[:, :count]
        length = int(steps.max()) + 1
        texts = torch.full((*steps.shape, length), pad, device=steps.device)
        beam = torch.zeros_like(steps)
        for step in reversed(range(length)):
            is_last = steps == step
            token = self.tokens[step].gather(1, beam).where(~is_last, choices % vocabulary)
            parent = self.parents[step].gather(1, beam).where(~is_last, choices // vocabulary)
            texts[:, :, step] = token.where(steps >= step, pad)
            beam = parent.where(steps >= step, 0)
        return texts


def check_options(beams: int, count: int, early_stopping: bool | str) -> None:
    """Refuse options of a search that has no such result.

    Raises:
        ValueError: names the option.
    """
    check_at_least(1, beams=beams, count=count)
    if count > beams:
        raise ValueError(f"count must be at most beams {beams}, got {count}")
    if early_stopping not in (True, False, "never"):
        raise ValueError(f"early_stopping must be True, False or 'never', got {early_stopping!r}")


@torch.no_grad()
def beam_search(
    read: Read,
    prompt: Ids,
    cache: Reorderable,
    *,
    beams: int,
    length: int,
    end: int | None = None,
    pad: int = 0,
    length_penalty: Number = 1.0,
    early_stopping: bool | str = False,
    count: int = 1,
    never: Sequence[int] = (),
) -> tuple[Int[Tensor, "texts all_tokens"], Float[Tensor, " texts"]]:
    """Find texts of high probability that begin with each prompt.

    Args:
        read: reads new ids and returns the logits of the next token.
        prompt: ids that texts begin with; padding, if any, is at the left and known to the cache.
        cache: an empty cache for `read`, with room for the prompt and `length` - 1 tokens. The
            prompt is read once; then the cache gets `beams` rows for each.
        beams: number of texts that the search goes on with.
        length: number of new tokens at most.
        end: token that ends a text; None if there is none.
        pad: token that is written after the end.
        length_penalty: power of the length that divides a score: above 0 it favours long texts.
        early_stopping: when a prompt is done: see `Hypotheses`.
        count: number of texts for each prompt, the best first, in rows that follow each other.
        never: tokens that are not written.

    Returns:
        Prompts and new tokens, as long as the longest text; and the scores.

    Raises:
        ValueError: a value is out of range, the prompt is empty, or logits are NaN.
    """
    check_prompt(prompt, length)
    check_options(beams, count, early_stopping)
    batch, device = len(prompt), prompt.device
    ends = Hypotheses(batch, beams, length, length_penalty, early_stopping, device)
    trace = Trace(length, batch, beams, device)
    vocabulary = search(read, prompt, cache, ends, trace, end, prompt.new_tensor(tuple(never)))
    texts = trace.texts(ends, count, vocabulary, pad).flatten(0, 1)
    prompts = prompt.repeat_interleave(count, dim=0)
    return torch.cat([prompts, texts], dim=1), ends.scores[:, :count].flatten()


def search(
    read: Read,
    prompt: Ids,
    cache: Reorderable,
    ends: Hypotheses,
    trace: Trace,
    end: int | None,
    never: Int[Tensor, " forbidden"],
) -> int:
    """Fill `ends` and `trace` step by step; return the size of the vocabulary.

    Raises:
        ValueError: logits are NaN.
    """
    (batch, beams), device, length = ends.scores.shape, prompt.device, ends.length
    scores = torch.zeros_like(ends.scores)
    scores[:, 1:] = NO_TEXT  # at first there is one text, the prompt
    row = torch.arange(batch, device=device)[:, None]
    sound, logits = torch.ones(batch, dtype=torch.bool, device=device), read(prompt, cache)
    for step in range(length):
        if step > 0:
            logits = read(trace.tokens[step - 1].view(-1, 1), cache)
        vocabulary = logits.shape[1]
        log_p = forbid(logits.float().log_softmax(dim=1), never).view(batch, -1, vocabulary)
        total = (log_p + scores[:, :, None]).flatten(1)
        best, choice = total.topk(2 * beams, dim=1)
        sound &= best[:, 0] > -torch.inf
        ended = torch.full_like(choice, step == length - 1, dtype=torch.bool)
        if end is not None:
            ended |= choice % vocabulary == end
        scores, going_on = (best + NO_TEXT * ended).topk(beams, dim=1)
        chosen = choice.gather(1, going_on)
        torch.div(chosen, vocabulary, rounding_mode="floor", out=trace.parents[step])
        torch.remainder(chosen, vocabulary, out=trace.tokens[step])
        if end is not None or step == length - 1:
            ends.add(best[:, :beams], choice[:, :beams], ended[:, :beams], step)
            ends.close(scores, step)
            if is_time_to_look(step, device) and not bool(ends.is_open.any()):
                break
        if step < length - 1:
            parents = trace.parents[step] + row * beams if step else row.expand(-1, beams)
            cache.reorder(parents.flatten())
    check_sound(sound)
    return vocabulary


def likeliest(
    read: Read, prompt: Ids, cache: Reorderable, *, beams: int, length_penalty: Number, **how: Any
) -> Int[Tensor, "batch all_tokens"]:
    """Write the likeliest text for each prompt; one beam always takes the likeliest token.

    Args:
        read: see `beam_search`.
        prompt: see `beam_search`.
        cache: see `beam_search`.
        beams: see `beam_search`.
        length_penalty: see `beam_search`; without effect for one beam.
        **how: the arguments that `beam_search` and `generate` share.
    """
    if beams == 1:
        return generate(read, prompt, cache, temperature=0.0, **how)
    return beam_search(read, prompt, cache, beams=beams, length_penalty=length_penalty, **how)[0]
