"""Images as a learner sees them: cut, flipped and normalised on the device, each image in its own way.

Random crop: the image is padded by `crop` pixels on every side and a window of its own size is cut out, as He et al.
2016 do for CIFAR-10; padding is zero (black, the standard) or reflect. The flip is horizontal, with probability 1/2.
Cutout (DeVries and Taylor 2017) greys a square of `cutout` pixels whose centre is anywhere in the image.

What is drawn for an image is drawn on the host, once per epoch, and lies in static buffers: the training step only
gathers. A CPU and a GPU so train on the same images, and a captured CUDA graph can be replayed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

DRAWS = 5  # values drawn per image: dy, dx, flip and the centre of the cutout


def pad(images: np.ndarray, augmentation: Mapping[str, Any] | None) -> np.ndarray:
    """Images (n, h, w, c) uint8 with the border that crops may reach into: (n, h + 2 crop, w + 2 crop, c)."""
    crop = augmentation["crop"] if augmentation else 0
    if not crop:
        return images
    mode = "constant" if augmentation["padding"] == "zero" else "reflect"
    return np.pad(images, ((0, 0), (crop, crop), (crop, crop), (0, 0)), mode=mode)


def draw(
    rng: np.random.Generator, shape: tuple[int, ...], size: tuple[int, int], augmentation: Mapping[str, Any] | None
) -> np.ndarray:
    """For every image of an epoch: window's corner (dy, dx) in 0..2 crop, flip 0 or 1, centre of the cutout.

    shape: of the epoch, (steps, b); size: (height, width) of the images
    returns (steps, DRAWS, b) int64
    """
    if not augmentation:
        return np.zeros((*shape[:-1], DRAWS, shape[-1]), dtype=np.int64)
    corners = 2 * augmentation["crop"] + 1
    ends = (corners, corners, 1 + augmentation["flip"], *size)
    return np.stack([rng.integers(0, end, shape) for end in ends], axis=-2)


def gather(padded: Tensor, index: Tensor, draws: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut and flip the images of one batch, in one gather from the resident data.

    padded: (n, h + 2 crop, w + 2 crop, c) uint8; index: (b,); draws: (DRAWS, b); returns (b, h, w, c) uint8
    """
    height, width = size
    y = torch.arange(height, device=padded.device)
    x = torch.arange(width, device=padded.device)
    rows = draws[0][:, None] + y  # (b, h)
    mirrored = torch.where(draws[2][:, None] > 0, width - 1 - x, x)  # (b, w)
    columns = draws[1][:, None] + mirrored
    return padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]


def cut_out(images: Tensor, draws: Tensor, side: int) -> Tensor:
    """Set a square of `side` pixels of every normalised image (b, c, h, w) to 0, the training set's mean colour, in
    place (a copy would lose the layout channels_last)."""
    y = torch.arange(images.shape[2], device=images.device) - draws[3][:, None] + side // 2  # (b, h)
    x = torch.arange(images.shape[3], device=images.device) - draws[4][:, None] + side // 2
    inside = ((y >= 0) & (y < side))[:, None, :, None] & ((x >= 0) & (x < side))[:, None, None, :]  # (b, 1, h, w)
    return images.masked_fill_(inside, 0.0)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 (b, h, w, c) to float32 (b, c, h, w) in channels_last layout; mean and std (c,) on the scale 0..1."""
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def moments(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """mean and std on the device; a channel that never varies is left as it is."""
    both = torch.tensor([mean, [value if value > 0 else 1.0 for value in std]], dtype=torch.float32)  # (2, c)
    return tuple(both.to(device))
