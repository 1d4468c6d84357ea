"""Go on with a text by a network that predicts the next token (rows 6-16, 25-28).

A recurrent network is called net(ids, state) and returns logits and state. A network with a method
`start`, as GPT has, is called net.read(ids, net.start(capacity)). usage.json says what the tokens
are: `words` lists them, or `tokenizer` is what the library `tokenizers` keeps of a tokenizer.
Tokens of the network after those stand for nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlreview.data.tokenizer import EOS, UNK, Encoder
from dlreview.messages import UserError
from dlreview.running.command import Flag, number, whole
from dlreview.samplers.beam_search import beam_search, check_options
from dlreview.samplers.decoding import Read, Reorderable, Sampling, generate
from dlreview.samplers.recurrent import RecurrentCache, recurrent_reader
from dlreview.usage import encoder_of, unwritten

UNKNOWN, END = "<unk>", "<eos>"  # as in dlreview.data.stream
COUNT, LENGTH = 5, 40
SAMPLING = ("temperature", "top_k", "top_p", "min_p")
FLAGS = {
    "--count": Flag(whole(1, 1000)),
    "--length": Flag(whole(1, 100_000)),
    "--temperature": Flag(number),
    "--top_k": Flag(whole(1)),
    "--top_p": Flag(number),
    "--min_p": Flag(number),
    "--seed": Flag(whole(0, 2**63 - 1), 0),
    "--beams": Flag(whole(1, 1000)),
    "--length_penalty": Flag(number),
}
WORDS, FILES = (0, 100_000), False
HELP = """
  WORD ...           text to go on from (default: the beginning of a text)
  --count N          texts to write (default 5; of a search 1)
  --length N         words or other tokens of each at most (default 40); it may end before
  --temperature T    0 takes the likeliest token, 1 (default) draws as the network predicts
  --top_k N          draw among the N likeliest tokens only
  --top_p P          draw among the fewest tokens that have a share P of the probability
  --min_p P          draw among the tokens with a share P of the likeliest one's probability
  --seed N           the same seed writes the same texts (default 0)
  --beams N          search for the likeliest texts with N beams instead of drawing
  --length_penalty X of a search: above 0 (default 1) it favours long texts, below 0 short ones"""


def tag(usage: Mapping[str, Any]) -> str:
    """Name the task as the hub does."""
    return "text-generation"


def example(data: Any, folder: Path) -> list[str] | None:
    """Return no words: the network begins with a new text."""
    return []


class Words:
    """A vocabulary of words, between which there are blanks, for a network of `size` rows.

    Texts begin with `begin` and end with `end`; the ids of `never` cannot be written.
    """

    def __init__(self, words: list[str], size: int) -> None:
        self.words = words
        self.end = words.index(END) if END in words else None
        self.begin = (self.end or 0,)
        unknown = [words.index(UNKNOWN)] if UNKNOWN in words else []
        self.never = [*unknown, *range(len(words), size)]

    def encode(self, text: str) -> list[int]:
        """Look words up; a word that is unknown is looked up in small letters.

        Raises:
            UserError: a word is not in the vocabulary.
        """
        index = {word: number for number, word in enumerate(self.words)}
        found = []
        for word in text.split():
            number = index.get(word, index.get(word.lower()))
            if number is None:
                close = ", ".join(difflib.get_close_matches(word, self.words))
                problem = f"is not among the {len(self.words)} words of this network"
                raise UserError(word, problem, f"did you mean {close}?" if close else "")
            found.append(number)
        return found

    def decode(self, ids: list[int]) -> str:
        """Return the text."""
        return " ".join(self.words[number] for number in ids)


class Tokens:
    """The tokens of a tokenizer, with the attributes and methods of `Words`.

    A text begins where one has ended, as in the training data.
    """

    begin, end = (EOS,), EOS

    def __init__(self, encoder: Encoder, net: nn.Module) -> None:
        self.encoder, self.never = encoder, unwritten(encoder, net)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text.

        Raises:
            UserError: a part of it is not in the vocabulary.
        """
        encoding = self.encoder.tokenizer.encode(text, add_special_tokens=False)
        for token, (first, last) in zip(encoding.ids, encoding.offsets, strict=True):
            if token == UNK:
                problem = f"is not among the {len(self.encoder)} tokens of this network"
                raise UserError(text[first:last], problem)
        return list(encoding.ids)

    def decode(self, ids: list[int]) -> str:
        """Return the text, without special tokens."""
        return self.encoder.decode(ids)


def read_vocabulary(usage: Mapping[str, Any], net: nn.Module) -> Words | Tokens:
    """Return the vocabulary of usage.json.

    Raises:
        ValueError: it has none, or more tokens than the network has scores.
    """
    if "tokenizer" in usage:
        return Tokens(encoder_of(usage, net), net)
    words = [str(word) for word in usage.get("words") or []]
    size = getattr(net, "vocabulary_size", 0)
    if not 0 < len(words) <= size:
        raise ValueError(f"usage.json: {len(words)} words for this {type(net).__name__}")
    return Words(words, size)


def check_flags(options: Mapping[str, Any]) -> None:
    """Refuse values out of range, and flags that do not go together.

    Raises:
        UserError: names the flag.
    """
    drawing = [name for name in SAMPLING if options[name] is not None]
    if options["beams"] is None and options["length_penalty"] is not None:
        raise UserError("--length_penalty", "is of a search", "give --beams too")
    if options["beams"] is not None and drawing:
        raise UserError(f"--{drawing[0]}", "is for drawing, but --beams asks for a search")
    try:
        Sampling(**given(options, *SAMPLING))
        if options["beams"] is not None:
            check_options(options["beams"], options["count"] or 1, False)
    except ValueError as error:
        raise UserError(f"--{str(error).split()[0]}", str(error)) from None


def given(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return those of the options that the user has given."""
    return {name: options[name] for name in names if options[name] is not None}


def find_length(net: nn.Module, prompt: int, length: int | None) -> int:
    """Return how many tokens to write after a prompt of so many.

    Raises:
        UserError: the network has not so many positions.
    """
    most = getattr(net, "max_length", None)
    if most is None:
        return length or LENGTH
    room = most - prompt
    if room < 1:
        raise UserError("", f"the text has {prompt} tokens; this network goes on from {most - 1}")
    if length is not None and length > room:
        problem = f"{length} after {prompt} tokens are more than max_length {most}"
        raise UserError("--length", problem, f"valid: at most {room}")
    return length or min(LENGTH, room)


def sample(
    net: nn.Module, usage: Mapping[str, Any], words: list[str], options: dict[str, Any]
) -> None:
    """Print texts that begin with the given words.

    Raises:
        UserError: a word is not in the vocabulary, or an option is out of range.
        ValueError: usage.json has no vocabulary, or more tokens than the network has scores.
    """
    vocabulary = read_vocabulary(usage, net)
    check_flags(options)
    prompt = vocabulary.encode(" ".join(words))
    texts = write_texts(net, vocabulary, prompt, options)
    lines = [vocabulary.decode([*prompt, *text]) for text in texts]
    print(("\n\n" if any("\n" in line for line in lines) else "\n").join(lines))


def write_texts(
    net: Any, vocabulary: Words | Tokens, prompt: list[int], options: Mapping[str, Any]
) -> list[list[int]]:
    """Return texts that follow the prompt, as tokens, without the end.

    Raises:
        UserError: there are too few positions.
    """
    first = [*vocabulary.begin, *prompt]
    length, end = find_length(net, len(first), options["length"]), vocabulary.end
    read: Read = net.read if hasattr(net, "start") else recurrent_reader(net)
    cache: Reorderable = RecurrentCache()
    if hasattr(net, "start"):
        cache = net.start(len(first) + length - 1)  # the last token is not read
    device = next(net.parameters()).device
    ids, never = torch.tensor([first], device=device), vocabulary.never
    if options["beams"] is not None:
        search = given(options, "beams", "length_penalty", "count")
        ids, _ = beam_search(read, ids, cache, length=length, end=end, never=never, **search)
    else:
        how = given(options, *SAMPLING) | {"count": options["count"] or COUNT}
        how["generator"] = torch.Generator(device).manual_seed(options["seed"])
        ids = generate(read, ids, cache, length=length, end=end, never=never, **how)
    texts = ids[:, len(first) :].tolist()
    return [text[: text.index(end)] if end in text else text for text in texts]
