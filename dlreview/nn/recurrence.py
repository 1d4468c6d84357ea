"""Layers and directions of a recurrent cell: what `RNN` and `LSTM` share (review rows 8, 10, 18).

A cell is a module `cell(x, *state) -> state`. The first tensor of its state is its output, and
`weights()` lists its weights in the order of torch's kernels. The same numbers can be computed by
the cells, step by step as the equations are written, or by torch's fused kernel (cuDNN, oneDNN or
loops in C++), which first multiplies the inputs of all steps at once.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.backends.cudnn.rnn import get_cudnn_mode
from torch.nn.utils.rnn import PackedSequence

State = tuple[Tensor, ...]


def check_choices(biases: int, dropout: float, directions: int) -> None:
    """Refuse arguments that no RNN or LSTM can have.

    Raises:
        ValueError: `biases` is not 0, 1 or 2, `dropout` not in [0, 1], `directions` not 1 or 2.
    """
    if biases not in (0, 1, 2):
        raise ValueError(f"biases must be 0, 1 or 2, got {biases}")
    if not 0 <= dropout <= 1:  # torch allows 1 too
        raise ValueError(f"dropout must be in [0, 1], got {dropout}")
    if directions not in (1, 2):
        raise ValueError(f"directions must be 1 or 2, got {directions}")


def uniform(*shape: int, width: int) -> nn.Parameter:
    """Draw a parameter from U(-1/sqrt(width), 1/sqrt(width)), as torch.nn does."""
    bound = 1 / math.sqrt(width)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


def bias_pair(units: int, width: int, biases: int) -> tuple[Tensor | None, Tensor | None]:
    """Make the bias vectors of a cell; torch's kernels take none or two, so zeros are added to one.

    The zeros are no parameter and are not saved.
    """
    if biases == 0:
        return None, None
    second = nn.Buffer(torch.zeros(units), persistent=False)
    return uniform(units, width=width), second if biases == 1 else uniform(units, width=width)


def scan(
    cell: Callable[..., State],
    data: Float[Tensor, "tokens _"],
    batch_sizes: list[int],
    state: State,
    backwards: bool,
) -> tuple[Float[Tensor, "tokens _"], State]:
    """Run `cell` along a packed batch, whose longest sequence comes first.

    Step i has one row for each of the `batch_sizes[i]` sequences that are longer than i. The other
    sequences keep their state: they have ended or, read backwards, have not begun.
    """
    steps = data.split(batch_sizes)
    outputs = []
    for x in reversed(steps) if backwards else steps:
        new = cell(x, *(s[: len(x)] for s in state))
        outputs.append(new[0])
        state = tuple(torch.cat([n, s[len(x) :]]) for n, s in zip(new, state, strict=True))
    return torch.cat(outputs[::-1] if backwards else outputs), state


def record(
    cell: Callable[..., State], data: Float[Tensor, "time batch _"], state: State, backwards: bool
) -> tuple[Float[Tensor, "time batch _"], State]:
    """Run `cell` along a padded batch in a loop that torch.export records for any length."""
    from torch._higher_order_ops.scan import scan as loop  # a prototype in torch 2.11 to 2.14

    def step(state: State, x: Tensor) -> tuple[State, Tensor]:
        new = cell(x, *state)
        return new, new[0].clone()  # the loop forbids that its outputs share memory

    state, outputs = loop(step, state, data, reverse=backwards)
    return outputs, state


class Recurrence(nn.Module):
    """Stack layers of cells that read forwards and, with a second stack, that read backwards.

    `kernel` is the name of torch's function for these cells, if it has one. `dropout` acts between
    layers.

    Raises:
        ValueError: in a call, the inputs or the states are of another width or batch.
    """

    def __init__(
        self, stacks: Sequence[Sequence[nn.Module]], kernel: str | None, dropout: float
    ) -> None:
        super().__init__()
        self.ahead = nn.ModuleList(stacks[0])
        self.back = nn.ModuleList(stacks[1]) if len(stacks) > 1 else None
        self.kernel = kernel
        self.dropout = dropout

    def layers(self) -> list[tuple[Any, ...]]:
        """List the cells of each layer: the forward cell, then the backward cell."""
        stacks = [self.ahead] if self.back is None else [self.ahead, self.back]
        return list(zip(*stacks, strict=True))

    def cells(self) -> list[Any]:
        """List all cells as torch orders them."""
        return [cell for layer in self.layers() for cell in layer]

    def forward(
        self,
        x: Float[Tensor, "*batch time _"] | PackedSequence,
        states: State | None,
        as_written: bool = False,
    ) -> tuple[Tensor | PackedSequence, State]:
        """Return the outputs of the last layer and the last state of every cell.

        `states` are 0 if None. An input without a batch axis gives outputs without one.
        """
        if isinstance(x, PackedSequence):
            data, batch_sizes, order, restore = x
            if states is not None and order is not None:
                states = tuple(s.index_select(1, order) for s in states)
            y, states = self.run(data, batch_sizes, states, as_written)
            if restore is not None:
                states = tuple(s.index_select(1, restore) for s in states)
            return PackedSequence(y, batch_sizes, order, restore), states
        if x.ndim == 3:
            return self.run(x, None, states, as_written)
        states = states and tuple(rearrange(s, "cells width -> cells 1 width") for s in states)
        y, states = self.run(rearrange(x, "t w -> 1 t w"), None, states, as_written)
        return y[0], tuple(s[:, 0] for s in states)

    def run(
        self, data: Tensor, batch_sizes: Tensor | None, states: State | None, as_written: bool
    ) -> tuple[Tensor, State]:
        """Run the kernel or, without one, the cells, on a padded batch or on packed data."""
        batch = data.shape[0] if batch_sizes is None else int(batch_sizes[0])
        cells = self.cells()
        width = cells[0].weights()[0].shape[1]
        if data.shape[-1] != width:  # torch's kernels for a CPU would read beyond their memory
            raise ValueError(f"inputs must have width {width}, got {data.shape[-1]}")
        shapes = [(len(cells), batch, n) for n in cells[0].state_widths()]
        if states is None:
            states = tuple(data.new_zeros(shape) for shape in shapes)
        if [tuple(s.shape) for s in states] != shapes:
            raise ValueError(
                f"states must have the shapes {shapes}, got {[tuple(s.shape) for s in states]}"
            )
        exporting = torch.compiler.is_exporting()
        if exporting and batch_sizes is None and isinstance(data.shape[1], torch.SymInt):
            # torch.export records the kernels for one number of steps only.
            steps = rearrange(data, "batch time width -> time batch width")
            y, states = self.step_by_step(steps, None, states)
            return rearrange(y, "time batch width -> batch time width"), states
        # Under torch.compile oneDNN's LSTM has no gradient (torch 2.11 to 2.14): run the cells.
        compiling = torch.compiler.is_compiling() and not exporting
        untraceable = compiling and self.kernel == "lstm" and data.is_cpu
        if as_written or self.kernel is None or untraceable:
            if batch_sizes is not None:
                return self.step_by_step(data, batch_sizes.tolist(), states)
            tokens = rearrange(data, "batch time width -> (time batch) width")
            y, states = self.step_by_step(tokens, [batch] * data.shape[1], states)
            return rearrange(y, "(time batch) width -> batch time width", batch=batch), states
        return self.fused(data, batch_sizes, states)

    def fused(
        self, data: Tensor, batch_sizes: Tensor | None, states: State
    ) -> tuple[Tensor, State]:
        """Run torch's kernel."""
        if data.is_cuda and not torch.compiler.is_compiling():
            self.flatten_weights()
        kernel = getattr(torch, str(self.kernel))
        cells = self.cells()
        weights = [w for cell in cells for w in cell.weights()]
        biased, bidirectional = cells[0].b is not None, self.back is not None
        options = (biased, len(self.ahead), self.dropout, self.training, bidirectional)
        state = states if len(states) > 1 else states[0]
        if batch_sizes is None:
            y, *states = kernel(data, state, weights, *options, True)
        else:
            y, *states = kernel(data, batch_sizes, state, weights, *options)
        return y, tuple(states)

    def step_by_step(
        self, data: Tensor, batch_sizes: list[int] | None, states: State
    ) -> tuple[Tensor, State]:
        """Run the cells, one layer after the other, on packed data.

        Without `batch_sizes` the data are padded, time first, and torch.export records a loop.
        """
        first_states = zip(*states, strict=True)
        last_states = []
        for depth, layer in enumerate(self.layers()):
            if depth > 0:
                data = F.dropout(data, self.dropout, self.training)
            outputs = []
            for backwards, cell in enumerate(layer):
                first = next(first_states)
                if batch_sizes is None:
                    y, state = record(cell, data, first, backwards == 1)
                else:
                    y, state = scan(cell, data, batch_sizes, first, backwards == 1)
                outputs.append(y)
                last_states.append(state)
            data = torch.cat(outputs, dim=-1)
        return data, tuple(torch.stack(s) for s in zip(*last_states, strict=True))

    def flatten_weights(self) -> None:
        """Put the weights into one block of GPU memory; otherwise cuDNN does it in every call."""
        cells = self.cells()
        weights = [w for cell in cells for w in cell.weights()]
        blocks = {w.untyped_storage().data_ptr() for w in weights}
        same_kind = len({(w.device, w.dtype) for w in weights}) == 1
        if len(blocks) == 1 or not same_kind:
            return
        if not torch.backends.cudnn.is_acceptable(weights[0].data):
            return
        output, width = cells[0].state_widths()[0], cells[0].state_widths()[-1]
        with torch.cuda.device_of(weights[0]), torch.no_grad():
            torch._cudnn_rnn_flatten_weight(
                weights,
                len(cells[0].weights()),
                weights[0].shape[1],
                get_cudnn_mode(str(self.kernel).upper()),
                width,
                output if output < width else 0,
                len(self.ahead),
                True,
                self.back is not None,
            )
