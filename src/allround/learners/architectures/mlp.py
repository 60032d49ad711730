"""A multilayer perceptron on the pixels: for images so small that convolutions gain nothing, such as 8 x 8 digits."""

from __future__ import annotations

from itertools import pairwise
from math import prod

from torch import nn


def build(
    shape: tuple[int, int, int], classes: int, *, width: int = 128, layers: int = 1, dropout: float = 0.0
) -> tuple[nn.Module, nn.Module]:
    """`layers` hidden layers of `width` units with ReLU, dropout after each."""
    sizes = [prod(shape), *[width] * layers]
    hidden = [nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout)) for a, b in pairwise(sizes)]
    return nn.Sequential(nn.Flatten(), *hidden), nn.Linear(sizes[-1], classes)
