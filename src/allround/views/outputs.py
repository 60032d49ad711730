"""outputs: features (n, d) float16 and logits (n, c) float32 of one forward pass, without augmentation.

Where a feature exceeds float16's range the pass starts again and stores features as float32: a clamped feature would
change what strategies pick.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from allround.artifacts import create_view
from allround.learners.inference import outputs
from allround.learners.model import Classifier

FLOAT16_MAX = float(np.finfo(np.float16).max)


class _Overflow(Exception):
    """A feature does not fit into float16."""


def write(
    path: Path,
    models: list[Classifier],
    images: Any,
    *,
    view: str,
    seeds: np.random.SeedSequence,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device,
    identity: str,
    digest: str,
) -> None:
    """Write the view of all images; neither they nor the outputs have to fit in memory."""
    for dtype in ("float16", "float32"):
        blocks = outputs(models[0], images, mean=mean, std=std, device=device)
        _, features, logits = first = next(blocks)
        whole = create_view(
            path,
            view,
            rows=len(images),
            fields={"features": features.shape[1:], "logits": logits.shape[1:]},
            dtypes={"features": dtype, "logits": "float32"},
            identity=identity,
            digest=digest,
        )
        try:
            with whole as out:
                for at, block, scores in chain([first], blocks):
                    out.write(at, features=_stored(block, dtype), logits=scores)
            return
        except _Overflow:
            print("some features are beyond float16's range: starting again, storing float32", flush=True)


def _stored(features: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "float16" and np.abs(features).max() > FLOAT16_MAX:
        raise _Overflow
    return features.astype(dtype, copy=False)
