"""Texts that a network writes for something: what translation and captioning have in common.

A text is <bos> w_1 ... w_n <eos>. The network is trained on -log p(w_{i+1} | w_1 ... w_i, what it
writes for), and measured by the texts that it writes by itself, always taking the likeliest token.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Int, Shaped
from lightning.pytorch import Trainer
from torch import Tensor

from dlreview.data.tokenizer import BOS, EOS, PAD, UNWRITTEN
from dlreview.learners.cross_entropy import token_losses
from dlreview.learners.learner import Batch, Weighted
from dlreview.samplers.decoding import generate

Texts = Int[Tensor, "batch length"]
SHOWN = 20  # texts in the file of examples


def text_losses(
    write: Callable[..., Tensor], ids: Texts, mask: Shaped[Tensor, "batch length"], smoothing: float
) -> Weighted:
    """Return the loss in nats of each token after the first; padding has weight 0.

    Args:
        write: called write(earlier tokens, score=...); a network whose other arguments are given.
        ids: the wanted texts.
        mask: 1 at tokens, 0 at padding.
        smoothing: share of each target that is spread over all tokens.
    """
    losses = write(
        ids[:, :-1], score=partial(token_losses, targets=ids[:, 1:], smoothing=smoothing)
    )
    return Weighted(losses, mask[:, 1:].to(losses.dtype))


@torch.no_grad()
def write_texts(net: Any, cache: Any, rows: int, length: int) -> Int[Tensor, "rows written"]:
    """Write a text for each row of what `cache` was started with.

    It is <bos> and at most `length` more tokens, the last of them <eos>, then padding.
    """
    prompt = torch.full((rows, 1), BOS, device=next(net.parameters()).device)
    how: dict[str, Any] = {"never": UNWRITTEN, "temperature": 0.0}
    return generate(net.read, prompt, cache, length=length, end=EOS, pad=PAD, **how)


class Written:
    """Pairs of a written and a wanted text, with what they were written for, of one validation."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, str, str, str]] = []
        self.examples: list[tuple[str, str, str]] = []

    def choose(self, batch: Batch, count: int, trainer: Trainer) -> Batch:
        """Return the rows of a batch whose texts are to be measured.

        They are the first `count` rows of the split: the same ones whatever the size and the order
        of the batches, and whatever the number of processes. A trainer that validates on a part of
        the batches only may meet none of them; then they are the first rows that it meets.
        """
        row, limit = batch["row"], trainer.limit_val_batches
        if isinstance(limit, float) and limit == 1.0:
            chosen = row < count
        else:
            chosen = torch.arange(len(row), device=row.device) < count - len(self.rows)
        return {k: v[chosen] if isinstance(v, Tensor) else v for k, v in batch.items()}

    def update(
        self, numbers: list[int], read: list[str], written: list[str], wanted: list[str]
    ) -> None:
        """Keep more of them, with the numbers of their rows in the split."""
        self.rows += zip(numbers, read, written, wanted, strict=True)

    def compute(self) -> tuple[list[str], list[str]]:
        """Return the written and the wanted texts of all processes, in order, and forget them."""
        rows, self.rows = self.rows, []
        if dist.is_available() and dist.is_initialized():
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, rows)
            rows = [row for part in parts for row in part]
        rows.sort()
        self.examples = [row[1:] for row in rows[:SHOWN]]
        return [written for *_, written, _ in rows], [wanted for *_, wanted in rows]

    def save(self, file: Path) -> None:
        """Write the first texts as a file of three columns, separated by tabs.

        Raises:
            OSError: the disk is full or not writable.
        """
        lines = ["read\twritten\twanted"]
        lines += ["\t".join(" ".join(text.split()) for text in row) for row in self.examples]
        staged = file.with_name(f".{file.name}")
        staged.write_text("\n".join([*lines, ""]), encoding="utf-8")
        staged.replace(file)
