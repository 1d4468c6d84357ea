"""Tag the words of a sentence (rows 16-18).

usage.json has `words`, `letters` and `tags`, all with <unk> first, and `longest`, the number of
letters of a word that are read. Words are looked up in small letters; letters keep their capitals.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlreview.data.tagged import spell
from dlreview.messages import UserError
from dlreview.running.command import Flag, whole

FLAGS = {"--top": Flag(whole(1), 1)}
WORDS, FILES = (1, 100_000), False
HELP = """
  "SENTENCE" ...     words and punctuation marks, with blanks between them
  --top N            the N likeliest tags of each word (default 1)"""
LENGTHS = range(4, 13)  # words of a sentence that is a good example
SENTENCE = "The cat sat on the mat ."


def tag(usage: Mapping[str, Any]) -> str:
    """Name the task as the hub does."""
    return "token-classification"


def example(data: Any, folder: Path) -> list[str] | None:
    """Return a short sentence of the test split; for data of another form a fixed one."""
    words = getattr(data, "forms", None)
    sentences = getattr(getattr(data, "test_set", None), "forms", None)
    if words is None or sentences is None:
        return [SENTENCE]
    for row, length in enumerate(sentences.length.tolist()):
        if length in LENGTHS:
            text = " ".join(words.decode(sentences[[row]]["text"].tolist()))
            if not text.startswith("-"):  # `sample` would take it for a flag
                return [text]
    return [SENTENCE]


@torch.no_grad()
def sample(
    net: nn.Module, usage: Mapping[str, Any], words: list[str], options: dict[str, Any]
) -> None:
    """Print each word of each sentence with its likeliest tags and their probabilities.

    Raises:
        UserError: a sentence is empty.
        ValueError: usage.json does not fit the network.
    """
    sizes = {
        "words": getattr(net, "vocabulary_size", 0),
        "letters": getattr(getattr(net, "spelling", None), "letters", 0),
        "tags": getattr(net, "num_tags", 0),
    }
    tables = {name: [str(entry) for entry in usage.get(name) or []] for name in sizes}
    for name, size in sizes.items():
        if not 0 < len(tables[name]) <= size:
            found = f"{len(tables[name])} {name} for this {type(net).__name__}"
            raise ValueError(f"usage.json: {found}")
    sentences = [text.split() for text in words]
    if not all(sentences):
        raise UserError("SENTENCE", "is empty")
    word = {w: n for n, w in enumerate(tables["words"])}
    letter = {c: n for n, c in enumerate(tables["letters"])}
    device, longest = next(net.parameters()).device, int(usage.get("longest", 20))
    width = max(len(w) for s in sentences for w in s)
    for sentence in sentences:
        forms = sorted(set(sentence))
        spellings = torch.from_numpy(spell(forms, letter, longest)).long().to(device)
        form = torch.tensor([[forms.index(w) for w in sentence]], device=device)
        ids = torch.tensor([[word.get(w.lower(), 0) for w in sentence]], device=device)
        logits = net(ids, spellings, form, torch.tensor([len(sentence)]))[0].float()
        logits[:, len(tables["tags"]) :] = -torch.inf  # rows that stand for no tag
        logits[:, 0] = -torch.inf  # <unk>
        share, best = logits.softmax(dim=1).topk(min(options["top"], len(tables["tags"]) - 1))
        for text, shares, tags in zip(sentence, share.tolist(), best.tolist(), strict=True):
            row = (f"{tables['tags'][t]} {p:.3f}" for p, t in zip(shares, tags, strict=True))
            print(f"{text:{width}}  " + "  ".join(row))
        print()
