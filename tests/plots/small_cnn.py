"""A CNN that ends in a mean and a linear layer."""

import torch
from torch import nn


class SmallCNN(nn.Module):
    def __init__(self, image_channels=1, width=5, classes=4, pooling="mean", stride=1):
        super().__init__()
        self.pooling = pooling
        self.first = nn.Conv2d(image_channels, 6, 3, stride=stride, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, width, 3, padding=1)
        self.head = nn.Linear(width, classes)

    def feature_map(self, images):
        return self.second(self.norm(self.first(images)).relu()).relu()

    def features(self, images):
        x = self.feature_map(images)
        return x.amax(dim=(2, 3)) if self.pooling == "max" else x.mean(dim=(2, 3))

    def forward(self, images):
        return self.head(self.features(images))


class Hidden(SmallCNN):
    """A CNN that does not call its feature_map."""

    def forward(self, images):
        x = self.second(self.norm(self.first(images)).relu()).relu()
        return self.head(x.mean(dim=(2, 3)))


def images(rows=3, channels=1, height=7, width=9):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, channels, height, width, generator=generator, dtype=torch.float64)
