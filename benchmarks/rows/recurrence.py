"""RNN and LSTM beside torch.nn's: both call torch's kernel, ours must add nothing to it."""

from __future__ import annotations

from typing import Any

import torch
from pair import Pair, Row
from torch import nn


def recurrent(
    kind: type[nn.Module], device: str, width: int, depth: int, batch: int, steps: int, **more: Any
) -> Pair:
    """Build a network that reads a batch of random sequences."""
    theirs = kind(width, width, depth, batch_first=True, **more).to(device)
    x = torch.randn(batch, steps, width, device=device)
    return Pair(theirs, (x,), output=lambda output: output[0], own_output=lambda output: output[0])


SMALL = {"width": 256, "depth": 2, "batch": 32, "steps": 64}
LARGE = {"width": 1024, "depth": 2, "batch": 64, "steps": 256}
TWO = {"bidirectional": True}
ROWS = [
    Row(
        name,
        cpu=lambda kind=kind, more=more: recurrent(kind, "cpu", **SMALL, **more),
        cuda=lambda kind=kind, more=more: recurrent(kind, "cuda", **LARGE, **more),
        compiled=False,  # the kernel is one call
    )
    for name, kind, more in (("RNN", nn.RNN, {}), ("LSTM", nn.LSTM, {}), ("BiLSTM", nn.LSTM, TWO))
]
