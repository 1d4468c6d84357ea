"""Translate sentences (rows 19, 25-27): the tokenizer is in usage.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from dlreview.data.tokenizer import BOS, Encoder
from dlreview.messages import UserError
from dlreview.plots.alignment import alignment
from dlreview.running.command import Flag, whole
from dlreview.usage import SEARCH, encoder_of, first_text, save_picture, write_text

FLAGS = SEARCH | {"--length": Flag(whole(1, 100_000))}
WORDS, FILES = (1, 100_000), False
HELP = """
  "SENTENCE" ...     what is translated; a picture shows where the decoder looked
  --beams N          translations that are followed at once (default 4); 1 takes the likeliest word
  --length_penalty A a translation's score is its log probability / length^A (default 1)
  --length N         tokens of a translation at most (default: twice the sentence's, plus 10)"""


def tag(usage: Mapping[str, Any]) -> str:
    """Name the task as the hub does."""
    return "translation"


def example(data: Any, folder: Path) -> list[str] | None:
    """Return a sentence of the test split."""
    sentence = first_text(data, "source")
    return [sentence] if sentence else None


@torch.no_grad()
def sample(
    net: nn.Module, usage: Mapping[str, Any], words: list[str], options: dict[str, Any]
) -> None:
    """Print the translation of each sentence; draw where the decoder looked in the first.

    Raises:
        UserError: a sentence is empty or too long.
        ValueError: usage.json does not fit the network.
    """
    encoder, network, device = encoder_of(usage, net), cast(Any, net), next(net.parameters()).device
    most = network.max_length or 2**31
    sources = [encoder.encode([text])[0][1:] for text in words]  # with <eos>, without <bos>
    for text, numbers in zip(words, sources, strict=True):
        if not text.strip():
            raise UserError("SENTENCE", "is empty")
        if len(numbers) > most:
            problem = f"has {len(numbers)} tokens, this network reads at most {most}"
            raise UserError("SENTENCE", f"{problem}: {text[:80]}")
    for place, numbers in enumerate(sources):
        source = torch.tensor([numbers], device=device)
        length = min(options["length"] or 2 * len(numbers) + 10, most)
        written = write_text(net, network.start(source, None, length), encoder, length, options)
        print(encoder.decode(written))
        if place == 0 and written:
            show(net, encoder, source, written, Path(options["out"]))


def show(net: Any, encoder: Encoder, source: torch.Tensor, ids: list[int], folder: Path) -> None:
    """Draw the weights of the last layer, all heads averaged.

    Raises:
        OSError: the disk is full or not writable.
    """
    target = torch.tensor([[BOS, *ids]], device=source.device)
    weights = net.context_weights(source, target[:, :-1])[-1][0].mean(dim=0)
    picture = alignment(weights, encoder.tokens(ids), encoder.tokens(source[0].tolist()))
    save_picture(picture, folder, "alignment.png")
