"""RNN and LSTM and those of torch.nn: both call torch's kernel, and ours must add no time to it."""

from __future__ import annotations

import torch
from pair import Pair, Row
from torch import nn


def recurrent(
    cls: type[nn.Module], device: str, both: bool, width: int, depth: int, batch: int, steps: int
) -> Pair:
    """Build a network, which may read in both directions, and a batch of random sequences."""
    theirs = cls(width, width, depth, batch_first=True, bidirectional=both).to(device)
    x = torch.randn(batch, steps, width, device=device)
    return Pair(theirs, (x,), output=lambda output: output[0], own_output=lambda output: output[0])


SMALL = {"width": 256, "depth": 2, "batch": 32, "steps": 64}
LARGE = {"width": 1024, "depth": 2, "batch": 64, "steps": 256}

ROWS = [
    Row(
        name,
        cpu=lambda cls=cls, both=both: recurrent(cls, "cpu", both, **SMALL),
        cuda=lambda cls=cls, both=both: recurrent(cls, "cuda", both, **LARGE),
        compiled=False,  # the kernel is one call
    )
    for name, cls, both in [
        ("RNN", nn.RNN, False),
        ("LSTM", nn.LSTM, False),
        ("BiLSTM", nn.LSTM, True),
    ]
]
