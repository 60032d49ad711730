"""What of a study is still to be run: what is missing, and what has to be made again for it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from allround import plan, views
from allround.artifacts import read_metrics
from allround.errors import AllroundError
from allround.layout import Cell
from allround.study import Study

Made = Callable[[str, str], bool]


@dataclass(frozen=True)
class Jobs:
    """The jobs of one learner on one dataset that are still to be run, as Snakemake will find them.

    checkpoints: what will be written, by new trainings and by finished ones that run again for it
    embedded: (cell, view); members: (cell, number); again: finished trainings among checkpoints and members
    """

    trained: list[Cell]
    queried: list[Cell]
    embedded: set[tuple[Cell, str]]
    checkpoints: set[Cell]
    members: set[tuple[Cell, int]]
    again: int

    @property
    def replaced(self) -> int:
        """Bytes of the checkpoints and embeddings that are there and will be made again: they go first."""
        paths = [f"{cell.folder}/checkpoint.pt" for cell in self.checkpoints]
        paths += [f"{cell.folder}/members/{member}/checkpoint.pt" for cell, member in self.members]
        paths += [f"{cell.folder}/pool/{view}.h5" for cell, view in self.embedded]
        return sum(_size(Path("results") / path) for path in paths)

    @property
    def kinds(self) -> set[str]:
        """The views that will be made."""
        return {view for _, view in self.embedded}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # or deleted just now, by a run of another study
        return 0


def remaining(study: Study, dataset: str, learner: str, made: Made) -> Jobs:
    """What is left to do. made: (path, identity) -> whether that file is there and was made under that identity"""

    def there(cell: Cell, name: str, identity: str) -> bool:
        return made(f"results/{cell.folder}/{name}", identity)

    cells = [cell for cell in study.cells() if (cell.dataset, cell.learner) == (dataset, learner)]
    trained = [cell for cell in cells if not there(cell, "metrics.json", plan.train(study, cell))]
    asked = [cell.previous for cell in trained if cell.round]
    queried = [cell for cell in asked if not there(cell, "query.csv", plan.query(study, cell))]
    entries = [(cell.home, study.strategies[study.arms[cell.arm]]) for cell in queried]
    seen = {(cell, view) for cell, entry in entries for view in plan.views_of(entry)}
    embedded = {(c, view) for c, view in seen if not there(c, f"pool/{view}.h5", plan.embed(study, c, view))}
    wanted = [cell for cell, _ in embedded] + [cell for cell, entry in entries if plan.sees_model(entry)]
    checkpoints = set(trained)
    wanted += [cell.previous.home for cell in trained if plan.warm(study, cell)]
    while wanted:  # a warm start whose checkpoint is gone goes back to the last one that is there
        cell = wanted.pop()
        if cell not in checkpoints and not there(cell, "checkpoint.pt", plan.train(study, cell)):
            checkpoints.add(cell)
            wanted += [cell.previous.home] if plan.warm(study, cell) else []
    members = {(cell, number) for cell, view in embedded for number in views.members(view)}
    members = {(c, m) for c, m in members if not there(c, f"members/{m}/checkpoint.pt", plan.train(study, c, m))}
    again = len(checkpoints) - len(trained)
    again += sum(there(c, f"members/{m}/metrics.json", plan.train(study, c, m)) for c, m in members)
    return Jobs(trained, queried, embedded, checkpoints, members, again)


def untold(cells: Iterable[Cell], table: Path) -> list[Cell]:
    """Those of some finished cells whose results are not what a table of rounds (rounds.csv) says.

    For cells that are newer than the table: they may still hold the same, copied, or made again.
    """
    cells = list(cells)
    if not cells:
        return []
    try:
        with table.open(encoding="utf-8", errors="replace", newline="") as file:
            told = {_told(row) for row in csv.DictReader(file)} - {None}
    except (OSError, csv.Error):
        told = set()
    return [cell for cell in cells if _result(cell) not in told]


def _result(cell: Cell) -> tuple | None:
    try:
        metrics = read_metrics(Path("results", cell.folder, "metrics.json"))
    except (AllroundError, OSError):
        return None  # collect says what is wrong with it
    strategy, _, budget = cell.arm.partition("@")
    return _told({**metrics, **cell.as_dict(), "strategy": strategy, "budget": budget})


def _told(row: Mapping) -> tuple | None:
    """What a row of the table says of a result, without what it cost; None where it says too little."""
    try:
        number = int(row["round"])
        arm = (row["strategy"], str(row["budget"])) if number else ()  # round 0 is shared, and repeated in the table
        place = (row["dataset"], row["learner"], row["start"], *arm, int(row["seed"]), number, int(row["n_labels"]))
        return *place, *(float(row[name]) for name in ("accuracy", "nll", "ece"))
    except (KeyError, TypeError, ValueError):
        return None
