"""Learning rates: one value for every step of a training, as a table.

constant    the learning rate
cosine      linear warm-up over the fraction `warmup`, then half a cosine down to `end` times the learning rate
            (Loshchilov and Hutter 2017)
one_cycle   linear from `start` up to 1 over the fraction `warmup`, then linear down to `end` (Smith and Topin 2018;
            the triangle of CIFAR-10 speed records)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def rates(schedule: Mapping[str, Any], lr: float, steps: int) -> np.ndarray:
    """Learning rate of every step, (steps,) float64."""
    if schedule["name"] == "constant":
        return np.full(steps, lr)
    at = np.arange(steps) / steps  # 0 to just below 1
    warmup, end = schedule["warmup"], schedule["end"]
    left = 1 - np.clip((at - warmup) / max(1 - warmup, 1e-9), 0, 1)  # of the way down, 1 to 0
    if schedule["name"] == "cosine":
        first, down = 1 / max(1, warmup * steps), end + (1 - end) * (1 - np.cos(np.pi * left)) / 2
    else:
        first, down = schedule["start"], end + (1 - end) * left
    up = first + (1 - first) * at / max(warmup, 1e-9)
    return lr * np.where(at < warmup, up, down)
