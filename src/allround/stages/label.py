"""label: the oracle answers a query, and the labelled set of the next round is what it was plus these answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from allround.artifacts import Labels, read_dataset, read_labels, read_query, same_dataset, write_labels
from allround.errors import AllroundError
from allround.job import run_stage
from allround.layout import START


def label(*, dataset: Path, previous: Path, query: Path, labels: Path, identity: str, **_: object) -> None:
    """Write labels.csv of round k from labels.csv and query.csv of round k-1."""
    cell = json.loads(identity)["cell"]
    place = {key: cell[key] for key in ("dataset", "learner", "start", "seed")} | {"round": cell["round"] - 1}
    data = read_dataset(dataset, cell["dataset"])
    old = read_labels(previous, expect={**place, "arm": cell["arm"] if place["round"] else START})
    picked = read_query(query, expect={**place, "arm": cell["arm"]})
    same_dataset(previous, old.digest, dataset, data.digest)
    same_dataset(query, picked.digest, dataset, data.digest)
    if np.isin(picked.index, old.index).any() or not _within(picked.index, len(data.train.labels)):
        raise AllroundError(
            f"{query}: holds an index that is labelled already or is not in the pool; delete it and run again."
        )
    labelled = Labels(
        np.concatenate([old.index, picked.index]),
        np.concatenate([old.label, data.train.labels[picked.index]]),
        np.concatenate([old.round, np.full(len(picked.index), cell["round"])]),
    )
    write_labels(labels, labelled, identity=identity, digest=data.digest)


def _within(index: np.ndarray, size: int) -> bool:
    return len(index) == 0 or (index.min() >= 0 and index.max() < size)


if __name__ == "__main__":
    run_stage(label, inputs=("dataset", "previous", "query"), outputs=("labels",))
