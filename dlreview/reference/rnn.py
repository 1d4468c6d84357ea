"""torch.nn.RNN. Ours is always batch first; `to_reference` restores the layout of theirs."""

import warnings
from typing import Any

import torch
from torch import nn

from dlreview.nn.rnn import RNN
from dlreview.reference.maps import Example, Map
from dlreview.reference.weights import Op, Rule

# torch adds its two biases, so that one bias of ours becomes theirs and a second one of zeros.
ONE_BIAS = Op(lambda b, b_hidden: b + b_hidden, lambda b: (b, torch.zeros_like(b)))
ACTIVATIONS = {"RNN_TANH": "tanh", "RNN_RELU": "relu"}


def rules(net: Any, names: dict[str, str]) -> list[Rule]:
    """Pair the cells' `names` with torch's, whose suffix is the direction."""
    table: list[Rule] = []
    for stack, suffix in [("ahead", ""), ("back", "_reverse")][: net.directions]:
        for ours, theirs in names.items():
            table.append((f"recurrence.{stack}.{{i}}.{ours}", f"{theirs}_l{{i}}{suffix}"))
        if net.biases == 1:
            biases = (f"bias_ih_l{{i}}{suffix}", f"bias_hh_l{{i}}{suffix}")
            table.append((f"recurrence.{stack}.{{i}}.b", biases, ONE_BIAS))
    return table


def common_arguments(theirs: Any) -> dict[str, Any]:
    """Return the arguments that both our RNN and our LSTM have."""
    return {
        "input_width": theirs.input_size,
        "width": theirs.hidden_size,
        "depth": theirs.num_layers,
        "biases": 2 if theirs.bias else 0,
        "dropout": theirs.dropout,
    }


def build(cls: type[nn.Module], ours: Any, **others: Any) -> nn.Module:
    """Build torch's `cls`, batch first unless `ours` was made from one that is not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "dropout option adds dropout", UserWarning)
        return cls(
            ours.input_width,
            ours.width,
            ours.depth,
            bias=ours.biases > 0,
            batch_first=getattr(ours, "their_batch_first", True),
            dropout=ours.dropout,
            bidirectional=ours.directions == 2,
            **others,
        )


def build_ours(theirs: Any) -> RNN:
    """Build ours."""
    arguments, directions = common_arguments(theirs), 2 if theirs.bidirectional else 1
    ours = RNN(**arguments, activation=ACTIVATIONS[theirs.mode], directions=directions)
    ours.their_batch_first = theirs.batch_first
    return ours


def table(ours: RNN) -> list[Rule]:
    """Pair the names of the weights."""
    names = {"U": "weight_ih", "W": "weight_hh"}
    return rules(ours, names | ({"b": "bias_ih", "b_W": "bias_hh"} if ours.biases == 2 else {}))


MAPS = [
    Map(
        ours="dlreview.nn.rnn.RNN",
        theirs="torch.nn.RNN",
        library="torch",
        build_ours=build_ours,
        build_theirs=lambda ours: build(nn.RNN, ours, nonlinearity=ours.activation),
        table=table,
        fits=lambda ours: ours.activation in ACTIVATIONS.values() and ours.M is None,
    )
]

EXAMPLES = [
    Example(
        lambda: nn.RNN(48, 96, 2, batch_first=True),
        lambda: (torch.randn(16, 40, 48, dtype=torch.float64),),
    )
]
