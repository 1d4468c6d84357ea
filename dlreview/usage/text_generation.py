"""Go on with a text, word by word, by a recurrent network (rows 6-16).

The network is called net(ids, state). It returns, after every word, the logits of the next one, and
the state to go on from. `words` in usage.json is the vocabulary; rows after them stand for no word.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlreview.messages import UserError
from dlreview.running.command import Flag, number, whole
from dlreview.samplers.decoding import next_word

UNKNOWN, END = "<unk>", "<eos>"  # as in dlreview.data.stream
FLAGS = {
    "--count": Flag(whole(1, 1000), 5),
    "--length": Flag(whole(1, 100_000), 40),
    "--temperature": Flag(number, 1.0),
    "--top_k": Flag(whole(1)),
    "--top_p": Flag(number, 1.0),
    "--seed": Flag(whole(0, 2**63 - 1), 0),
}
WORDS, FILES = (0, 100_000), False
HELP = """
  WORD ...           words to go on from (default: the beginning of a sentence)
  --count N          texts to write (default 5)
  --length N         words of each at most; it may end before (default 40)
  --temperature T    0 takes the likeliest word, 1 (default) draws as the network predicts
  --top_k N          draw among the N likeliest words only
  --top_p P          draw among the fewest words that have a share P of the probability
  --seed N           the same seed writes the same texts (default 0)"""


def tag(usage: Mapping[str, Any]) -> str:
    """Name the task as the hub does."""
    return "text-generation"


def example(data: Any, folder: Path) -> list[str] | None:
    """Return no words: the network begins with a new sentence."""
    return []


def numbers(words: list[str], asked: list[str]) -> list[int]:
    """Look words up; a word that is unknown is looked up in small letters.

    Raises:
        UserError: a word is not in the vocabulary.
    """
    index = {word: number for number, word in enumerate(words)}
    found = []
    for word in asked:
        number = index.get(word, index.get(word.lower()))
        if number is None:
            close = ", ".join(difflib.get_close_matches(word, words))
            problem = f"is not among the {len(words)} words of this network"
            raise UserError(word, problem, f"did you mean {close}?" if close else "")
        found.append(number)
    return found


def sample(
    net: nn.Module, usage: Mapping[str, Any], words: list[str], options: dict[str, Any]
) -> None:
    """Print texts that begin with the given words.

    Raises:
        UserError: a word is not in the vocabulary, or an option is out of range.
        ValueError: usage.json has no words, or more words than the network has scores.
    """
    known = [str(word) for word in usage.get("words") or []]
    if not 0 < len(known) <= getattr(net, "vocabulary_size", 0):
        raise ValueError(f"usage.json: {len(known)} words for this {type(net).__name__}")
    start = numbers(known, [word for text in words for word in text.split()])
    for text in write_texts(net, known, start, options):
        print(" ".join(known[word] for word in text))


@torch.no_grad()
def write_texts(
    net: nn.Module, known: list[str], start: list[int], options: Mapping[str, Any]
) -> list[list[int]]:
    """Draw texts, as numbers of words, until all end or have their length.

    Raises:
        UserError: an option is out of range.
    """
    end = known.index(END) if END in known else None
    never = [known.index(UNKNOWN)] if UNKNOWN in known else []
    device = next(net.parameters()).device
    generator = torch.Generator(device).manual_seed(options["seed"])
    how = {name: options[name] for name in ("temperature", "top_k", "top_p")}
    texts, ended = [start] * options["count"], [False] * options["count"]
    first = [end if end is not None else 0, *start]
    ids, state = torch.tensor([first] * options["count"], device=device), None
    for _ in range(options["length"]):
        logits, state = net(ids, state)
        logits = logits[:, -1].float()
        logits[:, never] = -torch.inf  # <unk> stands for words that cannot be written
        logits[:, len(known) :] = -torch.inf
        try:
            ids = next_word(logits, **how, generator=generator)[:, None]
        except ValueError as error:
            raise UserError(f"--{str(error).split()[0]}", str(error)) from None
        for row, word in enumerate(ids[:, 0].tolist()):
            ended[row] = ended[row] or word == end
            if not ended[row]:
                texts[row] = [*texts[row], word]
        if all(ended):
            break
    return texts
