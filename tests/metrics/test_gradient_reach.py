"""The gradient against the distance: for a linear recurrence the formula is known."""

import pytest
import torch

from dlreview.metrics.gradient_reach import gradient_norms, reach
from dlreview.nn.rnn import hidden_state


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1])
def test_a_linear_recurrence_shrinks_or_grows_by_its_factor(factor):
    """With h_i = v_i + a h_{i-1} and loss w . h_T, d loss / d v_{T-k} = a^k w."""
    width, w = 5, torch.tensor([1.0, 2.0, 0.0, -1.0, 0.5], dtype=torch.float64)
    eye = torch.eye(width, dtype=torch.float64)

    def loss(v):
        h = torch.zeros(len(v), width, dtype=torch.float64)
        for i in range(v.shape[1]):
            h = hidden_state(eye, v[:, i], factor * eye, h, lambda x: x)
        return h @ w

    norms = gradient_norms(loss, torch.randn(3, 20, width, dtype=torch.float64))
    expected = w.norm() * factor ** torch.arange(20, dtype=torch.float64)
    torch.testing.assert_close(norms, expected, rtol=1e-12, atol=0)
    # 0.5^6 is above a hundredth, 0.5^7 is not.
    assert reach(norms) == {0.5: 7, 0.9: 20, 1.1: 20}[factor]


def test_it_leaves_no_gradient_behind_and_works_without_grad():
    matrix = torch.nn.Parameter(torch.eye(4))
    with torch.no_grad():
        norms = gradient_norms(lambda v: (v @ matrix)[:, -1].sum(1), torch.randn(2, 3, 4))
    assert norms[0] > 0 and (norms[1:] == 0).all() and matrix.grad is None
    assert reach(norms) == 1
    assert reach(torch.zeros(3)) == 3  # nothing is weaker than nothing
