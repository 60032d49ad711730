"""The arrays that a pool looks at: in memory or in a file, read in slices.

A field has a row per training example. mc_logits are (t, N, c), every other field has its examples first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from allround.errors import AllroundError

if TYPE_CHECKING:
    import torch

ROW_AXIS = {"mc_logits": 1}  # where the examples lie in a field; 0 in all others
HALF_IS_ENOUGH = {"features"}  # fields that stay in 16 bits where they are stored so; all others become float32
SHAPES = {"mc_logits": "(t, N, c)", "images": "(N, h, w, channels) or (N, channels, h, w)"}


@dataclass(frozen=True)
class Field:
    """One array with a row per training example, read in slices: read(start, stop) -> rows as they are stored."""

    where: str  # named in error messages
    row: tuple[int, ...]  # shape of one example's row
    read: Callable[[int, int], Any]
    in_memory: bool


def stored(view: Any, name: str) -> Field:
    """A field of a view file."""
    return Field(str(view.path), view.fields[name], partial(view.read, name), in_memory=False)


def held(name: str, array: Any, in_memory: bool = True) -> Field:
    """A field that is an array; AllroundError: not one of the shape that the field has."""
    shape, axis = SHAPES.get(name, "(N, columns)"), ROW_AXIS.get(name, 0)
    if not hasattr(array, "shape") or len(array.shape) != shape.partition(")")[0].count(",") + 1:
        found = tuple(array.shape) if hasattr(array, "shape") else type(array).__name__
        raise AllroundError(f"Pool.from_arrays: {name} must be an array of shape {shape}, not {found}.")
    row = tuple(array.shape[:axis]) + tuple(array.shape[axis + 1 :])
    return Field(name, row, partial(_rows, array, axis), in_memory)


def _rows(array: Any, axis: int, start: int, stop: int) -> Any:
    return array[(slice(None),) * axis + (slice(start, stop),)]


def tensor(block: Any, name: str, device: str) -> torch.Tensor:
    """Rows as a tensor on the device in the type that strategies compute with; images in bytes stay so."""
    import torch

    if isinstance(block, np.ndarray):
        block = torch.from_numpy(block if block.flags.writeable else block.copy())
    block = block.detach().to(device)
    if name == "images":
        return block if block.dtype == torch.uint8 else block.float()
    keep = name in HALF_IS_ENOUGH and block.dtype in (torch.float16, torch.bfloat16)
    return block if keep else block.float()


def moments(scale: tuple[Sequence[float], Sequence[float]], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """mean and std (channels,) of images on the device, as the training normalises by them."""
    import torch

    from allround.learners.augmentation import moments as tensors

    return tensors(*scale, torch.device(device))


def whole(what: str, values: Any) -> np.ndarray:
    """Indices or labels as a vector (m,) of int64; no mask, no fractions."""
    values = np.asarray(values)
    if values.size and not np.issubdtype(values.dtype, np.integer):
        raise AllroundError(f"{what}: must be whole numbers, one for each example, not of type {values.dtype}.")
    return values.astype(np.int64).reshape(-1)


def check_model(model: Any, device: str) -> None:
    """That a model is one that strategies can look through, on the pool's device."""
    if model is None:
        return
    if not hasattr(model, "body") or not hasattr(model, "head"):
        raise AllroundError(
            f"model must be an allround.learners.model.Classifier(body, head), not a {type(model).__name__}; wrap it."
        )
    if model.training:
        raise AllroundError("model is in training mode, in which every look at it gives something else; model.eval().")
    there = {str(weights.device) for weights in model.parameters()}
    if any(place.partition(":")[0] != device.partition(":")[0] for place in there):
        raise AllroundError(f"model is on {', '.join(sorted(there))}, the pool on {device}; model.to('{device}').")


def check_scale(images: Any, scale: Any) -> None:
    """That images in bytes come with what to normalise them by, and others without."""
    stored, channels = str(getattr(images, "dtype", "uint8")).endswith("uint8"), images.shape[-1]
    if not stored and scale is not None:
        raise AllroundError("images that are no uint8 are taken as normalised; leave scale out.")
    if stored and (scale is None or [np.shape(part) for part in scale] != [(channels,)] * 2):
        raise AllroundError(
            f"uint8 images need scale=(mean, std): {channels} numbers on the scale 0..1 each, one for every channel."
        )
