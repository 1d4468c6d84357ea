"""Go on with a text, word by word, by a network that carries its state along (rows 6-16).

The network is called net(ids, state) and returns the logits of the next word after each, and the
state to go on from. `words` are its vocabulary; the user's words are looked up in it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
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
WORDS = (0, 100_000)
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


def numbers(words: list[str], asked: list[str]) -> list[int]:
    """Look words up, without their capitals where only that is known.

    Raises:
        UserError: a word is not in the vocabulary.
    """
    index = {word: number for number, word in enumerate(words)}
    found = []
    for word in asked:
        number = index.get(word, index.get(word.lower()))
        if number is None:
            close = ", ".join(difflib.get_close_matches(word, words))
            told = f"is not among the {len(words)} words of this network"
            raise UserError(word, told, f"did you mean {close}?" if close else "")
        found.append(number)
    return found


@torch.no_grad()
def sample(
    net: nn.Module, usage: Mapping[str, Any], files: list[str], options: dict[str, Any]
) -> None:
    """Print texts that begin with the given words.

    Raises:
        UserError: a word is not in the vocabulary, or an option is out of range.
        ValueError: the network has not one score for each word of the vocabulary.
    """
    words = [str(word) for word in usage.get("words") or []]
    if len(words) != getattr(net, "vocabulary_size", None):
        raise ValueError(f"usage.json: {len(words)} words for this {type(net).__name__}")
    asked = [word for text in files for word in text.split()]
    start = numbers(words, asked)
    end = words.index(END) if END in words else None
    device = next(net.parameters()).device
    generator = torch.Generator(device).manual_seed(options["seed"])
    how = {name: options[name] for name in ("temperature", "top_k", "top_p")}
    silent = [words.index(UNKNOWN)] if UNKNOWN in words else []

    texts = [start] * options["count"]
    given = [end if end is not None else 0, *start]
    ids, state = torch.tensor([given] * options["count"], device=device), None
    ended = [False] * options["count"]
    for _ in range(options["length"]):
        logits, state = net(ids, state)
        logits = logits[:, -1].float()
        logits[:, silent] = -torch.inf  # it stands for words that cannot be written
        try:
            ids = next_word(logits, **how, generator=generator)[:, None]
        except ValueError as error:
            name = str(error).split()[0]
            raise UserError(f"--{name}", str(error)) from None
        for row, word in enumerate(ids[:, 0].tolist()):
            ended[row] = ended[row] or word == end
            if not ended[row]:
                texts[row] = [*texts[row], word]
        if all(ended):
            break
    for text in texts:
        print(" ".join(words[word] for word in text))
