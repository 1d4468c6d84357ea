import pytest
import torch

from dlreview.nn.conv_layer import AveragePool, BatchNormOptions, Layers
from dlreview.nn.stem import DeepStem, ImageNetStem, SmallImageStem, Stem

LAYERS = Layers(BatchNormOptions(), "relu")


@pytest.mark.parametrize(
    ("stem", "shape"),
    [
        (ImageNetStem(6), (6, 8, 9)),
        (ImageNetStem(6, AveragePool()), (6, 8, 9)),
        (SmallImageStem(7), (7, 32, 36)),
        (DeepStem(), (64, 8, 9)),
        (DeepStem([4, 5, 6]), (6, 8, 9)),
        (Stem([4, 6], [5, 3], [2, 1]), (6, 16, 18)),
    ],
)
def test_shapes(stem, shape):
    made = stem.make(LAYERS, image_channels=2)
    assert made(torch.randn(3, 2, 32, 36)).shape == (3, *shape)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], []), "widths must be at least 1, got 0"),
        (([4], [3, 3], [1]), "kernel_sizes must be 1 numbers, like widths, got"),
        (([4], [3], []), "strides must be 1 numbers"),
        (([4], [2], [1]), "kernel_sizes must be odd, got"),
        (([4], [3], [0]), "strides must be at least 1, got 0"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        Stem(*arguments)
