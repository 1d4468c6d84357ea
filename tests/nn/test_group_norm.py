"""Group norm equals torch's, with both computations."""

import pytest
import torch
import torch.nn.functional as F

from dlreview.nn.group_norm import GroupNorm, normalise_by_channel_sums


@pytest.mark.parametrize(
    ("shape", "groups", "slow"),
    [
        ((9, 24, 16, 18), 12, True),
        ((70, 32, 5, 7), 32, True),
        ((2, 24, 31, 30), 24, True),
        ((31, 24, 16, 18), 2, True),
        ((1, 24, 8, 8), 24, False),  # few steps
        ((29, 24, 16, 18), 3, False),  # groups that fill vectors
        ((9, 24, 32, 32), 12, False),  # large maps
    ],
)
def test_both_computations_equal_torch(shape, groups, slow):
    norm = GroupNorm(groups, shape[1], eps=1e-2).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    plain = torch.randn(shape, dtype=torch.float64) * 3 + 5
    x = plain.contiguous(memory_format=torch.channels_last)
    arguments = (groups, norm.weight, norm.bias, 1e-2)
    expected = F.group_norm(plain, *arguments)
    assert torch.equal(norm(plain), expected)
    torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        sums = normalise_by_channel_sums(x, *arguments)
        torch.testing.assert_close(sums, expected, rtol=1e-12, atol=1e-12)
        assert norm.is_slow_in_torch(x) == slow
        assert not norm.is_slow_in_torch(plain)
        y = norm(x)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_a_constant_image_has_no_negative_variance():
    norm = GroupNorm(32, 32)
    x = torch.full((40, 32, 8, 8), 1000.1).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert norm.is_slow_in_torch(x)
        assert torch.isfinite(norm(x)).all()
