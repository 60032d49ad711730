"""Collect: every round of a study as one tidy table, and what it was made with.

Reads metrics.json, cost/*.json and the identity of query.csv in every cell of the study's grid; writes rounds.csv (one
row a dataset, learner, strategy, seed and round) and provenance.json (code fingerprints, versions, hosts, devices).
Round 0 is shared by all strategies and repeated for each, since every curve starts there; so are its costs. A missing
cost is an empty field. A missing or misplaced result, or a labelled set of the wrong size, is an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pandas as pd

from allround import layout, views
from allround.artifacts import read_json, read_metrics, read_query, write_json, write_text
from allround.errors import AllroundError
from allround.evaluation.provenance import Seen
from allround.identity import digest
from allround.job import run_stage
from allround.layout import Cell

COLUMNS = ["dataset", "learner", "start", "strategy", "budget", "seed", "round", "n_labels", "accuracy", "nll", "ece"]
COLUMNS += ["balanced_accuracy", "worst_class_accuracy"]  # mean and least over the classes
COLUMNS += ["epochs", "seconds_train", "seconds_embed", "seconds_query", "seconds_label"]
COLUMNS += [
    "peak_memory_mb",
    "peak_gpu_memory_mb",
    "query_memory_mb",
    "query_gpu_memory_mb",
    "device",
    "host",
    "precision",
]
MEASURES = ["n_labels", "accuracy", "nll", "ece", "epochs"]


def collect(*, results: Path, rounds: Path, provenance: Path, identity: str, **_: object) -> dict:
    """Write the table of rounds and where it came from. results: the folder that holds all cells."""
    study = json.loads(identity)["settings"]["study"]
    body = {"identity": json.loads(identity)}
    return {"rounds": write_tables(rounds, provenance, results, study, cells(study), body)}


def write_tables(
    rounds: Path, provenance: Path, results: Path, study: Mapping, points: Iterable[tuple[Cell, str]], more: Mapping
) -> int:
    """Write the table of some points, as of `cells`, and where it came from, with more to say; how many rows."""
    seen = Seen()
    table = pd.DataFrame([row(results, study, cell, strategy, seen) for cell, strategy in points], columns=COLUMNS)
    text = table.to_csv(index=False, lineterminator="\n")
    write_text(rounds, text)
    write_json(provenance, {"study": study, **seen.as_dict(), "rounds": digest(text), **more})
    return len(table)


def cells(study: Mapping) -> Iterator[tuple[Cell, str]]:
    """(cell, strategy) of every point of every curve: a strategy's own arm, also in round 0."""
    for dataset in study["datasets"]:
        for learner in study["learners"]:
            for strategy in study["strategies"]:
                arm = layout.arm(strategy, study["budget"])
                for seed in study["seeds"]:
                    for number in range(study["rounds"]):
                        yield Cell(dataset, learner, study["start"]["name"], arm, seed, number), strategy


def row(results: Path, study: Mapping, cell: Cell, strategy: str, seen: Seen) -> dict:
    """One row of the table; what made it is noted in `seen`."""
    place = layout.path(results, cell.home, "metrics.json")
    metrics = read_metrics(place, expect=cell.home.as_dict())
    wanted = study["start"]["size"] + cell.round * study["budget"]
    if metrics["n_labels"] != wanted:
        raise AllroundError(
            f"{place}: trained on {metrics['n_labels']} labels, but round {cell.round} of this study has {wanted}; "
            "delete it and run the same command again."
        )
    seen.result(place, cell.dataset, metrics)
    costs = {
        name: cost(path, seen, cell.learner) for name, path in cost_paths(results, study, cell, strategy, seen).items()
    }
    train = costs["train"]
    found = {"dataset": cell.dataset, "learner": cell.learner, "start": cell.start, "strategy": strategy}
    found |= {"budget": study["budget"], "seed": cell.seed, "round": cell.round}
    found |= {name: metrics.get(name) for name in MEASURES}
    if classes := [value for value in metrics.get("per_class_accuracy") or () if value is not None]:
        found |= {"balanced_accuracy": sum(classes) / len(classes), "worst_class_accuracy": min(classes)}
    for stage in ("train", "embed", "query", "label"):
        found[f"seconds_{stage}"] = total(each.get("seconds") for name, each in costs.items() if name.startswith(stage))
    for name in ("peak_memory_mb", "peak_gpu_memory_mb"):
        found[name] = max((each[name] for each in costs.values() if each.get(name) is not None), default=None)
        found[name.replace("peak", "query")] = costs["query"].get(name)
    return found | {"device": train.get("device"), "host": train.get("host"), "precision": metrics.get("precision")}


def cost_paths(results: Path, study: Mapping, cell: Cell, strategy: str, seen: Seen) -> dict[str, Path]:
    """Cost files of one round of one arm; of the views in a shared round 0, only those that this arm's query read."""
    query = layout.path(results, cell, "query.csv")
    found = {"train": layout.path(results, cell.home, "cost/train.json")}
    found |= {"query": layout.path(results, cell, "cost/query.json")}
    found |= {"label": layout.path(results, cell.home, f"cost/{'label' if cell.round else 'seed_set'}.json")}
    if cell.round < study["rounds"] - 1 and query.exists():  # the last round asks for nothing
        job = json.loads(read_query(query, expect=cell.as_dict()).identity)
        seen.code("query", job["code"], cell.learner, strategy)
        for view in sorted(set(job["inputs"]) - {"labels", "checkpoint"}):
            found[f"embed {view}"] = layout.path(results, cell.home, f"cost/embed_{view}.json")
            for member in views.members(view):
                found[f"train {member}"] = layout.path(results, cell.home, f"cost/train_member{member}.json")
    return found


def cost(path: Path, seen: Seen, learner: str) -> dict:
    """What a job cost; empty where that was not kept, or is damaged: to know it again would take to run it again."""
    if not path.exists():
        return {}
    try:
        found = read_json(path)
    except AllroundError:
        print(f"{path}: damaged; this cost is left out of the tables", flush=True)
        return {}
    seen.job(path, found, learner)
    return found


def total(values: Iterator) -> float | None:
    """Sum of what is known; None where nothing is."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return round(sum(known), 4) if known else None


if __name__ == "__main__":
    run_stage(collect, inputs=("results",), outputs=("rounds", "provenance"))
