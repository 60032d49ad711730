"""Look at the whole pool with a trained model: one row for every training example, labelled ones included.

dataset.h5 + checkpoint.pt -> pool/<view>.h5

View `outputs`: features (n, d) float16 and logits (n, c) float32 of one forward pass, without augmentation. Images are
read, and rows are written, block by block: the pool never has to fit in memory.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from allround.artifacts import create_view, read_checkpoint, read_dataset, same_dataset
from allround.device import choose
from allround.errors import unknown
from allround.job import run_stage
from allround.learners.inference import half, outputs
from allround.learners.model import unpack

VIEWS = ("outputs",)


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
    blocks = outputs(model, data.train.images, mean=saved["mean"], std=saved["std"], device=place)
    start, features, logits = next(blocks)
    rows = len(data.train.labels)
    with create_view(
        view,
        name,
        rows=rows,
        fields={"features": features.shape[1:], "logits": logits.shape[1:]},
        dtypes={"features": "float16", "logits": "float32"},
        identity=identity,
        digest=data.digest,
    ) as out:
        out.write(start, features=half(features), logits=logits)
        for start, features, logits in blocks:
            out.write(start, features=half(features), logits=logits)
    return {"images": rows}


if __name__ == "__main__":
    run_stage(embed, inputs=("dataset", "checkpoint"), outputs=("view",))
