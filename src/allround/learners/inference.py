"""Outputs of networks for many images, block by block: neither images nor outputs have to fit in memory together.

BatchNorm and dropout are in evaluation mode and nothing is augmented. Arithmetic is float32 (TF32 products on a GPU),
whatever the precision of the training: strategies rank by differences between logits that bfloat16 would round away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allround.errors import AllroundError
from allround.learners.augmentation import moments, normalise
from allround.learners.model import Classifier

PIXELS = {"cpu": 2**18, "cuda": 2**21}  # of one block, which bounds the memory that activations take
MOST = 2048  # images of one block


def outputs(
    model: Classifier, images: Any, *, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (start, features (b, d) float32, logits (b, c) float32) for consecutive blocks of images.

    model: on the device; images: (n, h, w, c) uint8, an array or a memmap of which one block at a time is read
    AllroundError: an output is not a finite number
    """
    model.eval()
    return in_blocks(lambda start, block: model.outputs(block), images, mean=mean, std=std, device=device)


def in_blocks(
    forward: Callable[[int, Tensor], tuple[Tensor, ...]],
    images: Any,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device,
    most: int = MOST,
) -> Iterator[tuple[int, ...]]:
    """Yield (start, arrays of float32) of what `forward` makes of consecutive blocks of at most `most` images.

    forward: called in inference mode with a block's first index and its normalised images (b, channels, h, w)
    On a GPU the next block is read and copied while the device computes.
    AllroundError: a number is not finite
    """
    n, height, width, _ = images.shape
    block = max(1, min(MOST, most, PIXELS[device.type] // (height * width)))
    scale = moments(mean, std, device)
    pending = None
    for start in range(0, n, block):
        raw = torch.from_numpy(np.array(images[start : start + block]))  # read from disk here
        if device.type == "cuda":
            raw = raw.pin_memory().to(device, non_blocking=True)
        with torch.inference_mode():
            parts = forward(start, normalise(raw, *scale))
            parts = [part.float().to("cpu", non_blocking=True) for part in parts]  # into pinned memory, from a GPU
        ready = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
        if pending:
            yield _finished(*pending)
        pending = (start, start + len(raw), parts, ready)
    if pending:
        yield _finished(*pending)


def _finished(start: int, stop: int, parts: list[Tensor], ready: torch.cuda.Event | None) -> tuple[int, ...]:
    """A block's outputs once they are on the host; the device works on the next block meanwhile."""
    if ready:
        ready.synchronize()
    arrays = [part.numpy() for part in parts]
    if not all(np.isfinite(array).all() for array in arrays):
        raise AllroundError(
            f"the model's outputs for images {start} to {stop - 1} are not finite: its training "
            "diverged; lower the learner's lr, then delete the checkpoint and run again."
        )
    return start, *arrays
