"""Say which words are missing in a text (Devlin et al. 2019), by a network that was trained to.

The network is called net(ids) and returns the logits of every token. `tokenizer` in usage.json is
the tokenizer of the training data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from tokenizers.decoders import ByteLevel
from torch import Tensor, nn

from dlreview.data.tokenizer import MASK, SPECIALS, Encoder
from dlreview.messages import UserError
from dlreview.running.command import Flag, whole
from dlreview.usage import encoder_of, first_text

FLAGS = {"--top": Flag(whole(1), 5)}
WORDS, FILES = (1, 100_000), False
HELP = """
  "TEXT" ...         with [MASK] or <mask> in place of each missing word
  --top N            the N likeliest tokens for each mask (default 5)"""
WRITTEN = re.compile(r"\[mask\]|<mask>", re.IGNORECASE)
LONGEST = 12  # words of an example
TEXT = "The [MASK] statement"


def tag(usage: Mapping[str, Any]) -> str:
    """Name the task as the hub does."""
    return "fill-mask"


def example(data: Any, folder: Path) -> list[str] | None:
    """Return the beginning of a text of the test split without its middle word.

    For data of another form it is a fixed text.
    """
    words = (first_text(data, "ids") or "").split()[:LONGEST]
    if len(words) < 3:
        return [TEXT]
    words[len(words) // 2] = "[MASK]"
    return [" ".join(words)]


def encode(encoder: Encoder, text: str, longest: int | None) -> list[int]:
    """Return the ids of a text, its masks among them.

    Raises:
        UserError: the text is empty, has no mask, or is longer than the network reads.
    """
    if not text.strip():
        raise UserError("TEXT", "is empty")
    if not WRITTEN.search(text):
        raise UserError("TEXT", f"has no [MASK]: {text}")
    # In byte-level tokens the blank before a word is a part of it.
    joined = isinstance(encoder.tokenizer.decoder, ByteLevel)
    mask = re.compile((r"\s*" if joined else "") + f"(?:{WRITTEN.pattern})", re.IGNORECASE)
    (ids,) = encoder.encode([mask.sub(SPECIALS[MASK], text)])
    if longest is not None and len(ids) > longest:
        raise UserError("TEXT", f"has {len(ids)} tokens, this network reads at most {longest}")
    return ids


@torch.no_grad()
def probabilities(net: nn.Module, ids: list[int], size: int) -> Float[Tensor, "masks vocabulary"]:
    """Return the probability of each token at each mask; special tokens have none."""
    device = next(net.parameters()).device
    text = torch.tensor([ids], device=device)
    logits = net(text)[0][text[0] == MASK].float()
    logits[:, : len(SPECIALS)] = -torch.inf
    logits[:, size:] = -torch.inf  # rows that stand for no token
    return logits.softmax(dim=1)


def sample(
    net: nn.Module, usage: Mapping[str, Any], words: list[str], options: dict[str, Any]
) -> None:
    """Print each text with its likeliest words, and the likeliest tokens of each mask.

    Raises:
        UserError: a text is empty, has no mask, or is too long.
        ValueError: usage.json does not fit the network.
    """
    encoder = encoder_of(usage, net)
    size, longest = len(encoder), getattr(net, "max_length", None)
    texts = [encode(encoder, text, longest) for text in words]
    for text, ids in zip(words, texts, strict=True):
        p = probabilities(net, ids, size)
        share, best = p.topk(min(options["top"], size - len(SPECIALS)), dim=1)
        rows = [[spelled(encoder, token) for token in row] for row in best.tolist()]
        print(filled(text, [row[0] for row in rows]))
        for tokens, shares in zip(rows, share.tolist(), strict=True):
            pairs = zip(tokens, shares, strict=True)
            print("  " + "  ".join(f"{token} {p:.3f}" for token, p in pairs))
        print()


def filled(text: str, words: list[str]) -> str:
    """Put words in place of the masks of a text, in turn."""
    parts = WRITTEN.split(text)
    return parts[0] + "".join(map("".join, zip(words, parts[1:], strict=True)))


def spelled(encoder: Encoder, token: int) -> str:
    """Return a token without the blanks around it; one of blanks alone as Python writes it."""
    text = encoder.decode([token])
    return text.strip() or repr(text)
