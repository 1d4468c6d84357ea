"""The confusion matrix shows rows as shares of a class."""

import pytest
import torch

from dlreview.plots.confusion import confusion


@pytest.mark.parametrize("classes", [1, 3, 50])
def test_it_draws(classes):
    picture = confusion(torch.eye(classes, dtype=torch.int64) * 3)
    assert picture.dtype == torch.uint8
    assert picture.shape[2] == 3
    assert picture.float().std() > 10


def test_frequent_confusions_are_darker():
    counts = torch.tensor([[9, 1], [10, 0]])
    names = ["cat", "dog"]
    picture, other = confusion(counts, names), confusion(counts.flip(1), names)
    assert not torch.equal(picture, other)
    assert torch.equal(confusion(counts, names), picture)


def test_a_class_without_rows_does_not_divide_by_zero():
    confusion(torch.zeros(2, 2, dtype=torch.int64))


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="square"):
        confusion(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="names must be one for each of 2 classes, got 1"):
        confusion(torch.eye(2, dtype=torch.int64), ["cat"])
