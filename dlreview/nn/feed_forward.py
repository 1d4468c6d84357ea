"""The feed-forward network of a transformer: FFN(x) = W_2 f(W_1 x + b_1) + b_2 for each token.

Vaswani et al. 2017, arXiv:1706.03762, eq. 2. With a gate: Shazeer 2020, arXiv:2002.05202.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dlreview.messages import check_at_least
from dlreview.nn.activation import find_activation


class FeedForward(nn.Module):
    """Apply W_1, the activation f, W_2. `dropout` acts after f, `norm` before W_2.

    Raises:
        ValueError: A size is below 1 or the activation unknown.
    """

    def __init__(
        self,
        width: int,
        hidden_width: int,
        activation: str = "gelu",
        bias: bool = True,
        dropout: float = 0.0,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_at_least(1, width=width, hidden_width=hidden_width)
        self.width, self.hidden_width, self.bias = width, hidden_width, bias
        self.activation, self.dropout = activation, dropout
        self.f = find_activation(activation)
        self.W_1 = nn.Linear(width, hidden_width, bias=bias)
        self.norm = norm
        self.W_2 = nn.Linear(hidden_width, width, bias=bias)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Transform each token."""
        x = self.f(self.W_1(x))
        if self.dropout:
            x = F.dropout(x, self.dropout, self.training)
        return self.W_2(x if self.norm is None else self.norm(x))


class SwiGLU(nn.Module):
    """Let one half of the hidden layer gate the other: W_out (f(W_gate x) * W_value x).

    f is SiLU by default ("sigmoid" makes it GLU, "gelu" GEGLU). `packed` stores both weights in one
    matrix W_in: the rows of the gate come first or, with `gate_last`, last.

    Raises:
        ValueError: A size is below 1 or the activation unknown.
    """

    def __init__(
        self,
        width: int,
        hidden_width: int,
        activation: str = "silu",
        bias: bool = True,
        dropout: float = 0.0,
        norm: nn.Module | None = None,
        packed: bool = False,
        gate_last: bool = False,
    ) -> None:
        super().__init__()
        check_at_least(1, width=width, hidden_width=hidden_width)
        self.width, self.hidden_width, self.bias = width, hidden_width, bias
        self.activation, self.dropout = activation, dropout
        self.packed, self.gate_last = packed, gate_last
        self.f = find_activation(activation)
        if packed:
            self.W_in = nn.Linear(width, 2 * hidden_width, bias=bias)
        else:
            self.W_gate = nn.Linear(width, hidden_width, bias=bias)
            self.W_value = nn.Linear(width, hidden_width, bias=bias)
        self.norm = norm
        self.W_out = nn.Linear(hidden_width, width, bias=bias)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Transform each token."""
        if self.packed:
            gate, value = self.W_in(x).chunk(2, dim=-1)
            gate, value = (value, gate) if self.gate_last else (gate, value)
        else:
            gate, value = self.W_gate(x), self.W_value(x)
        x = self.f(gate) * value
        if self.dropout:
            x = F.dropout(x, self.dropout, self.training)
        return self.W_out(x if self.norm is None else self.norm(x))
