"""Class consistency is high for real digits and low for wrong labels and noise."""

import torch

from dlreview.data.images import Images
from dlreview.metrics.class_consistency import ClassConsistency


def test_real_digits_are_consistent_and_wrong_labels_are_not():
    data = Images()
    data.setup()
    judge = ClassConsistency(*data.train_columns())
    test = data.test_set.columns
    image = test["image"] / 127.5 - 1
    assert judge(image, test["label"]) > 0.97
    assert judge(image, (test["label"] + 1) % 10) < 0.02
    assert judge(torch.randn(200, 1, 8, 8), torch.arange(200) % 10) < 0.3
