"""Finished trainings that a change of settings or code will make again: how many, how long they took, and why."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from allround import plan
from allround.finished import made_under
from allround.layout import Cell
from allround.study import Study
from snakemake_logger_plugin_allround.words import count, span


def warning(study: Study, cells: Iterable[Cell], forced: bool = False) -> str | None:
    """One line about the finished ones among cells that are to be trained; None where there are none.

    forced: whether the command line asks to make again what is finished
    """
    reasons: Counter[str] = Counter()
    seconds = 0.0
    for cell in cells:
        made, wanted = made_under(Path("results", cell.folder, "metrics.json")), plan.train(study, cell)
        if made is not None and (made != wanted or forced):
            reasons[_reason(made, wanted)] += 1
            seconds += _seconds(cell)
    if not reasons:
        return None
    took = f" ({span(seconds)} of training)" if seconds else ""
    many = len(reasons) > 1
    why = "; ".join(f"{number if many else ''} made with {reason}".strip() for reason, number in reasons.most_common())
    return (
        f"results: {count(reasons.total(), 'finished training')}{took} will be made again: {why}. "
        "To keep them, stop now (-n shows this line without running) and undo the change, or give a changed entry of "
        "the catalogue a name of its own; if it cannot change results, accept them with `snakemake --touch`."
    )


def _reason(made: str, wanted: str) -> str:
    """What differs first between two identities of one training."""
    if made == wanted:
        return "the same settings and code (forced)"
    try:
        return _difference(json.loads(made), json.loads(wanted))
    except (ValueError, KeyError, TypeError, AttributeError):  # a file from elsewhere
        return "an unknown configuration"


def _difference(made: dict, wanted: dict) -> str:
    before, after = made["settings"], wanted["settings"]
    if keys := sorted(key for key in {*before, *after} if before.get(key) != after.get(key)):
        return f"other settings of learner '{wanted['cell']['learner']}' ({', '.join(keys)})"
    if made["code"] != wanted["code"]:
        return "other code of the training"
    changed = {name for name in wanted["inputs"] if made["inputs"].get(name) != wanted["inputs"][name]}
    if "dataset" in changed:
        return f"another dataset '{wanted['cell']['dataset']}'"
    return "another labelled set" if "labels" in changed else "another round before"


def _seconds(cell: Cell) -> float:
    """How long a training took, as far as that is known."""
    try:
        cost = json.loads(Path("results", cell.folder, "cost/train.json").read_text(encoding="utf-8"))
        seconds = float(cost["seconds"])
        return seconds if 0 <= seconds < math.inf else 0.0
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return 0.0
