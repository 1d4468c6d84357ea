import pytest
import torch
from torch import nn

from dlreview.nn.lstm import LSTM, BiLSTM
from dlreview.reference import formats, to_reference
from tests.parity import assert_round_trip, scramble

# torch warns that dropout between layers does nothing to a single one.
pytestmark = pytest.mark.filterwarnings("ignore:dropout option")


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("projection", [0, 2])
def test_round_trip(layers, bidirectional, bias, projection):
    theirs = nn.LSTM(3, 5, layers, bias, bidirectional, 0.25, bidirectional, projection)
    ours = assert_round_trip(scramble(theirs), "torch")
    assert type(ours) is (BiLSTM if bidirectional else LSTM)
    assert repr(to_reference(ours, "torch")) == repr(theirs)


def test_half_precision_and_frozen_weights_are_kept():
    theirs = nn.LSTM(3, 5, 2).bfloat16()
    theirs.weight_hh_l1.requires_grad_(False)
    ours = assert_round_trip(theirs, "torch")
    assert not ours.recurrence.ahead[1].W_h.requires_grad
    assert ours(torch.randn(2, 4, 3).bfloat16())[0].dtype == torch.bfloat16


@pytest.mark.parametrize("ours", [LSTM(3, 5, 2, directions=2), BiLSTM(3, 5)])
def test_one_bias_leaves_with_a_second_of_zeros(ours):
    assert formats(ours) == ["torch"]
    theirs = to_reference(scramble(ours), "torch")
    assert not theirs.bias_hh_l0.any()
    x = torch.randn(2, 6, 3).double()
    torch.testing.assert_close(theirs(x), ours(x), atol=1e-10, rtol=1e-10)
