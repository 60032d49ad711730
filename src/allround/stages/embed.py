"""Look at the whole pool with a trained model: one row for every training example, labelled ones included.

dataset.h5 + checkpoint.pt (of an ensemble's other members as well) -> pool/<view>.h5, as its file in allround/views
writes it
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import torch

from allround import views
from allround.artifacts import read_checkpoint, read_dataset, same_dataset
from allround.device import choose
from allround.errors import AllroundError, unknown
from allround.job import run_stage, seed_sequence
from allround.learners.model import unpack


def embed(
    *, dataset: Path, checkpoint: Path, members: list[Path], view: Path, identity: str, device: str, threads: int
) -> dict:
    """Write the view that the identity's settings name."""
    job = json.loads(identity)
    name = job["settings"]["view"]
    if views.base(name) not in views.names():
        raise unknown("view", name, views.names(), "embed")
    data = read_dataset(dataset, job["cell"]["dataset"])
    if len(members) != len(views.members(name)):
        raise AllroundError(f"view '{name}' takes {len(views.members(name))} --members, not {len(members)}.")
    place = choose(device, threads)
    cell = {key: value for key, value in job["cell"].items() if key != "view"}
    models = []
    for number, path in enumerate([checkpoint, *members]):
        saved = read_checkpoint(path, cell | ({"member": number} if number else {}))
        same_dataset(path, saved["dataset_digest"], dataset, data.digest)
        models.append(unpack(saved, path).to(device=place, memory_format=torch.channels_last))
    write = import_module(views.module(name)).write
    write(
        view,
        models,
        data.train.images,
        view=name,
        seeds=seed_sequence(identity),
        mean=saved["mean"],
        std=saved["std"],
        device=place,
        identity=identity,
        digest=data.digest,
    )
    return {"images": len(data.train.labels) * max(len(models), views.samples(name))}


if __name__ == "__main__":
    run_stage(embed, inputs=("dataset", "checkpoint"), repeated=("members",), outputs=("view",))
