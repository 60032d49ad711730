"""Look at the whole pool with a trained model: one row for every training example, labelled ones included.

dataset.h5 + checkpoint.pt -> pool/<view>.h5

View `outputs`: features (n, d) float16 and logits (n, c) float32 of one forward pass, without augmentation. Images are
read, and rows are written, block by block: the pool never has to fit in memory. Where a feature exceeds float16's range
the pass starts again and stores features as float32: a clamped feature would change what strategies pick.
"""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from allround.artifacts import create_view, read_checkpoint, read_dataset, same_dataset
from allround.device import choose
from allround.errors import unknown
from allround.job import run_stage
from allround.learners.inference import outputs
from allround.learners.model import unpack

VIEWS = ("outputs",)
FLOAT16_MAX = float(np.finfo(np.float16).max)


def embed(*, dataset: Path, checkpoint: Path, view: Path, identity: str, device: str, threads: int) -> dict:
    """Write the view that the identity's settings name; see the module."""
    job = json.loads(identity)
    name = job["settings"]["view"]
    if name not in VIEWS:
        raise unknown("view", name, VIEWS, "embed")
    data = read_dataset(dataset, job["cell"]["dataset"])
    saved = read_checkpoint(checkpoint, {key: value for key, value in job["cell"].items() if key != "view"})
    same_dataset(checkpoint, saved["dataset_digest"], dataset, data.digest)
    place = choose(device, threads)
    model = unpack(saved, checkpoint).to(device=place, memory_format=torch.channels_last)
    rows = len(data.train.labels)
    for dtype in ("float16", "float32"):
        blocks = outputs(model, data.train.images, mean=saved["mean"], std=saved["std"], device=place)
        _, features, logits = first = next(blocks)
        whole = create_view(
            view,
            name,
            rows=rows,
            fields={"features": features.shape[1:], "logits": logits.shape[1:]},
            dtypes={"features": dtype, "logits": "float32"},
            identity=identity,
            digest=data.digest,
        )
        try:
            with whole as out:
                for at, block, scores in chain([first], blocks):
                    out.write(at, features=_stored(block, dtype), logits=scores)
            break
        except _Overflow:
            print("some features are beyond float16's range: starting again, storing float32", flush=True)
    return {"images": rows}


class _Overflow(Exception):
    """A feature does not fit into float16."""


def _stored(features: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "float16" and np.abs(features).max() > FLOAT16_MAX:
        raise _Overflow
    return features.astype(dtype, copy=False)


if __name__ == "__main__":
    run_stage(embed, inputs=("dataset", "checkpoint"), outputs=("view",))
