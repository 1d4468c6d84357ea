"""torch.nn.LSTM. Ours is always batch first; `to_reference` restores the layout of theirs.

Both stack the gates in the order i, f, C, o; torch calls the candidate g.
"""

from functools import partial
from typing import Any

import torch
from torch import nn

from dlreview.nn.lstm import LSTM, BiLSTM
from dlreview.reference.maps import Example, Map
from dlreview.reference.rnn import build, common_arguments, rules
from dlreview.reference.weights import Rule


def build_ours(theirs: Any) -> LSTM:
    """Build an LSTM, or a BiLSTM if theirs is bidirectional."""
    cls = BiLSTM if theirs.bidirectional else LSTM
    ours = cls(**common_arguments(theirs), projection=theirs.proj_size or None)
    ours.their_batch_first = theirs.batch_first
    return ours


def build_theirs(ours: LSTM) -> nn.Module:
    """Build theirs."""
    return build(nn.LSTM, ours, proj_size=ours.projection or 0)


def table(ours: LSTM) -> list[Rule]:
    """Pair the names of the weights."""
    names = {"W_x": "weight_ih", "W_h": "weight_hh"}
    biases = {"b": "bias_ih", "b_h": "bias_hh"} if ours.biases == 2 else {}
    return rules(ours, names | biases | ({"P": "weight_hr"} if ours.projection else {}))


MAPS = [
    Map(
        ours=f"dlreview.nn.lstm.{cls.__name__}",
        theirs="torch.nn.LSTM",
        library="torch",
        build_ours=build_ours,
        build_theirs=build_theirs,
        table=table,
    )
    for cls in (LSTM, BiLSTM)
]


def _flat(outputs: Any) -> tuple[Any, ...]:
    output, (hidden, cell) = outputs
    return output, hidden, cell


EXAMPLES = [
    Example(
        partial(nn.LSTM, 48, 96, 2, batch_first=True, bidirectional=both),
        lambda: (torch.randn(16, 40, 48, dtype=torch.float64),),
        lambda net, x: _flat(net(x)),
        lambda net, x: _flat(net(x)),
    )
    for both in (False, True)
]
