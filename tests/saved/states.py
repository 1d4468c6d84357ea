"""Compare the states of two networks bit for bit."""

import torch


def assert_equal_states(one, two):
    one, two = one.state_dict(), two.state_dict()
    assert list(one) == list(two)
    for name, tensor in one.items():
        assert tensor.dtype == two[name].dtype and torch.equal(tensor, two[name]), name
