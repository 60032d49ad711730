"""Finished trainings that a change of settings or code will make again: how many, how long they took, and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from allround import plan
from allround.artifacts import identity_of
from allround.layout import Cell
from allround.study import Study
from snakemake_logger_plugin_allround.words import count, span


def warning(study: Study, cells: Iterable[Cell]) -> str | None:
    """One line about the finished ones among cells that are to be trained; None where there are none.

    What is there under today's identity does not count: its end was not recorded, and it will be taken as it is.
    """
    reasons: Counter[str] = Counter()
    seconds = 0.0
    for cell in cells:
        made, wanted = identity_of(Path("results", cell.folder, "metrics.json")), plan.train(study, cell)
        if made is not None and made != wanted:
            reasons[_reason(json.loads(made), json.loads(wanted))] += 1
            seconds += _seconds(cell)
    if not reasons:
        return None
    took = f" ({span(seconds)} of training)" if seconds else ""
    why = "; ".join(f"{number} made with {reason}" for reason, number in reasons.most_common())
    return (
        f"results: {count(reasons.total(), 'finished training')}{took} will be made again: {why}. "
        "To keep them, stop here and undo the change, or give a changed entry of the catalogue a name of its own; "
        "if it cannot change results, accept them with `snakemake --touch`."
    )


def _reason(made: dict, wanted: dict) -> str:
    """What differs first between two identities of one training."""
    before, after = (identity.get("settings", {}) for identity in (made, wanted))
    if keys := sorted(key for key in {*before, *after} if before.get(key) != after.get(key)):
        return f"other settings of learner '{wanted['cell']['learner']}' ({', '.join(keys)})"
    if made.get("code") != wanted["code"]:
        return "other code of the training"
    inputs = made.get("inputs", {})
    if inputs.get("dataset") != wanted["inputs"]["dataset"]:
        return f"another dataset '{wanted['cell']['dataset']}'"
    if inputs.get("labels") != wanted["inputs"]["labels"]:
        return "another labelled set"
    return "another round before"


def _seconds(cell: Cell) -> float:
    """How long a training took, as far as that is known."""
    try:
        return float(json.loads(Path("results", cell.folder, "cost/train.json").read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
