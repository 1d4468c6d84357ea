"""Write captions of pictures (rows 97-100): pictures are read as the training data was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from dlreview.data.tokenizer import BOS
from dlreview.plots.alignment import looked
from dlreview.usage import SEARCH, classification, encoder_of, save_picture, write_text
from dlreview.usage.classification import read_picture

FLAGS = SEARCH
WORDS, FILES = (1, 100_000), True
HELP = """
  FILE ...           pictures, in the current folder or beside the network
  --beams N          captions that are followed at once (default 4); 1 takes the likeliest word
  --length_penalty A a caption's score is its log probability / length^A (default 1)"""
example = classification.example


def tag(usage: Mapping[str, Any]) -> str:
    """Name the task as the hub does."""
    return "image-to-text"


@torch.no_grad()
def sample(
    net: nn.Module, usage: Mapping[str, Any], words: list[str], options: dict[str, Any]
) -> None:
    """Print the caption of each picture; draw where the decoder looked in the first.

    Raises:
        UserError: a file is no picture.
        ValueError: usage.json does not fit the network.
    """
    encoder, network, parameter = encoder_of(usage, net), cast(Any, net), next(net.parameters())
    images = [read_picture(file, usage) for file in words]  # all, before the first line
    longest, length = max(len(Path(file).name) for file in words), network.max_length
    for place, (file, image) in enumerate(zip(words, images, strict=True)):
        image = image.to(parameter.device, parameter.dtype)
        ids = write_text(net, network.start(image, length), encoder, length, options)
        print(f"{Path(file).name:{longest}}  {encoder.decode(ids)}")
        if place == 0 and ids:
            show(net, encoder.tokens(ids), image, [BOS, *ids], Path(options["out"]))


def show(net: Any, words: list[str], image: torch.Tensor, ids: list[int], folder: Path) -> None:
    """Draw where the decoder looked, in the last layer, all heads averaged.

    Raises:
        OSError: the disk is full or not writable.
    """
    target = torch.tensor([ids], device=image.device)
    weights = net.context_weights(image, target[:, :-1])[-1][0].mean(dim=0)
    size = image.shape[-2:]
    covered = net.encoder.embedding.covered_size(*size)
    picture = looked(image[0], weights, words, net.grid(*size), covered)
    save_picture(picture, folder, "looked.png")
