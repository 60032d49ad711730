"""A small convolutional network for images of MNIST's size: seconds of training on one CPU core.

Three blocks of 3x3 convolution, batch normalisation, ReLU and 2x2 max pooling, then one hidden layer over all
positions: few labels of centred objects are learned better with their positions than with a mean over them. Any size
from 8 x 8 and any number of channels.
"""

from __future__ import annotations

from torch import nn


def build(
    shape: tuple[int, int, int], classes: int, *, width: int = 16, hidden: int = 128, dropout: float = 0.0
) -> tuple[nn.Module, nn.Module]:
    """`width`, 2 `width` and 4 `width` channels, `hidden` features; dropout before the head."""
    height, breadth, channels = shape
    body = nn.Sequential(
        _block(channels, width),
        _block(width, 2 * width),
        _block(2 * width, 4 * width),
        nn.Flatten(),
        nn.Linear(4 * width * (height // 8) * (breadth // 8), hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
    )
    return body, nn.Linear(hidden, classes)


def _block(inside: int, outside: int) -> nn.Module:
    conv = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside), nn.ReLU(), nn.MaxPool2d(2))
