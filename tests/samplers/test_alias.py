import numpy as np
import pytest

from dlreview.samplers.alias import UNIT, alias_table


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_probabilities_are_the_weights(size):
    weights = np.random.default_rng(size).random(size) ** 4
    weights[0] = 0 if size > 1 else 1
    threshold, other = alias_table(weights)
    own = (threshold.astype(np.float64) + (threshold == UNIT - 1)) / UNIT
    found = own.copy()
    np.add.at(found, other, 1 - own)
    np.testing.assert_allclose(found / size, weights / weights.sum(), atol=1e-9)


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [1.0, float("nan")]])
def test_refuses(weights):
    with pytest.raises(ValueError, match="finite and not negative"):
        alias_table(np.array(weights))
