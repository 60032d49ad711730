"""What Snakemake's records say about the run: counted, and kept in the state file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from logging import LogRecord
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_allround import state
from snakemake_logger_plugin_allround.failures import cause_in, last_words
from snakemake_logger_plugin_allround.plan import read_plan, running_workflow
from snakemake_logger_plugin_allround.run import Run

INTERRUPTED = "Terminating processes on user request"  # what Snakemake says after Ctrl-C
BEAT = 10.0  # seconds after which the state file is written again though nothing has changed


class Watch:
    """Follows one run; `run` is None until its plan is known."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self.changed = 0.0  # when something last happened
        self._folder = Path(".snakemake")
        self._saved = 0.0
        self._cores: int | None = None
        self._provided: dict[str, Any] = {}
        self._asked: dict[str, dict[str, Any]] = {}

    def note(self, record: LogRecord) -> None:
        """Take one record; O(1) but for the one that opens a run. Failed jobs are told by `fail`."""
        event, run = getattr(record, "event", None), self.run
        if event == LogEvent.RESOURCES_INFO:
            self._cores = getattr(record, "cores", None) or getattr(record, "nodes", None) or self._cores
            self._provided = dict(getattr(record, "provided_resources", None) or self._provided)
        elif event == LogEvent.RUN_INFO and run is None:
            if (workflow := running_workflow()) is not None:
                self._folder = Path.cwd() / ".snakemake"  # where the run is, after --directory
                self.run = Run(read_plan(workflow), record.created, places(self._cores, {}, []))
                self.changed = time.time()
        elif run is None:
            return
        elif event == LogEvent.JOB_INFO:
            run.job_starts(record.jobid, record.rule_name, record.wildcards or {}, record.created)
            if record.rule_name not in self._asked:
                self._asked[record.rule_name] = {**dict(record.resources.items()), "threads": record.threads}
                run.places = places(self._cores, self._provided, list(self._asked.values()))
            self.changed = time.time()
        elif event == LogEvent.JOB_FINISHED:
            run.job_ends(record.job_id, record.created)
            self.changed = time.time()
        elif record.getMessage().startswith(INTERRUPTED):
            run.interrupted = True

    def fail(self, job: Mapping[str, Any], logs: Sequence[str], message: str = "") -> str:
        """Take one failed job (jobid and rule_name); returns its name.

        message: of the exception that Snakemake raised for it, if any
        """
        if self.run is None:
            return job["rule_name"]
        cause = (cause_in(logs) or last_words(logs, message)).removeprefix("allround ")
        self.changed = time.time()
        return self.run.job_fails(job["jobid"], job["rule_name"], cause, logs)

    def save(self, now: float, ended: float | None = None) -> None:
        """Write the state file: at the end, else at most once a second, and now and then as a sign of life."""
        waited = now - self._saved
        if self.run and (ended or (waited >= 1.0 and self.changed >= self._saved) or waited >= BEAT):
            state.write(self._folder, self.run.progress(now, ended))
            self._saved = now


def places(cores: int | None, provided: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]]) -> int:
    """How many jobs run side by side: the cores (or cluster jobs) there are, or fewer where jobs need more.

    provided: resource -> amount; jobs: what the jobs that ran so far asked for, `threads` among it
    """
    limits = [cores or 1]
    for asked in jobs:
        limits.append((cores or 1) // max(int(asked.get("threads", 1)), 1))
        for resource, amount in provided.items():
            wanted, amount = asked.get(resource, 0), getattr(amount, "value", amount)
            if isinstance(wanted, int) and isinstance(amount, int) and wanted > 0:
                limits.append(amount // wanted)
    return max(min(limits), 1)
