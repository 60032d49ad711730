"""How far a run is: O(1) for each event, and a forecast now and then."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snakemake_logger_plugin_allround import plan as plans
from snakemake_logger_plugin_allround import words
from snakemake_logger_plugin_allround.forecast import Durations, Graph, graph, seconds_left
from snakemake_logger_plugin_allround.plan import TRAIN, Plan

AT_ONCE = 64  # running jobs that the state file names
SHARE = 0.02  # of the time that forecasts may take


@dataclass
class Run:
    """A run of a plan. Times are seconds since the epoch."""

    plan: Plan
    began: float
    places: int = 1
    order: Graph = field(init=False)
    durations: Durations = field(init=False)
    names: dict[int, str] = field(default_factory=dict)
    running: dict[int, float] = field(default_factory=dict)
    finished: set[int] = field(default_factory=set)
    failed: dict[int, dict] = field(default_factory=dict)
    rounds: int = field(init=False)
    interrupted: bool = False  # by the user: jobs that fail from then on were stopped
    ends: float | None = None
    forecast_at: float = 0.0

    def __post_init__(self) -> None:
        self.order = graph(self.plan.jobs)
        self.durations = Durations(self.plan.prior)
        self.rounds = self.plan.done

    def job_starts(self, number: int, rule: str, wildcards: Mapping[str, str], when: float) -> None:
        """A job was started (again), or handed to a cluster."""
        self.names[number] = plans.name(rule, wildcards, self.plan.many)
        self.running[number] = when
        self.failed.pop(number, None)

    def job_ends(self, number: int, when: float) -> None:
        """A job has ended well."""
        begun = self.running.pop(number, None)
        if number in self.finished:
            return
        self.finished.add(number)
        if job := self.plan.jobs.get(number):
            self.rounds += job.rule == TRAIN
            if begun is not None:
                self.durations.add(job.kind, job.labels, max(when - begun, 0.0))

    def job_fails(self, number: int, rule: str, cause: str, logs: Sequence[str]) -> str:
        """A job has failed, or was stopped with the run; returns its name."""
        self.running.pop(number, None)
        name = self.names.get(number, rule)
        if not self.interrupted:
            self.failed[number] = {"name": name, "cause": cause, "logs": list(logs)}
        return name

    def forecast(self, now: float) -> None:
        """Work out when the run will end, unless that was done a moment ago."""
        if now < self.forecast_at:
            return
        before = time.perf_counter()
        left = seconds_left(
            self.order, self.plan.jobs, self.durations, done=self.finished, failed=self.failed,
            running={number: now - begun for number, begun in self.running.items() if number in self.plan.jobs},
            places=max(self.places, len(self.running)),
        )  # fmt: skip
        self.ends = None if left is None else now + left
        self.forecast_at = now + max(1.0, (time.perf_counter() - before) / SHARE)

    def progress(self, now: float, ended: float | None = None) -> dict[str, Any]:
        """What the line says, and what the state file holds."""
        rounds = self.plan.total is not None
        oldest = sorted(self.running.items(), key=_second)
        return {
            "study": self.plan.study,
            "unit": "rounds" if rounds else "jobs",
            "done": self.rounds if rounds else len(self.finished),
            "total": self.plan.total if rounds else len(self.plan.jobs),
            "running": [{"name": self.names[number], "since": begun} for number, begun in oldest[:AT_ONCE]],
            "running_count": len(oldest),
            "failed": list(self.failed.values()),
            "ends": None if ended else self.ends,
            "jobs_done": len(self.finished),
            "jobs": len(self.plan.jobs),
            "began": self.began,
            "updated": now,
            "ended": ended,
            "interrupted": self.interrupted,
            "pid": os.getpid(),
            "host": platform.node(),
        }

    def last_words(self, now: float) -> str:
        """One line at the end."""
        text = f"{self.plan.study}: {words.done(self.progress(now))} done, in {words.span(now - self.began)}"
        if self.failed:
            logs = [log for job in self.failed.values() for log in job["logs"]]
            more = f" and {len(logs) - 3} more" if len(logs) > 3 else ""
            name = self.plan.study if Path(f"config/studies/{self.plan.study}.yaml").is_file() else "<the study's file>"
            so_far = f"; a report of what is done: python -m allround.interim {name}" if self.rounds else ""
            return f"{text}; {words.count(len(self.failed), 'job')} failed: {', '.join(logs[:3])}{more}{so_far}"
        if len(self.finished) < len(self.plan.jobs):
            why = "interrupted" if self.interrupted else "not finished"
            return f"{text}; {why}: the same command goes on where it stopped"
        report = Path(f"results/studies/{self.plan.study}/report.html")
        return f"{text}; the report: {report}" if report.exists() else text


def _second(pair: tuple[int, float]) -> float:
    return pair[1]
