"""What a run is going to do: its jobs as plain numbers and names, read once from Snakemake's plan.

Nothing here imports `allround`: Snakemake loads its plugins before the Snakefile says whose code is to run.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TRAIN, MEMBER, AGAIN = "train", "train_member", "train_again"
COSTS = {TRAIN: "train", MEMBER: "train_member{member}", "embed": "embed_{view}", "query": "query"}
SAMPLES = 8  # cost files that are read for each kind of job


@dataclass(frozen=True)
class Job:
    """One job. kind: jobs of a kind take as long as each other, given as many labels; needs: ids of other jobs."""

    rule: str
    kind: tuple[str, ...]
    labels: int
    needs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a run is going to do.

    total: rounds of the study, None where the workflow is not allround's; done: those that are finished already
    many: the words (dataset, learner) that tell its jobs apart; prior: (kind, labels, seconds) of finished jobs
    """

    study: str
    jobs: dict[int, Job]
    total: int | None = None
    done: int = 0
    many: frozenset[str] = frozenset()
    prior: list[tuple[tuple[str, ...], int, float]] = field(default_factory=list)


def running_workflow() -> Any:
    """The workflow of this process: Snakemake keeps it among the globals of every Snakefile."""
    return getattr(sys.modules.get("snakemake.workflow"), "workflow", None)


def read_plan(workflow: Any) -> Plan:
    """The plan of a workflow whose DAG is built; of any workflow, though only allround's has rounds."""
    study, dag = workflow.globals.get("STUDY"), workflow.dag
    needed = set(dag.needrun_jobs(exclude_finished=False))
    jobs = {}
    for job in needed:
        kind, labels = described(job.rule.name, job.wildcards_dict, study)
        needs = tuple(dag.jobid(other) for other in dag.dependencies[job] if other in needed)
        jobs[dag.jobid(job)] = Job(job.rule.name, kind, labels, needs)
    if not hasattr(study, "cells"):
        return Plan(Path(workflow.main_snakefile).parent.name, jobs)
    planned = {job.output.metrics for job in needed if job.rule.name == TRAIN}
    cells = study.cells()
    files = {f"results/{cell.folder}/metrics.json": cell for cell in cells}
    finished = [cell for file, cell in files.items() if file not in planned and Path(file).exists()]
    many = frozenset(word for word in ("dataset", "learner") if len(getattr(study, f"{word}s")) > 1)
    return Plan(study.name, jobs, len(cells), len(finished), many, _prior(study, finished, jobs))


def described(rule: str, wildcards: Mapping[str, str], study: Any) -> tuple[tuple[str, ...], int]:
    """A job's kind, and how many labels its round has (0 where that says nothing)."""
    what = {"embed": wildcards.get("view"), "query": wildcards.get("arm")}.get(rule)
    alike = TRAIN if rule == AGAIN else rule
    kind = (alike, wildcards.get("dataset", ""), wildcards.get("learner", ""), what or "")
    if study is None or "round" not in wildcards:
        return kind, 0
    return kind, study.start["size"] + int(wildcards["round"]) * study.budget


def name(rule: str, wildcards: Mapping[str, str], many: frozenset[str] = frozenset()) -> str:
    """What people call a job: `train margin seed 1 round 3`."""
    words = [TRAIN if rule == MEMBER else rule.replace("_", " ")]
    words += [wildcards[word] for word in ("dataset", "learner") if word in many and word in wildcards]
    if "seed" not in wildcards:
        return " ".join([*words, *(wildcards[word] for word in ("dataset",) if word in wildcards and word not in many)])
    arm = wildcards.get("arm", "start").partition("@")[0]
    words += [arm] * (arm != "start") + [f"seed {wildcards['seed']}"]
    words += [f"round {int(wildcards['round'])}"] if "round" in wildcards else []
    words += [f"member {wildcards['member']}"] if "member" in wildcards else []
    words += [wildcards["view"]] if wildcards.get("view", "outputs") != "outputs" else []
    return " ".join(words)


def _prior(study: Any, finished: list, jobs: dict[int, Job]) -> list[tuple[tuple[str, ...], int, float]]:
    """What finished jobs of the kinds that are to run took: a few files of every kind, spread over the rounds."""
    found = []
    for kind in sorted({job.kind for job in jobs.values() if job.kind[0] in COSTS}):
        rule, dataset, learner, what = kind
        same = [cell for cell in finished if (cell.dataset, cell.learner) == (dataset, learner)]
        same = sorted((cell for cell in same if rule != "query" or cell.arm == what), key=_round)
        for cell in same[:: max(1, len(same) // SAMPLES)]:
            cost = f"results/{cell.folder}/cost/{COSTS[rule].format(member=1, view=what)}.json"
            if (seconds := _seconds(Path(cost))) is not None:
                found.append((kind, study.start["size"] + cell.round * study.budget, seconds))
    return found


def _round(cell: Any) -> int:
    return cell.round


def _seconds(cost: Path) -> float | None:
    import json

    try:
        return float(json.loads(cost.read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
