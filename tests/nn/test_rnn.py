import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from dlreview.nn.rnn import RNN, SIGMA, UnsharedRNN, hidden_state, output
from dlreview.reference import from_reference
from tests.parity import assert_parity, scramble

BATCH, TIME, INPUT, WIDTH = 4, 6, 3, 5
CONFIGS = [
    {},
    {"nonlinearity": "relu"},
    {"bias": False},
    {"num_layers": 2},
    {"num_layers": 3, "bidirectional": True},
    {"bidirectional": True, "bias": False, "nonlinearity": "relu"},
]


def sequences(packed: bool = False) -> Tensor | PackedSequence:
    x = torch.randn(BATCH, TIME, INPUT, generator=torch.Generator().manual_seed(2)).double()
    lengths = torch.tensor([2, 6, 1, 5])
    return pack_padded_sequence(x, lengths, True, enforce_sorted=False) if packed else x


def first_state(net: RNN) -> Tensor:
    shape = (net.depth * net.directions, BATCH, net.width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(3)).double()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("as_written", [False, True])
def test_matches_torch(config, packed, as_written):
    theirs = scramble(nn.RNN(INPUT, WIDTH, batch_first=True, **config))
    ours = from_reference(theirs)
    x, h0 = sequences(packed), first_state(ours)

    def call(net, *how):
        y, h = net(x, h0, *how)
        return y.data, h

    assert_parity(ours, theirs, lambda net: call(net, as_written), call)


def test_starts_from_zeros_and_reads_a_single_sequence():
    theirs = scramble(nn.RNN(INPUT, WIDTH, 2, bidirectional=True))  # time first, as it comes
    ours = from_reference(theirs)
    for as_written in (False, True):
        y, h = ours(sequences()[0], as_written=as_written)
        y_theirs, h_theirs = theirs(sequences()[0])
        torch.testing.assert_close(y, y_theirs, atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(h, h_theirs, atol=1e-10, rtol=1e-10)


def test_a_wrong_sigma_is_caught():
    theirs = scramble(nn.RNN(INPUT, WIDTH, batch_first=True, nonlinearity="relu"))
    ours = from_reference(nn.RNN(INPUT, WIDTH, batch_first=True)).double()
    ours.load_state_dict(from_reference(theirs).state_dict())
    with pytest.raises(AssertionError, match="not close"):
        assert_parity(
            ours, theirs, lambda net: net(sequences())[0], lambda net: net(sequences())[0]
        )


@pytest.mark.parametrize("activation", sorted(SIGMA))
def test_is_the_written_recurrence(activation):
    net = scramble(RNN(INPUT, WIDTH, activation=activation, output_width=2))
    U, W, v = net.recurrence.ahead[0].U, net.recurrence.ahead[0].W, sequences()
    y, last = net(v)
    h = torch.zeros(BATCH, WIDTH).double()
    for i in range(TIME):
        h = hidden_state(U, v[:, i], W, h, SIGMA[activation])
        torch.testing.assert_close(y[:, i], output(net.M, h), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(last[0], h, atol=1e-10, rtol=1e-10)
    packed = net(sequences(packed=True))[0]  # the longest, then the second, then the others
    torch.testing.assert_close(packed.data[:BATCH], y[[1, 3, 0, 2], 0], atol=1e-10, rtol=1e-10)


def test_hidden_state_in_numbers():
    """1 * 2 + 0.5 * (-4) + bias 3 = 3; relu(-3) = 0."""
    U, W, v, h = (torch.tensor([[x]]) for x in (1.0, 0.5, 2.0, -4.0))
    b = torch.tensor([3.0])
    assert hidden_state(U, v, W, h, torch.relu, b) == 3
    assert hidden_state(U, v, W, h, torch.relu, -b) == 0
    assert hidden_state(U, v, W, h + 4) == torch.tanh(v)


def test_has_no_biases_by_default_and_one_weight_set_for_all_steps():
    names = [name for name, _ in RNN(INPUT, WIDTH, output_width=2).named_parameters()]
    assert names == ["M", "recurrence.ahead.0.U", "recurrence.ahead.0.W"]
    shared = sum(p.numel() for p in RNN(INPUT, WIDTH).parameters())
    unshared = sum(p.numel() for p in UnsharedRNN(INPUT, WIDTH, TIME).parameters())
    assert unshared == TIME * shared


def test_unshared_equals_shared_when_its_matrices_do():
    shared = scramble(RNN(INPUT, WIDTH, output_width=2))
    net = UnsharedRNN(INPUT, WIDTH, TIME, output_width=2).double()
    cell = shared.recurrence.ahead[0]
    with torch.no_grad():
        for name, matrix in [("U", cell.U), ("W", cell.W), ("M", shared.M)]:
            getattr(net, name).copy_(matrix.expand(TIME, *matrix.shape))
    for mine, other in zip(net(sequences()), shared(sequences()), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-10, rtol=1e-10)
    assert net(sequences()[:, :2])[0].shape == (BATCH, 2, 2)
    with pytest.raises(ValueError, match="at most length 6 steps, got 7"):
        net(torch.zeros(BATCH, 7, INPUT).double())


def test_dropout_acts_between_layers_in_training_only():
    net = RNN(INPUT, WIDTH, 2, dropout=0.5).double()
    x = sequences()
    for as_written in (False, True):
        net.eval()
        assert torch.equal(net(x, None, as_written)[0], net(x, None, as_written)[0])
        net.train()
        assert not torch.equal(net(x, None, as_written)[0], net(x, None, as_written)[0])
    alone = copy.deepcopy(net)
    alone.recurrence.ahead = alone.recurrence.ahead[:1]
    assert torch.equal(alone(x)[0], alone(x)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "^width must be at least 1, got 0"),
        ({"input_width": -1}, "input_width must be at least 1, got -1"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"output_width": 0}, "output_width must be at least 1, got 0"),
        ({"activation": "tahn"}, "activation 'tahn' is unknown; did you mean 'tanh'?"),
        ({"biases": 3}, "biases must be 0, 1 or 2, got 3"),
        ({"dropout": 1.5}, r"dropout must be in \[0, 1\], got 1.5"),
        ({"directions": 3}, "directions must be 1 or 2, got 3"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        RNN(**{"input_width": INPUT, "width": WIDTH} | change)


def test_unshared_refuses():
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        UnsharedRNN(INPUT, WIDTH, 0)
    with pytest.raises(ValueError, match="activation '' is unknown"):
        UnsharedRNN(INPUT, WIDTH, 2, activation="")


def test_refuses_a_state_of_another_depth():
    with pytest.raises(ValueError, match="states must have the shapes"):
        RNN(INPUT, WIDTH).double()(sequences(), torch.zeros(2, BATCH, WIDTH).double())
