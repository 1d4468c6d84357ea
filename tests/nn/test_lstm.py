import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from dlreview.nn import lstm
from dlreview.nn.lstm import LSTM, BiLSTM
from dlreview.reference import from_reference
from tests.parity import assert_parity, scramble

BATCH, TIME, INPUT, WIDTH = 4, 6, 3, 5
CONFIGS = [
    {},
    {"bias": False},
    {"num_layers": 2},
    {"num_layers": 3, "bidirectional": True},
    {"bidirectional": True, "bias": False},
    {"num_layers": 2, "bidirectional": True, "proj_size": 2},
    {"proj_size": 4, "bias": False},
]


def sequences(packed: bool = False) -> Tensor | PackedSequence:
    x = torch.randn(BATCH, TIME, INPUT, generator=torch.Generator().manual_seed(2)).double()
    lengths = torch.tensor([2, 6, 1, 5])
    return pack_padded_sequence(x, lengths, True, enforce_sorted=False) if packed else x


def first_state(net: LSTM) -> tuple[Tensor, Tensor]:
    generator, cells = torch.Generator().manual_seed(3), net.depth * net.directions
    widths = (net.projection or net.width, net.width)
    h, C = (torch.randn(cells, BATCH, n, generator=generator).double() for n in widths)
    return h, C


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("as_written", [False, True])
def test_matches_torch(config, packed, as_written):
    theirs = scramble(nn.LSTM(INPUT, WIDTH, batch_first=True, **config))
    ours = from_reference(theirs)
    x, state = sequences(packed), first_state(ours)

    def call(net, *how):
        y, (h, C) = net(x, state, *how)
        return y.data, h, C

    assert_parity(ours, theirs, lambda net: call(net, as_written), call)


def test_starts_from_zeros_and_reads_a_single_sequence():
    theirs = scramble(nn.LSTM(INPUT, WIDTH, 2, bidirectional=True))  # time first, as it comes
    ours = from_reference(theirs)
    for as_written in (False, True):
        mine, other = ours(sequences()[0], None, as_written), theirs(sequences()[0])
        torch.testing.assert_close(mine, other, atol=1e-10, rtol=1e-10)


def test_one_bias_and_joined_matrices_are_torchs():
    """The review's form: matrices of [h, x] in the order i, f, C, o, one bias and one of zeros."""
    ours = scramble(LSTM(INPUT, WIDTH))
    gates = ours.recurrence.ahead[0].gates()
    theirs = nn.LSTM(INPUT, WIDTH, batch_first=True).double()
    with torch.no_grad():
        for row, name in enumerate("ifCo"):
            W, b = gates[name]
            rows = slice(row * WIDTH, (row + 1) * WIDTH)
            theirs.weight_hh_l0[rows], theirs.weight_ih_l0[rows] = W[:, :WIDTH], W[:, WIDTH:]
            theirs.bias_ih_l0[rows], theirs.bias_hh_l0[rows] = b, 0
    mine, other = ours(sequences()), theirs(sequences())
    torch.testing.assert_close(mine, other, atol=1e-10, rtol=1e-10)


def test_a_swapped_gate_order_is_caught():
    theirs = scramble(nn.LSTM(INPUT, WIDTH, batch_first=True))
    ours = from_reference(theirs)
    with torch.no_grad():
        for name, weight in ours.named_parameters():
            i, f, C, o = weight.chunk(4)
            weight.copy_(torch.cat([f, i, C, o])), name
    with pytest.raises(AssertionError, match="not close"):
        assert_parity(
            ours, theirs, lambda net: net(sequences())[0], lambda net: net(sequences())[0]
        )


def test_six_equations_in_numbers():
    W, h, x, b = (torch.tensor(v) for v in ([[2.0, -1.0]], [[0.5]], [[3.0]], [0.25]))
    z = torch.tensor([[2 * 0.5 - 3 + 0.25]])
    for gate in (lstm.forget_gate, lstm.input_gate, lstm.output_gate):
        assert gate(W, h, x, b) == torch.sigmoid(z)
    assert lstm.candidate(W, h, x, b) == torch.tanh(z)
    f, C, i, c = (torch.tensor([[v]]) for v in (0.5, 4.0, 0.25, -2.0))
    assert lstm.cell_state(f, C, i, c) == 1.5
    assert lstm.hidden_state(f, C) == 0.5 * torch.tanh(C)


def test_an_open_forget_gate_keeps_the_cell_state_for_ever():
    """With f = 1 and i = 0, C does not change in 200 steps, nor its gradient (rows 11 and 16)."""
    net = LSTM(INPUT, WIDTH).double()
    with torch.no_grad():
        for name, bias in [("f", 1e3), ("i", -1e3)]:
            net.recurrence.ahead[0].b["ifCo".index(name) * WIDTH :][:WIDTH] = bias
    h, C = torch.zeros(1, 2, WIDTH).double(), torch.randn(1, 2, WIDTH).double().requires_grad_()
    _, (_, last) = net(torch.randn(2, 200, INPUT).double(), (h, C))
    assert torch.equal(last, C)
    assert torch.equal(torch.autograd.grad(last.sum(), C)[0], torch.ones_like(C))


def test_bilstm_is_two_lstms():
    net = scramble(BiLSTM(INPUT, WIDTH))
    ahead, back = LSTM(INPUT, WIDTH).double(), LSTM(INPUT, WIDTH).double()
    ahead.recurrence.ahead = net.recurrence.ahead
    back.recurrence.ahead = net.recurrence.back
    y, (h, _) = net(sequences())
    y_ahead, (h_ahead, _) = ahead(sequences())
    y_back, (h_back, _) = back(sequences().flip(1))
    expected = torch.cat([y_ahead, y_back.flip(1)], dim=-1)
    torch.testing.assert_close(y, expected, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(h, torch.cat([h_ahead, h_back]), atol=1e-10, rtol=1e-10)


def test_dropout_acts_between_layers_in_training_only():
    x = sequences()
    for depth, changes in [(1, False), (2, True)]:
        net = LSTM(INPUT, WIDTH, depth, dropout=0.5).double()
        for as_written in (False, True):
            net.train()
            assert torch.equal(net(x, None, as_written)[0], net(x, None, as_written)[0]) != changes
            net.eval()
            assert torch.equal(net(x, None, as_written)[0], net(x, None, as_written)[0])


@pytest.mark.parametrize("cls", [LSTM, BiLSTM])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "^width must be at least 1, got 0"),
        ({"input_width": -1}, "input_width must be at least 1, got -1"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"biases": 3}, "biases must be 0, 1 or 2, got 3"),
        ({"dropout": -0.5}, r"dropout must be in \[0, 1\], got -0.5"),
        ({"projection": WIDTH}, "projection must be below width 5, got 5"),
        ({"projection": 0}, "projection must be at least 1, got 0"),
    ],
)
def test_refuses(cls, change, message):
    with pytest.raises(ValueError, match=message):
        cls(**{"input_width": INPUT, "width": WIDTH} | change)


def test_refuses_directions():
    with pytest.raises(ValueError, match="directions must be 1 or 2, got 0"):
        LSTM(INPUT, WIDTH, directions=0)


EXPORT = """
import torch
from torch.export import Dim, export
from dlreview.nn.lstm import LSTM, BiLSTM
from dlreview.nn.rnn import RNN

batch, time = Dim("batch"), Dim("time")
for net, sizes in [
    (BiLSTM(3, 5, 2), {0: batch}),
    (BiLSTM(3, 5), {0: batch, 1: time}),
    (LSTM(3, 5, 2, projection=2), {0: batch, 1: time}),
    (RNN(3, 5), {0: batch, 1: time}),
]:
    net.double()
    x = torch.randn(4, 6, 3).double()
    exported = export(net, (x,), dynamic_shapes=(sizes,)).module()
    for shape in [(4, 6), (7, 11 if 1 in sizes else 6)]:
        x = torch.randn(*shape, 3).double().requires_grad_()
        (y, states), (expected, last) = exported(x), net(x)
        torch.testing.assert_close((y, *states), (expected, *last), atol=1e-10, rtol=1e-10)
        ours, theirs = (torch.autograd.grad(z.square().sum(), x)[0] for z in (y, expected))
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)
"""


def test_exports_for_any_batch_and_any_time():
    """torch.nn.LSTM exports for any batch too, but for one number of steps only.

    In a process of its own, because torch cannot trace the checks of shapes in these tests.
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", EXPORT], check=True)
