"""What the fault-injection tests share: the finished study, and a table of the kills at the end of the run."""

from __future__ import annotations

import fcntl
import os
import pickle
from collections import Counter
from pathlib import Path

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
            work, lists = kills.faults_study(new_workspace(root)), shared / "faults-events"
            lists.mkdir()
            fault = {"who": "all", "record": str(lists)}
            printed = kills.snakemake(work, "--cores", "1", "--printshellcmds", fault=fault)  # one core: all are forked
            assert printed.returncode == 0, printed.stdout
            kills.remove(root, "train_again")
            again = kills.snakemake(work, "--printshellcmds", *kills.OUTPUTS["train_again"])
            assert again.returncode == 0, again.stdout
            shell = kills.commands(printed.stdout + again.stdout)
            with kills.idle_run() as run:  # each of these was the first of its snakemake, and started the server
                for stage in ("dataset", "dataset", "train_again"):
                    kills.remove(root, stage)
                    assert kills.stage(work, shell[stage], fault, run).returncode == 0
            known.write_bytes(pickle.dumps((kills.contents(root), shell, events(lists))))
    return kills.Reference(Workspace(root), *pickle.loads(known.read_bytes()))


def events(lists: Path) -> dict[str, kills.Events]:
    """Of one forked process of every stage, the one that writes what kills.OUTPUTS names."""
    found = {}
    for path in lists.glob("*-forked-*"):
        text = path.read_text(errors="replace")
        for stage, outputs in kills.OUTPUTS.items():
            makes = outputs[0] + ".tmp" in text and kills.UNTOUCHED.get(stage, "none") + ".tmp" not in text
            if makes and path.name.startswith(kills.module(stage) + "-"):
                found[stage] = kills.read_events(path)
    found["snakemake"] = kills.read_events(next(lists.glob("snakemake-plain-*")))
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
