import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from dlreview.nn.lstm import LSTM, BiLSTM
from dlreview.nn.recurrence import scan
from dlreview.nn.rnn import RNN


def test_scan_does_not_change_sequences_that_have_ended():
    """Lengths 3 and 1: sums of 1 2 3 and of 10; read backwards the short one begins last."""

    def add(x, total):
        return (total + x,)

    data = torch.tensor([[1.0], [10.0], [2.0], [3.0]])  # steps of 2, 1, 1 rows
    start = (torch.tensor([[0.0], [100.0]]),)
    y, (last,) = scan(add, data, [2, 1, 1], start, backwards=False)
    assert y[:, 0].tolist() == [1, 110, 3, 6] and last[:, 0].tolist() == [6, 110]
    y, (last,) = scan(add, data, [2, 1, 1], start, backwards=True)
    assert y[:, 0].tolist() == [6, 110, 5, 3] and last[:, 0].tolist() == [6, 110]


@pytest.mark.parametrize("net", [RNN(3, 5, 2, biases=1), BiLSTM(3, 5, 2)])
def test_padding_does_not_leak_into_packed_batches(net):
    x, lengths = torch.randn(2, 6, 3), torch.tensor([2, 6])
    packed = pack_padded_sequence(x, lengths, True, enforce_sorted=False)
    alone = net(x[:1, :2])[0][0]
    y = torch.nn.utils.rnn.pad_packed_sequence(net(packed)[0], batch_first=True)[0]
    torch.testing.assert_close(y[0, :2], alone)
    for again in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(again(packed)[0].data, net(packed)[0].data)


def test_compiles_without_a_graph_break():
    """In another process, since the type hints, which tests check, cannot be traced."""
    code = """
import torch
from dlreview.nn.lstm import LSTM, BiLSTM
from dlreview.nn.rnn import RNN, UnsharedRNN
rnns = RNN(3, 5, 2, biases=2), RNN(3, 5, activation="sigmoid"), UnsharedRNN(3, 5, 4)
for net in (*rnns, BiLSTM(3, 5)):
    x = torch.randn(2, 4, 3)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    y = compiled(x)[0]
    torch.testing.assert_close(y, net(x)[0])
    y.sum().backward()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "net", [RNN(3, 5, 2, biases=1, directions=2), BiLSTM(3, 5, 2, projection=2)]
)
def test_gpu_equals_cpu_without_a_warning(net):
    x = torch.randn(2, 6, 3)
    packed = pack_padded_sequence(x, torch.tensor([2, 6]), True, enforce_sorted=False)
    on_gpu = copy.deepcopy(net).cuda()
    for batch in (x, packed):
        y = on_gpu(batch.cuda())[0].data
        torch.testing.assert_close(y.cpu(), net(batch)[0].data, atol=1e-4, rtol=1e-4)
        y.sum().backward()


@pytest.mark.parametrize("kind", [LSTM, RNN])
def test_inputs_of_another_width_are_refused_before_the_kernel(kind):
    net = kind(4, 6)
    with pytest.raises(ValueError, match="inputs must have width 4, got 5"):
        net(torch.zeros(2, 3, 5))
    packed = pack_padded_sequence(torch.zeros(2, 3, 5), torch.tensor([3, 2]), batch_first=True)
    with pytest.raises(ValueError, match="inputs must have width 4, got 5"):
        net(packed)
