import subprocess
import sys

import pytest
import torch

from dlreview.nn.diffusion_unet import DiffusionUNet
from dlreview.nn.time_embedding import FourierTime, LearnedTime, SinusoidalTime


def test_shapes():
    net = DiffusionUNet(3, [8, 16], [False, True], num_classes=5, groups=4)
    x, label = torch.randn(2, 3, 8, 4), torch.tensor([1, 4])
    for t in (3, torch.tensor(3), torch.tensor([3, 7])):
        assert net(x, t, label).shape == x.shape
