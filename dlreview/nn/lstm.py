"""Long short-term memory (Hochreiter & Schmidhuber 1997, doi 10.1162/neco.1997.9.8.1735).

    f_t = sigma(W_f [h_{t-1}, x_t] + b_f)      i_t = sigma(W_i [h_{t-1}, x_t] + b_i)
    c~_t = tanh(W_C [h_{t-1}, x_t] + b_C)      C_t = f_t * C_{t-1} + i_t * c~_t
    o_t = sigma(W_o [h_{t-1}, x_t] + b_o)      h_t = o_t * tanh(C_t)      (review rows 11-18)

The four gates' rows are stored on top of each other in torch's order i, f, C, o, the columns of
h and x apart (W_h and W_x), which is how the kernels read them. The review has one bias per gate,
torch.nn.LSTM none or two that are added: `biases` counts them. The forget gate is that of Gers et
al. 2000, the projection Sak et al. 2014 (arXiv:1402.1128).
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from dlreview.nn.recurrence import Recurrence, bias_pair, check_choices, check_sizes, uniform

Matrix = Float[Tensor, "width columns"]
Bias = Float[Tensor, "width"]
Output = Float[Tensor, "*batch output"]
Input = Float[Tensor, "*batch input"]
Gate = Float[Tensor, "*batch width"]


def affine(W: Matrix, h: Output, x: Input, b: Bias) -> Gate:
    """Compute W [h_{t-1}, x_t] + b."""
    return torch.cat([h, x], dim=-1) @ W.T + b


def forget_gate(W_f: Matrix, h: Output, x: Input, b_f: Bias) -> Gate:
    """Compute f_t, in 0..1: how much of each dimension of C_{t-1} flows on (row 12)."""
    return torch.sigmoid(affine(W_f, h, x, b_f))


def input_gate(W_i: Matrix, h: Output, x: Input, b_i: Bias) -> Gate:
    """Compute i_t, in 0..1: how much of the candidate is written (row 13)."""
    return torch.sigmoid(affine(W_i, h, x, b_i))


def candidate(W_C: Matrix, h: Output, x: Input, b_C: Bias) -> Gate:
    """Compute c~_t, in -1..1: what could be written (row 13)."""
    return torch.tanh(affine(W_C, h, x, b_C))


def cell_state(f: Gate, C: Gate, i: Gate, c: Gate) -> Gate:
    """Compute C_t = f_t * C_{t-1} + i_t * c~_t: no matrix stands in C's way (rows 11, 14)."""
    return f * C + i * c


def output_gate(W_o: Matrix, h: Output, x: Input, b_o: Bias) -> Gate:
    """Compute o_t, in 0..1: how much of the cell state is shown (row 15)."""
    return torch.sigmoid(affine(W_o, h, x, b_o))


def hidden_state(o: Gate, C: Gate) -> Gate:
    """Compute h_t = o_t * tanh(C_t) (row 15)."""
    return o * torch.tanh(C)


class LSTMCell(nn.Module):
    """Hold the gates of a layer in one direction; b_h is torch's second bias, P the projection."""

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
        """List the width of each tensor of the state: of h and C."""
        return [self.W_h.shape[1], self.width]

    def gates(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return (W, b) of each gate as the review writes them: W has the columns of [h, x]."""
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
        """Take one step: h_{t-1}, C_{t-1} to h_t, C_t (rows 12-15)."""
        (W_i, b_i), (W_f, b_f), (W_C, b_C), (W_o, b_o) = self.gates().values()
        f = forget_gate(W_f, h, x, b_f)
        i = input_gate(W_i, h, x, b_i)
        c = candidate(W_C, h, x, b_C)
        C = cell_state(f, C, i, c)
        o = output_gate(W_o, h, x, b_o)
        h = hidden_state(o, C)
        return h if self.P is None else h @ self.P.T, C


class LSTM(nn.Module):
    """Read sequences with a cell state beside the hidden one (rows 11-16).

    `biases` is 0, 1 (the review) or 2 (torch's bias=True); `projection` is the width that h is
    brought down to, None for none. With two `directions` a second set of weights reads from the
    end, and both h_t are joined. `dropout` acts between layers.

    Raises:
        ValueError: a size is not positive, a choice is not one of those named here, or the
            projection is not narrower than `width`.
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
        check_sizes(input_width=input_width, width=width, depth=depth)
        check_choices(biases, dropout, directions)
        if projection is not None and not 0 < projection < width:
            raise ValueError(f"projection {projection} is not between 1 and width {width} - 1")
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
        """Return the last layer's h_t and every cell's last (h, C); the first `state` is 0.

        Cells go layer by layer, ahead before back. `as_written` takes the six equations step after
        step in place of torch's kernel, which computes the same.
        """
        return self.recurrence(x, state, as_written)


class BiLSTM(LSTM):
    """Read sequences from both ends with an LSTM each and join their h_t (row 18).

    Both neighbourhoods of a word shape its vector, so that a bat that flies is no bat that hits.

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
