"""What the fault-injection tests share: the finished study, and a table of the kills at the end of the run."""

from __future__ import annotations

import fcntl
import os
import pickle
from collections import Counter

import pytest
from conftest import Workspace, new_workspace

from faults import kills


@pytest.fixture(scope="session")
def reference(tmp_path_factory) -> kills.Reference:
    """The study, run to its end once a session, and what its processes do. Read only."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # one run for all workers
    root, known = shared / "faults-reference", shared / "faults-reference.pickle"
    with (shared / "faults-reference.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not known.exists():
            work = kills.faults_study(new_workspace(root))
            printed = work.snakemake("--printshellcmds", study="faults")
            before, shell = kills.contents(root), kills.commands(printed)
            found = events(work, shared, shell)
            after = kills.contents(root)  # tables and report hold costs, so they alone may differ from the first run's
            assert all(name.startswith(kills.REPORT) for name in kills.differences(before, after))
            made = after, shell, found
            known.write_bytes(pickle.dumps(made))
    return kills.Reference(Workspace(root), *pickle.loads(known.read_bytes()))


def events(work: Workspace, folder, commands: dict[str, str]) -> dict[str, list[str]]:
    """The audit events of one process of every stage, and of a snakemake that runs one job."""
    found = {}
    for stage in kills.OUTPUTS:
        kills.remove(work.root, stage)
        fault = {"who": kills.module(stage), "record": str(folder / "events")}
        result = kills.stage(work, commands[stage], fault)
        assert result.returncode == 0, result.stderr
        found[stage] = (folder / "events").read_text().splitlines()
    kills.remove(work.root, "label")
    fault = {"who": "snakemake", "record": str(folder / "events")}
    result = kills.snakemake(work, kills.OUTPUTS["label"][0], fault)
    assert result.returncode == 0, result.stdout
    found["snakemake"] = (folder / "events").read_text().splitlines()
    return found


@pytest.fixture
def work(reference, tmp_path) -> Workspace:
    """A copy of the finished study, to be broken; nothing of it lives on."""
    copy = kills.fresh(reference, tmp_path / "work")
    yield copy
    kills.kill_all(copy.root)


def pytest_terminal_summary(terminalreporter) -> None:
    """How many kills there were, by stage and victim."""
    counts: Counter = Counter()
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "kills":
                counts.update({tuple(key): number for key, number in value})
    if counts:
        terminalreporter.section("kills that changed nothing")
        victims = sorted({victim for _, victim in counts})
        terminalreporter.write_line(f"{'stage':14}" + "".join(f"{victim:>22}" for victim in victims))
        for stage in kills.OUTPUTS:
            row = "".join(f"{counts[stage, victim]:>22}" for victim in victims)
            terminalreporter.write_line(f"{stage:14}{row}")
        terminalreporter.write_line(f"{sum(counts.values())} in total")
