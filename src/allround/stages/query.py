"""query: the examples that a strategy wants labelled next.

The views are files named after what they hold (outputs.h5, ...); a strategy without NEEDS gets none. One that looks at
the model or the images gets the round's checkpoint as well.
"""

from __future__ import annotations

import json
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from allround import strategies
from allround.artifacts import Dataset, read_checkpoint, read_dataset, read_labels, same_dataset, write_query
from allround.job import run_stage, seed_sequence
from allround.layout import START
from allround.pool import Pool


def query(
    *,
    dataset: Path,
    labels: Path,
    views: list[Path],
    checkpoint: Path | None,
    query: Path,
    identity: str,
    device: str,
    threads: int,
) -> dict:
    """Write query.csv: the picks of the strategy in the job's settings, best first."""
    job = json.loads(identity)
    settings = job["settings"]
    place = {**job["cell"], "arm": job["cell"]["arm"] if job["cell"]["round"] else START}
    data = read_dataset(dataset, place["dataset"])
    same_dataset(labels, read_labels(labels, expect=place).digest, dataset, data.digest)
    device = _device(device, threads) if views or checkpoint else "cpu"
    pool = Pool.open(
        {path.stem: path for path in views},
        labels,
        device=device,
        size=len(data.train.labels),
        expect=place,
        classes=data.classes,
        truth=data.train.labels,
        **(_model(checkpoint, place, device, dataset, data) if checkpoint else {}),
    )
    begin = time.perf_counter()  # torch is imported by now, which is no part of the selection's cost
    rng = np.random.default_rng(seed_sequence(identity))
    picks = strategies.run(settings["strategy"], pool, settings["budget"], rng, **settings["hyperparameters"])
    write_query(query, picks.index, picks.score, identity=identity, digest=data.digest)
    return {"images": len(pool), "seconds": round(time.perf_counter() - begin, 4), "device": pool.device}


def _device(name: str, threads: int) -> str:
    """Where tensors are put, float32 products exact; imports torch, which strategies without views do not need."""
    from allround.device import choose

    return str(choose(name, threads, exact=True))


def _model(checkpoint: Path, place: dict, device: str, dataset: Path, data: Dataset) -> dict[str, Any]:
    """The round's model, and the images as it sees them."""
    saved = read_checkpoint(checkpoint, place)
    same_dataset(checkpoint, saved["dataset_digest"], dataset, data.digest)
    model = import_module("allround.learners.model").unpack(saved, checkpoint)  # by name: no code of other queries
    model = model.to(device).requires_grad_(False)
    return {"model": model, "images": data.train.images, "scale": (saved["mean"], saved["std"])}


if __name__ == "__main__":
    run_stage(query, inputs=("dataset", "labels"), repeated=("views",), optional=("checkpoint",), outputs=("query",))
