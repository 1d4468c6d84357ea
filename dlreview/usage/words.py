"""Ask word vectors for the neighbours of words (rows 1-3)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dlreview.messages import UserError
from dlreview.metrics.word_similarity import nearest
from dlreview.running.command import Flag, whole

FLAGS = {"--top": Flag(whole(1), 10)}
WORDS = (0, 100_000)
HELP = """
  WORD ...           words whose neighbours are printed (default: some frequent ones)
  --top N            the N nearest of each by cosine (default 10)"""
FREQUENT = 5  # words shown when none is asked for


def tag(usage: Mapping[str, Any]) -> str:
    """Name the task as the hub does."""
    return "feature-extraction"


def sample(
    net: nn.Module, usage: Mapping[str, Any], files: list[str], options: dict[str, Any]
) -> None:
    """Print the nearest neighbours of each word.

    Raises:
        UserError: a word is not in the vocabulary.
        ValueError: the network has no word vectors, or not one for each word.
    """
    words = [str(word) for word in usage.get("words") or []]
    table = getattr(net, "input", None)
    vectors = getattr(table, "weight", None)
    if not isinstance(vectors, Tensor) or len(vectors) != len(words):
        raise ValueError(f"usage.json: {len(words)} words for this {type(net).__name__}")
    plain = [word for word in words if len(word) > 3 and word.isalpha()]
    asked = files or plain[:FREQUENT] or words[:FREQUENT]
    for word in asked:
        if word not in words:
            close = ", ".join(difflib.get_close_matches(word, words))
            told = f"is not among the {len(words)} words of this network"
            raise UserError(word, told, f"did you mean {close}?" if close else "")
    longest = max(map(len, asked))
    for word in asked:
        near = nearest(vectors, words, word, options["top"])
        print(f"{word:{longest}}  " + "  ".join(f"{other} {value:.3f}" for other, value in near))
