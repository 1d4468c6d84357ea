"""A recurrent network as `generate` and `beam_search` call it: its state is all that it keeps."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from dlreview.samplers.decoding import Read


class RecurrentCache:
    """The state of a recurrent network: tensors (layers, batch, width), None at the beginning."""

    def __init__(self) -> None:
        self.state: Tensor | tuple[Tensor, ...] | None = None

    def reorder(self, rows: Int[Tensor, " new_batch"]) -> None:
        """Let row i be what row `rows[i]` was."""
        if isinstance(self.state, tuple):
            self.state = tuple(tensor.index_select(1, rows) for tensor in self.state)
        elif self.state is not None:
            self.state = self.state.index_select(1, rows)


def recurrent_reader(net: Any) -> Read:
    """Make a reader of a network that is called net(ids, state) and returns logits and state."""

    def read(
        ids: Int[Tensor, "batch new"], cache: RecurrentCache
    ) -> Float[Tensor, "batch vocabulary"]:
        logits, cache.state = net(ids, cache.state)
        return logits[:, -1]

    return read
