"""seed_set: the examples that are labelled before round 0, the same for every strategy of a seed.

random: uniform without replacement. balanced: the same number of every class (one more for some where it does not
divide), as in few-label protocols; this looks at the labels of the whole pool, so its curves start with that help.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from allround.artifacts import Labels, read_dataset, write_labels
from allround.job import run_stage, seed_sequence
from allround.sizes import check_size


def seed_set(*, dataset: Path, labels: Path, labels_needed: float | None, identity: str, **_: object) -> None:
    """Write labels.csv of round 0. labels_needed: size of the labelled set in the study's last round."""
    job = json.loads(identity)
    data = read_dataset(dataset, job["cell"]["dataset"])
    size, truth = job["settings"]["size"], data.train.labels
    check_size(str(dataset), size, len(data.classes), max(size, int(labels_needed or 0)), len(truth))
    rng = np.random.default_rng(seed_sequence(identity))
    index = rng.permutation(len(truth))
    if job["settings"]["by"] == "balanced":
        index = index[_rank_in_class(truth[index], rng.permutation(len(data.classes))).argsort(kind="stable")]
    index = index[:size]
    chosen = Labels(index, truth[index], np.zeros(size, dtype=np.int64))
    write_labels(labels, chosen, identity=identity, digest=data.digest)


def _rank_in_class(labels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Sort key that deals the classes out in turn: rank within the class x C + the class's place in `order`."""
    turn = np.empty(len(order), dtype=np.int64)
    turn[order] = np.arange(len(order))
    rank = np.empty(len(labels), dtype=np.int64)
    for label in range(len(order)):
        mine = np.flatnonzero(labels == label)
        rank[mine] = np.arange(len(mine))
    return rank * len(order) + turn[labels]


if __name__ == "__main__":
    run_stage(seed_set, inputs=("dataset",), outputs=("labels",), numbers=("labels_needed",))
