import pytest
import torch
from torch import nn

from dlreview.nn.rnn import RNN
from dlreview.reference import find_map, formats, to_reference
from tests.parity import assert_round_trip, scramble

# torch warns that dropout between layers does nothing to a single one.
pytestmark = pytest.mark.filterwarnings("ignore:dropout option")


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_round_trip(layers, bidirectional, bias, batch_first):
    theirs = scramble(nn.RNN(3, 5, layers, "relu", bias, batch_first, 0.25, bidirectional))
    ours = assert_round_trip(theirs, "torch")
    assert repr(to_reference(ours, "torch")) == repr(theirs)


def test_dropout_of_a_single_layer_is_kept():
    theirs = scramble(nn.RNN(3, 5, dropout=0.5))
    assert to_reference(assert_round_trip(theirs, "torch"), "torch").dropout == 0.5


def test_one_bias_leaves_with_a_second_of_zeros():
    ours = scramble(RNN(3, 5, 2, biases=1))
    theirs = to_reference(ours, "torch")
    assert not theirs.bias_hh_l0.any() and not theirs.bias_hh_l1.any()
    x = torch.randn(2, 6, 3).double()
    torch.testing.assert_close(theirs(x), ours(x), atol=1e-10, rtol=1e-10)
    assert find_map(theirs).build_ours(theirs).biases == 2


def test_refuses_what_torch_does_not_have():
    for ours in (RNN(3, 5, activation="sigmoid"), RNN(3, 5, output_width=2)):
        assert formats(ours) == []
        with pytest.raises(ValueError, match="'torch' has no class for this"):
            to_reference(ours, "torch")
