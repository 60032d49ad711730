"""Train a learner on a round's labelled set, and test it.

dataset.h5 + labels.csv (+ checkpoint.pt of the round before, for a learner with a warm start, or the file of weights
that the learner starts from in every round)
    -> checkpoint.pt (weights, and what rebuilds the model) + metrics.json (of the test set)

Without --metrics the test is left out: a checkpoint that was deleted, made again.

Prints its progress. Killed, it goes on from its last saved epoch; the state for that lies beside the checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from allround.artifacts import (
    Dataset,
    Labels,
    read_checkpoint,
    read_dataset,
    read_labels,
    same_dataset,
    write_checkpoint,
    write_metrics,
)
from allround.device import choose
from allround.errors import AllroundError
from allround.job import run_stage, seed_sequence
from allround.learners.inference import outputs
from allround.learners.model import Classifier, load, pack
from allround.learners.resume import Keeper
from allround.learners.scores import evaluate
from allround.learners.training import Fitted, fit


def train(
    *,
    dataset: Path,
    labels: Path,
    previous: Path | None,
    weights: Path | None,
    checkpoint: Path,
    metrics: Path | None,
    identity: str,
    device: str,
    threads: int,
) -> dict:
    """Write checkpoint and metrics; see the module."""
    job = json.loads(identity)
    cell, learner = job["cell"], job["settings"]
    data = read_dataset(dataset, cell["dataset"])
    labelled = read_labels(labels, {key: value for key, value in cell.items() if key != "member"})
    same_dataset(labels, labelled.digest, dataset, data.digest)
    _check_labels(labels, labelled, data)
    start = _given(weights, learner, cell, data) or _previous(previous, learner, cell, data, dataset)
    place = choose(device, threads)
    state = checkpoint.with_suffix(".resume")
    fitted = fit(
        np.asarray(data.train.images[labelled.index]),
        labelled.label,
        learner,
        classes=len(data.classes),
        mean=data.mean,
        std=data.std,
        seeds=seed_sequence(identity),
        device=place,
        start=start,
        state=state,
        identity=identity,
        log=_say,
    )
    scores = _test(fitted, data, place) if metrics else None  # before anything is written: files that belong together
    write_checkpoint(checkpoint, pack(fitted.model, learner, data), identity=identity, digest=data.digest)
    if metrics:
        whole = {"n_labels": len(labelled.index), **scores}
        write_metrics(metrics, whole, identity=identity, digest=data.digest)
    Keeper(state, identity, _say).forget()
    return {"images": fitted.images}


def _test(fitted: Fitted, data: Dataset, place: torch.device) -> dict:
    """Scores on the test set, and how the training went."""
    blocks = outputs(fitted.model, data.test.images, mean=data.mean, std=data.std, device=place)
    logits = np.concatenate([logits for _, _, logits in blocks])  # (n_test, c)
    scores = evaluate(logits, data.test.labels)
    _say(f"test accuracy {scores['accuracy']:.4f}, nll {scores['nll']:.4f}, ece {scores['ece']:.4f}")
    return {
        **scores,
        "epochs": fitted.epochs,
        "steps": fitted.steps,
        "precision": fitted.precision,
        "train_accuracy": fitted.train_accuracy,
        "train_loss": fitted.train_loss,
    }


def _check_labels(path: Path, labelled: Labels, data: Dataset) -> None:
    n, classes = len(data.train.labels), len(data.classes)
    if not len(labelled.index):
        raise AllroundError(f"{path}: holds no label; a training needs at least one.")
    strange = labelled.index[(labelled.index < 0) | (labelled.index >= n)]
    if len(strange):
        raise AllroundError(f"{path}: index {strange[0]} is not in dataset '{data.name}'; allowed: 0 to {n - 1}.")
    if labelled.label.min() < 0 or labelled.label.max() >= classes:
        raise AllroundError(
            f"{path}: labels run from {labelled.label.min()} to {labelled.label.max()}; allowed: 0 to {classes - 1}, "
            f"the {classes} classes of dataset '{data.name}'."
        )


def _given(path: Path | None, learner: dict, cell: dict, data: Dataset) -> Callable[[Classifier], None] | None:
    """What puts the weights of the learner's file into a model, where it names one."""
    initialisation = learner["initialisation"]
    if not isinstance(initialisation, dict):
        if path is not None:
            raise AllroundError(f"learner '{cell['learner']}' names no file of weights; leave --weights out.")
        return None
    if path is None:
        raise AllroundError(f"learner '{cell['learner']}' starts from a file of weights; give it with --weights.")
    # by name: its code counts in the identity of the trainings that start from a file (learners.modules)
    return import_module("allround.learners.own_weights").starter(path, initialisation, data.classes, _say)


def _previous(
    path: Path | None, learner: dict, cell: dict, data: Dataset, dataset: Path
) -> Callable[[Classifier], None] | None:
    """What puts the weights of the round before into a model, for a warm start after round 0."""
    round_, name = cell.get("round", 0), cell["learner"]
    warm = learner["initialisation"] == "warm" and round_ > 0
    if warm and path is None:
        raise AllroundError(f"learner '{name}' starts from the round before; give its checkpoint.pt with --previous.")
    if path is not None and not warm:
        raise AllroundError(f"learner '{name}' does not go on from another round here; leave --previous out.")
    if path is None:
        return None
    same = {key: cell[key] for key in ("dataset", "learner", "start", "seed", "member") if key in cell}
    saved = read_checkpoint(path, same | {"round": round_ - 1})
    same_dataset(path, saved["dataset_digest"], dataset, data.digest)
    return partial(load, state=saved["weights"], source=path)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    files = {"inputs": ("dataset", "labels"), "optional": ("previous",), "given": ("weights",)}
    run_stage(train, **files, outputs=("checkpoint",), extra=("metrics",))
