"""Where everything lies. A path names what its content depends on and nothing else, so equal work is shared.

results/datasets/<dataset>.h5
results/<dataset>/<learner>/<start>/start/seed<k>/round000/                       shared by all strategies
results/<dataset>/<learner>/<start>/<strategy>@<budget>/seed<k>/round<rrr>/
results/studies/<study>/
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

START = "start"  # the arm that holds round 0


@dataclass(frozen=True)
class Cell:
    """One round of one arm. arm: '<strategy>@<budget>', or 'start' for the round 0 that all strategies share."""

    dataset: str
    learner: str
    start: str
    arm: str
    seed: int
    round: int

    @property
    def folder(self) -> str:
        """The cell's folder below results/."""
        return f"{self.dataset}/{self.learner}/{self.start}/{self.arm}/seed{self.seed}/round{self.round:03d}"

    @property
    def home(self) -> Cell:
        """The cell that holds this cell's labels, checkpoint and views: the shared start in round 0."""
        return replace(self, arm=START) if self.round == 0 else self

    @property
    def previous(self) -> Cell:
        """The same arm, one round earlier."""
        return replace(self, round=self.round - 1)

    def as_dict(self) -> dict:
        """The cell as it stands in identities."""
        return asdict(self)


def arm(strategy: str, budget: int) -> str:
    """The folder of a strategy at a budget."""
    return f"{strategy}@{budget}"


def dataset_path(results: Path | str, dataset: str) -> Path:
    """results/datasets/<dataset>.h5"""
    return Path(results, "datasets", f"{dataset}.h5")


def path(results: Path | str, cell: Cell, name: str) -> Path:
    """A file of a cell: labels.csv, checkpoint.pt, metrics.json, pool/<view>.h5, query.csv, cost/<stage>.json."""
    return Path(results, cell.folder, name)
