"""A small convolutional network for images of MNIST's size: three blocks, a few seconds of training on one CPU core.

Every block is 3x3 convolution, batch normalisation, ReLU; the first two end in 2x2 max pooling, the last in the mean
over positions, so that any size from 4 x 4 and any number of channels fits.
"""

from __future__ import annotations

from torch import Tensor, nn


def build(
    shape: tuple[int, int, int], classes: int, *, width: int = 32, dropout: float = 0.0
) -> tuple[nn.Module, nn.Module]:
    """`width`, 2 `width` and 4 `width` channels; dropout before the head."""
    body = nn.Sequential(
        _block(shape[2], width),
        nn.MaxPool2d(2),
        _block(width, 2 * width),
        nn.MaxPool2d(2),
        _block(2 * width, 4 * width),
        Mean(),
        nn.Dropout(dropout),
    )
    return body, nn.Linear(4 * width, classes)


def _block(inside: int, outside: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU())


class Mean(nn.Module):
    """The mean over positions; unlike adaptive pooling its gradient is deterministic on CUDA."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))  # (n, c, h, w) -> (n, c)
