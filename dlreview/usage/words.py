"""Ask word vectors for the neighbours of words (rows 1-3)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dlreview.messages import UserError
from dlreview.metrics.word_similarity import nearest
from dlreview.running.command import Flag, whole

FLAGS = {"--top": Flag(whole(1), 10)}
WORDS, FILES = (0, 100_000), False
HELP = """
  WORD ...           words whose neighbours are printed (default: some frequent ones)
  --top N            the N nearest of each by cosine (default 10)"""
FREQUENT = 5  # words that are shown by default


def tag(usage: Mapping[str, Any]) -> str:
    """Name the task as the hub does."""
    return "feature-extraction"


def example(data: Any, folder: Path) -> list[str] | None:
    """Return no words: `sample` takes frequent ones."""
    return []


def sample(
    net: nn.Module, usage: Mapping[str, Any], words: list[str], options: dict[str, Any]
) -> None:
    """Print the nearest neighbours of each word.

    Raises:
        UserError: a word is not in the vocabulary.
        ValueError: usage.json has no words, or the network has fewer vectors than words.
    """
    known = [str(word) for word in usage.get("words") or []]
    vectors = getattr(getattr(net, "input", None), "weight", None)
    if not isinstance(vectors, Tensor) or not 0 < len(known) <= len(vectors):
        raise ValueError(f"usage.json: {len(known)} words for this {type(net).__name__}")
    plain = [word for word in known if len(word) > 3 and word.isalpha()]
    asked = words or plain[:FREQUENT] or known[:FREQUENT]
    for word in asked:
        if word not in known:
            close = ", ".join(difflib.get_close_matches(word, known))
            problem = f"is not among the {len(known)} words of this network"
            raise UserError(word, problem, f"did you mean {close}?" if close else "")
    longest = max(map(len, asked))
    for word in asked:
        # Rows after the last word stand for no word.
        near = nearest(vectors[: len(known)], known, word, options["top"])
        print(f"{word:{longest}}  " + "  ".join(f"{other} {value:.3f}" for other, value in near))
