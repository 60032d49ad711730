"""How large a learner's network is, known to the planner without importing torch (2.2 s): for the files of
learners/architectures by arithmetic, for any other by building it, without memory, where torch is imported anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

Shape = tuple[int, int, int]  # height, width, channels


@dataclass(frozen=True)
class Size:
    """weights: bytes of weights and buffers; tensors: how many these are; width: features of an example."""

    weights: int
    tensors: int
    width: int


def size(learner: Mapping[str, Any], shape: Shape, classes: int) -> Size:
    """The size of a learner's network. learner: complete settings; shape: (height, width, channels) of the images.

    AllroundError: images of that shape do not fit the architecture
    """
    if learner["architecture"] in FORMULAS:
        return FORMULAS[learner["architecture"]](shape, classes, **learner["arguments"])
    return _built(learner, shape, classes)


def _built(learner: Mapping[str, Any], shape: Shape, classes: int) -> Size:
    import torch

    from allround.learners.model import build

    with torch.device("meta"):
        network = build(learner, shape, classes, fetch=False)
        features, _ = network.eval().outputs(torch.zeros(1, shape[2], *shape[:2]))
    state = network.state_dict().values()
    return Size(sum(tensor.nbytes for tensor in state), len(state), features.shape[1])


def _mlp(shape: Shape, classes: int, *, width: int, layers: int, dropout: float) -> Size:
    sizes = [prod(shape), *[width] * layers]
    return _sum(*[_linear(a, b) for a, b in pairwise([*sizes, classes])], width=sizes[-1])


def _cnn(shape: Shape, classes: int, *, width: int, hidden: int, dropout: float) -> Size:
    height, breadth, channels = shape
    maps = pairwise([channels, width, 2 * width, 4 * width])
    blocks = [part for a, b in maps for part in (_conv(a, b), _norm(b))]
    flat = 4 * width * (height // 8) * (breadth // 8)
    return _sum(*blocks, _linear(flat, hidden), _linear(hidden, classes), width=hidden)


def _resnet18(shape: Shape, classes: int) -> Size:
    parts = [_conv(shape[2], 64), _norm(64)]
    for inside, outside in ((64, 64), (64, 128), (128, 256), (256, 512)):
        for first in (inside, outside):
            parts += [_conv(first, outside), _norm(outside), _conv(outside, outside), _norm(outside)]
        if inside != outside:
            parts += [_conv(inside, outside, side=1), _norm(outside)]
    return _sum(*parts, _linear(512, classes), width=512)


def _airbench(shape: Shape, classes: int, *, width: int, wide: int, scale: float) -> Size:
    whitened = 2 * shape[2] * 2**2
    groups = ((whitened, width), (width, wide), (wide, wide))
    parts = [part for a, b in groups for part in (_conv(a, b), _norm(b), _conv(b, b), _norm(b))]
    return _sum(_conv(shape[2], whitened, side=2), (4 * whitened, 1), *parts, (4 * wide * classes, 1), width=wide)


FORMULAS = {"mlp": _mlp, "cnn": _cnn, "resnet18": _resnet18, "airbench": _airbench}


def _linear(inside: int, outside: int) -> tuple[int, int]:
    """(bytes, tensors) of a linear layer in float32."""
    return 4 * (inside + 1) * outside, 2


def _conv(inside: int, outside: int, side: int = 3) -> tuple[int, int]:
    return 4 * inside * outside * side**2, 1


def _norm(channels: int) -> tuple[int, int]:
    """Weight, bias, mean and variance, and how many batches there were."""
    return 4 * 4 * channels + 8, 5


def _sum(*parts: tuple[int, int], width: int) -> Size:
    return Size(sum(part[0] for part in parts), sum(part[1] for part in parts), width)
