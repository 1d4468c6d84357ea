"""Long short-term memory (Hochreiter & Schmidhuber 1997, doi 10.1162/neco.1997.9.8.1735).

    f_t = sigma(W_f [h_{t-1}, x_t] + b_f)      i_t = sigma(W_i [h_{t-1}, x_t] + b_i)
    c~_t = tanh(W_C [h_{t-1}, x_t] + b_C)      C_t = f_t * C_{t-1} + i_t * c~_t
    o_t = sigma(W_o [h_{t-1}, x_t] + b_o)      h_t = o_t * tanh(C_t)      (review rows 11-18)

The weights of the four gates are stacked in torch's order i, f, C, o, and the columns for h and x
are two matrices (W_h and W_x), as torch's kernels expect. The review has one bias per gate,
torch.nn.LSTM none, or two that are added: `biases` is their number. The forget gate is from Gers et
al. 2000, the projection from Sak et al. 2014 (arXiv:1402.1128).
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from dlreview.messages import check_at_least
from dlreview.nn.recurrence import Recurrence, bias_pair, check_choices, uniform

Matrix = Float[Tensor, "width columns"]
Bias = Float[Tensor, "width"]
Output = Float[Tensor, "*batch output"]
Input = Float[Tensor, "*batch input"]
Gate = Float[Tensor, "*batch width"]


def affine(W: Matrix, h: Output, x: Input, b: Bias) -> Gate:
    """Compute W [h_{t-1}, x_t] + b."""
    return torch.cat([h, x], dim=-1) @ W.T + b


def forget_gate(W_f: Matrix, h: Output, x: Input, b_f: Bias) -> Gate:
    """Compute f_t, in 0..1: how much of each dimension of C_{t-1} is kept (row 12)."""
    return torch.sigmoid(affine(W_f, h, x, b_f))


def input_gate(W_i: Matrix, h: Output, x: Input, b_i: Bias) -> Gate:
    """Compute i_t, in 0..1: how much of the candidate is written (row 13)."""
    return torch.sigmoid(affine(W_i, h, x, b_i))


def candidate(W_C: Matrix, h: Output, x: Input, b_C: Bias) -> Gate:
    """Compute c~_t, in -1..1: the values to write (row 13)."""
    return torch.tanh(affine(W_C, h, x, b_C))


def cell_state(f: Gate, C: Gate, i: Gate, c: Gate) -> Gate:
    """Compute C_t = f_t * C_{t-1} + i_t * c~_t: no matrix multiplies C (rows 11, 14)."""
    return f * C + i * c


def output_gate(W_o: Matrix, h: Output, x: Input, b_o: Bias) -> Gate:
    """Compute o_t, in 0..1: how much of the cell state is shown (row 15)."""
    return torch.sigmoid(affine(W_o, h, x, b_o))


def hidden_state(o: Gate, C: Gate) -> Gate:
    """Compute h_t = o_t * tanh(C_t) (row 15)."""
    return o * torch.tanh(C)


class LSTMCell(nn.Module):
    """Compute one layer in one direction; b_h is torch's second bias, P the projection."""

    def __init__(self, input_width: int, width: int, biases: int, projection: int | None) -> None:
        super().__init__()
        self.width = width
        output = projection or width
        self.W_x = uniform(4 * width, input_width, width=width)
        self.W_h = uniform(4 * width, output, width=width)
        self.b, self.b_h = bias_pair(4 * width, width, biases)
        self.P = None if projection is None else uniform(projection, width, width=width)

    def weights(self) -> list[Tensor]:
        """List the weights in the order of torch's kernels."""
        return [w for w in (self.W_x, self.W_h, self.b, self.b_h, self.P) if w is not None]

    def state_widths(self) -> list[int]:
        """List the widths of the state's tensors h and C."""
        return [self.W_h.shape[1], self.width]

    def gates(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return (W, b) of each gate as in the review: W is to be multiplied by [h, x]."""
        W = torch.cat([self.W_h, self.W_x], dim=1)
        b = sum((b for b in (self.b, self.b_h) if b is not None), start=W.new_zeros(len(W)))
        W = rearrange(W, "(gate width) columns -> gate width columns", gate=4)
        b = rearrange(b, "(gate width) -> gate width", gate=4)
        return dict(zip("ifCo", zip(W, b, strict=True), strict=True))

    def forward(
        self,
        x: Float[Tensor, "batch input"],
        h: Float[Tensor, "batch output"],
        C: Float[Tensor, "batch width"],
    ) -> tuple[Float[Tensor, "batch output"], Float[Tensor, "batch width"]]:
        """Compute h_t, C_t from x_t, h_{t-1}, C_{t-1} (rows 12-15)."""
        (W_i, b_i), (W_f, b_f), (W_C, b_C), (W_o, b_o) = self.gates().values()
        f = forget_gate(W_f, h, x, b_f)
        i = input_gate(W_i, h, x, b_i)
        c = candidate(W_C, h, x, b_C)
        C = cell_state(f, C, i, c)
        o = output_gate(W_o, h, x, b_o)
        h = hidden_state(o, C)
        return h if self.P is None else h @ self.P.T, C


class LSTM(nn.Module):
    """Read sequences with a hidden state and a cell state (rows 11-16).

    `biases` is 0, 1 (the review) or 2 (torch's bias=True); `projection` is the width to which h is
    reduced, or None. With two `directions` a second set of weights reads backwards, and both h_t
    are concatenated. `dropout` acts between layers.

    Raises:
        ValueError: a size is below 1, `biases`, `dropout` or `directions` has another value, or
            `projection` is not below `width`.
    """

    def __init__(
        self,
        input_width: int,
        width: int,
        depth: int = 1,
        biases: int = 1,
        dropout: float = 0.0,
        directions: int = 1,
        projection: int | None = None,
    ) -> None:
        check_at_least(1, input_width=input_width, width=width, depth=depth, projection=projection)
        check_choices(biases, dropout, directions)
        if projection is not None and projection >= width:
            raise ValueError(f"projection must be below width {width}, got {projection}")
        super().__init__()
        self.input_width = input_width
        self.width = width
        self.depth = depth
        self.biases = biases
        self.dropout = dropout
        self.directions = directions
        self.projection = projection
        below = [input_width] + [(projection or width) * directions] * (depth - 1)
        stacks = [
            [LSTMCell(n, width, biases, projection) for n in below] for _ in range(directions)
        ]
        self.recurrence = Recurrence(stacks, "lstm", dropout)

    def forward(
        self,
        x: Float[Tensor, "*batch time input"] | PackedSequence,
        state: tuple[Float[Tensor, "cells *batch output"], Float[Tensor, "cells *batch width"]]
        | None = None,
        as_written: bool = False,
    ) -> tuple[
        Float[Tensor, "*batch time joined"] | PackedSequence,
        tuple[Float[Tensor, "cells *batch output"], Float[Tensor, "cells *batch width"]],
    ]:
        """Return h_t of the last layer and the last (h, C) of every cell; `state` is by default 0.

        Cells are ordered by layer, forward before backward. With `as_written` the six equations run
        step by step instead of torch's kernel, which computes the same.
        """
        return self.recurrence(x, state, as_written)


class BiLSTM(LSTM):
    """Read sequences in both directions, with one LSTM for each, and concatenate h_t (row 18).

    The vector of a word depends on the words on both sides, so that the animal "bat" and the "bat"
    of a baseball player get different vectors.

    Raises:
        ValueError: as `LSTM`.
    """

    def __init__(
        self,
        input_width: int,
        width: int,
        depth: int = 1,
        biases: int = 1,
        dropout: float = 0.0,
        projection: int | None = None,
    ) -> None:
        super().__init__(input_width, width, depth, biases, dropout, 2, projection)
