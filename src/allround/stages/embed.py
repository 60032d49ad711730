"""Look at the whole pool with a trained model: one row for every training example, labelled ones included.

dataset.h5 + checkpoint.pt -> pool/<view>.h5, as the view's file in allround/views writes it
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import torch

from allround import views
from allround.artifacts import read_checkpoint, read_dataset, same_dataset
from allround.device import choose
from allround.errors import unknown
from allround.job import run_stage
from allround.learners.model import unpack


def embed(*, dataset: Path, checkpoint: Path, view: Path, identity: str, device: str, threads: int) -> dict:
    """Write the view that the identity's settings name."""
    job = json.loads(identity)
    name = job["settings"]["view"]
    if name not in views.names():
        raise unknown("view", name, views.names(), "embed")
    data = read_dataset(dataset, job["cell"]["dataset"])
    saved = read_checkpoint(checkpoint, {key: value for key, value in job["cell"].items() if key != "view"})
    same_dataset(checkpoint, saved["dataset_digest"], dataset, data.digest)
    place = choose(device, threads)
    model = unpack(saved, checkpoint).to(device=place, memory_format=torch.channels_last)
    scale = {"mean": saved["mean"], "std": saved["std"]}
    write = import_module(views.module(name)).write
    write(view, model, data.train.images, **scale, device=place, identity=identity, digest=data.digest)
    return {"images": len(data.train.labels)}


if __name__ == "__main__":
    run_stage(embed, inputs=("dataset", "checkpoint"), outputs=("view",))
