"""A language model computes what its parts compute, and continues from a state."""

import pytest
import torch

from dlreview.nn.lstm import LSTM, BiLSTM
from dlreview.nn.recurrent_language_model import RecurrentLanguageModel
from dlreview.nn.rnn import RNN
from tests.parity import scramble


@pytest.mark.parametrize("core", [LSTM(6, 9), RNN(6, 9, 2, biases=1), LSTM(6, 9, projection=4)])
@pytest.mark.parametrize("cut", [1, 4])
def test_a_text_in_two_parts_is_the_text(core, cut):
    net = scramble(RecurrentLanguageModel(11, core))
    ids = torch.randint(11, (3, 7))
    whole, end = net(ids)
    first, state = net(ids[:, :cut])
    second, last = net(ids[:, cut:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last, end, rtol=1e-12, atol=1e-12)


def test_it_equals_a_model_of_torch_modules():
    net = scramble(RecurrentLanguageModel(11, LSTM(6, 9)))
    theirs = torch.nn.LSTM(6, 9, batch_first=True).double()
    cell = net.core.recurrence.ahead[0]
    state = {"weight_ih_l0": cell.W_x, "weight_hh_l0": cell.W_h, "bias_ih_l0": cell.b}
    theirs.load_state_dict(state | {"bias_hh_l0": torch.zeros(36)})
    ids = torch.randint(11, (2, 5))
    h, _ = theirs(net.embedding.weight[ids])
    expected = h @ net.M.weight.T + net.M.bias
    torch.testing.assert_close(net(ids)[0], expected, rtol=1e-12, atol=1e-12)


def test_tied_weights_are_one_parameter():
    net = RecurrentLanguageModel(11, LSTM(9, 9), tied=True)
    assert net.M.weight is net.embedding.weight
    plain = RecurrentLanguageModel(11, LSTM(9, 9))
    count = lambda n: sum(p.numel() for p in n.parameters())  # noqa: E731
    assert count(plain) - count(net) == 11 * 9


def test_dropout_acts_in_training_only():
    net = RecurrentLanguageModel(11, LSTM(6, 9), dropout=0.5)
    ids = torch.randint(11, (2, 5))
    assert not torch.equal(net(ids)[0], net(ids)[0])
    net.eval()
    assert torch.equal(net(ids)[0], net(ids)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocabulary_size": 0, "core": LSTM(6, 9)}, "vocabulary_size must be at least 1, got 0"),
        ({"vocabulary_size": 5, "core": BiLSTM(6, 9)}, "directions 1"),
        ({"vocabulary_size": 5, "core": torch.nn.Linear(3, 3)}, "directions 1"),
        ({"vocabulary_size": 5, "core": RNN(6, 9, output_width=3)}, "output_width .* None, got 3"),
        ({"vocabulary_size": 5, "core": LSTM(6, 9), "tied": True}, "width 9, input_width 6"),
        ({"vocabulary_size": 5, "core": LSTM(6, 9), "dropout": 1.0}, r"dropout must be in \[0, 1"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        RecurrentLanguageModel(**arguments)
