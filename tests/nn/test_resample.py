"""Both computations of doubling are the same function: a convolution, or a transposed one."""

import pytest
import torch
import torch.nn.functional as F

from dlreview.nn.resample import Upsample


@pytest.mark.parametrize(("shape", "transposed"), [((33, 5, 4, 8), True), ((2, 5, 3, 7), False)])
def test_doubling_is_repeating_and_convolving(shape, transposed):
    up = Upsample(shape[1]).double()
    x = torch.randn(shape, dtype=torch.float64).to(memory_format=torch.channels_last)
    x.requires_grad_()
    assert up.is_faster_transposed(x) == transposed
    assert not up.is_faster_transposed(x.bfloat16())
    expected = up.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    y = up(x)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    assert y.is_contiguous(memory_format=torch.channels_last)
    gradient, inputs = torch.randn_like(y), [x, *up.parameters()]
    for ours, plain in zip(
        torch.autograd.grad(y, inputs, gradient),
        torch.autograd.grad(expected, inputs, gradient),
        strict=True,
    ):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)


def test_the_sums_of_weights_are_not_saved():
    assert set(Upsample(3).state_dict()) == {"conv.weight", "conv.bias"}
