"""Recurrent network (Elman 1990, doi 10.1207/s15516709cog1402_1; review rows 6-10).

    h_i = sigma(U v_i + W h_{i-1}),    y_i = M h_i

Every step uses the same U, W and M; `UnsharedRNN` has other matrices at every step, which row 7
rejects. The review has no biases, torch.nn.RNN none or two: `biases` is their number.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from dlreview.messages import check_at_least, check_known
from dlreview.nn.inputs import check_size
from dlreview.nn.recurrence import Recurrence, bias_pair, check_choices, uniform

SIGMA: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
}
KERNEL = {"tanh": "rnn_tanh", "relu": "rnn_relu"}


def hidden_state(
    U: Float[Tensor, "width input"],
    v: Float[Tensor, "*batch input"],
    W: Float[Tensor, "width width"],
    h: Float[Tensor, "*batch width"],
    sigma: Callable[[Tensor], Tensor] = torch.tanh,
    b: Float[Tensor, "width"] | float = 0.0,
) -> Float[Tensor, "*batch width"]:
    """Compute h_i = sigma(U v_i + W h_{i-1}) (row 9); the review has no bias `b`."""
    return sigma(v @ U.T + h @ W.T + b)


def output(
    M: Float[Tensor, "output width"], h: Float[Tensor, "*batch width"]
) -> Float[Tensor, "*batch output"]:
    """Compute y_i = M h_i (row 9)."""
    return h @ M.T


class RNNCell(nn.Module):
    """Compute one layer in one direction; b_W is torch's second bias."""

    def __init__(self, input_width: int, width: int, activation: str, biases: int) -> None:
        super().__init__()
        self.activation = activation
        self.U = uniform(width, input_width, width=width)
        self.W = uniform(width, width, width=width)
        self.b, self.b_W = bias_pair(width, width, biases)

    def weights(self) -> list[Tensor]:
        """List the weights in the order of torch's kernels."""
        return [w for w in (self.U, self.W, self.b, self.b_W) if w is not None]

    def state_widths(self) -> list[int]:
        """List the width of the state's only tensor h."""
        return [len(self.W)]

    def forward(
        self, v: Float[Tensor, "batch input"], h: Float[Tensor, "batch width"]
    ) -> tuple[Float[Tensor, "batch width"]]:
        """Compute h_i from v_i and h_{i-1} (row 9)."""
        b = sum(self.weights()[2:], start=0.0)
        return (hidden_state(self.U, v, self.W, h, SIGMA[self.activation], b),)


class RNN(nn.Module):
    """Read sequences with the same weights at every step (rows 6-9).

    `activation` is sigma: "tanh", "relu" or "sigmoid". The outputs are h_i of the last layer or,
    with an `output_width`, y_i = M h_i. With two `directions` a second set of weights reads
    backwards, and both h_i are concatenated. `dropout` acts between layers. `biases` is 0 (the
    review), 1, or 2 (torch's bias=True).

    Raises:
        ValueError: a size is below 1, or `activation`, `biases`, `dropout` or `directions` has
            another value.
    """

    def __init__(
        self,
        input_width: int,
        width: int,
        depth: int = 1,
        activation: str = "tanh",
        biases: int = 0,
        dropout: float = 0.0,
        directions: int = 1,
        output_width: int | None = None,
    ) -> None:
        check_at_least(1, input_width=input_width, width=width, depth=depth)
        check_at_least(1, output_width=output_width)
        check_known("activation", activation, SIGMA)
        check_choices(biases, dropout, directions)
        super().__init__()
        self.input_width = input_width
        self.width = width
        self.depth = depth
        self.activation = activation
        self.biases = biases
        self.dropout = dropout
        self.directions = directions
        self.output_width = output_width
        joined = width * directions
        below = [input_width] + [joined] * (depth - 1)
        stacks = [[RNNCell(n, width, activation, biases) for n in below] for _ in range(directions)]
        self.recurrence = Recurrence(stacks, KERNEL.get(activation), dropout)
        self.M = None if output_width is None else uniform(output_width, joined, width=joined)

    def forward(
        self,
        v: Float[Tensor, "*batch time input"] | PackedSequence,
        h0: Float[Tensor, "cells *batch width"] | None = None,
        as_written: bool = False,
    ) -> tuple[
        Float[Tensor, "*batch time output"] | PackedSequence, Float[Tensor, "cells *batch width"]
    ]:
        """Return the outputs and the last h of every cell; `h0` is by default 0.

        Cells are ordered by layer, forward before backward. With `as_written`, or a sigma for which
        torch has no kernel, the equations run step by step; torch's kernel computes the same.
        """
        y, (h,) = self.recurrence(v, None if h0 is None else (h0,), as_written)
        if self.M is None:
            return y, h
        if isinstance(y, PackedSequence):
            return y._replace(data=output(self.M, y.data)), h
        return output(self.M, y), h


class UnsharedRNN(nn.Module):
    """Read sequences of at most `length` steps with another U, W and M at every step (row 7).

    This is a bad idea: the number of parameters grows with `length`, and no step can use what
    another step has learned.

    Raises:
        ValueError: a size is below 1, `activation` is unknown, or a sequence is too long.
    """

    def __init__(
        self,
        input_width: int,
        width: int,
        length: int,
        activation: str = "tanh",
        output_width: int | None = None,
    ) -> None:
        check_at_least(1, input_width=input_width, width=width, length=length)
        check_at_least(1, output_width=output_width)
        check_known("activation", activation, SIGMA)
        super().__init__()
        self.input_width = input_width
        self.width = width
        self.length = length
        self.activation = activation
        self.output_width = output_width
        self.U = uniform(length, width, input_width, width=width)
        self.W = uniform(length, width, width, width=width)
        self.M = None if output_width is None else uniform(length, output_width, width, width=width)

    def forward(
        self, v: Float[Tensor, "batch time input"], h0: Float[Tensor, "1 batch width"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], Float[Tensor, "1 batch width"]]:
        """Return the outputs and the last h; `h0` is by default 0."""
        time = v.shape[1]
        if time > self.length:
            raise ValueError(f"a sequence must have at most length {self.length} steps, got {time}")
        check_size("width of inputs", v, 2, self.input_width)
        h = v.new_zeros(len(v), self.width) if h0 is None else h0[0]
        sigma = SIGMA[self.activation]
        outputs = []
        for i in range(time):
            h = hidden_state(self.U[i], v[:, i], self.W[i], h, sigma)
            outputs.append(h if self.M is None else output(self.M[i], h))
        return torch.stack(outputs, dim=1), h[None]
