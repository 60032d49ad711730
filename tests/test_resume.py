"""What a user would lose: finished work to a kill, or a study to a half-written file."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import time

import psutil
import pytest

from snakemake_logger_plugin_allround import state


def wait_for(condition, seconds=600):
    """Wait until condition() is true."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)


def metrics(work):
    """Finished trainings -> time; one whose end snakemake has not recorded yet, for every output, is not finished."""
    records = [name for *_, names in os.walk(work.root / ".snakemake/incomplete") for name in names]
    unfinished = {base64.urlsafe_b64decode(name).decode() for name in records}
    cells = {str(path.parent.relative_to(work.root)): path for path in (work.root / "results").rglob("metrics.json")}
    outputs = ("metrics.json", "checkpoint.pt", "cost/train.json")
    ended = {cell: not unfinished & {f"{cell}/{name}" for name in outputs} for cell in cells}
    return {path: path.stat().st_mtime_ns for cell, path in cells.items() if ended[cell]}


def lasting(work):
    """What two runs have in common; a kill may leave what Snakemake was about to delete, and a second name of a file
    whose job had begun before Snakemake marked it, and ended after the kill."""
    temporary = ("checkpoint.pt", "outputs.h5", ".found")
    return {name: whole for name, whole in work.files().items() if not name.endswith(temporary)}


@pytest.mark.parametrize("victim", ["snakemake", "everything"])
def test_after_kill_9_in_mid_round_the_same_command_goes_on_and_loses_nothing(workspace, finished, victim):
    process = workspace.start()
    wait_for(lambda: len(metrics(workspace)) >= 2)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    if victim == "everything":
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
    process.communicate()
    before = metrics(workspace)
    output = workspace.snakemake()  # the same command: no --unlock, no --rerun-incomplete
    after = metrics(workspace)
    assert {path: after[path] for path in before} == before, output
    assert lasting(workspace) == lasting(finished)
    assert not list((workspace.root / "results").rglob("*.tmp"))
    assert workspace.planned() == {}


def test_a_second_snakemake_on_the_same_study_is_refused_while_the_first_runs(workspace):
    first = workspace.start()
    wait_for(lambda: any(last["running"] for last in state.read(workspace.root / ".snakemake")))
    os.kill(first.pid, signal.SIGSTOP)  # or it is done before the second one looks
    output = workspace.snakemake(ok=False)
    assert f"study 'tiny' is running here already (process {first.pid} on " in output
    assert "Traceback" not in output
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()


@pytest.mark.parametrize(
    ("damaged", "lost"),
    [
        ("margin@5/seed0/round001/labels.csv", ["margin@5/seed0/round001/metrics.json"]),
        (
            "margin@5/seed0/round001/checkpoint.pt",
            [
                f"margin@5/seed0/{name}"
                for name in ("round001/query.csv", "round002/labels.csv", "round002/metrics.json")
            ],
        ),
        (
            "margin@5/seed0/round000/query.csv",
            ["margin@5/seed0/round001/labels.csv", "margin@5/seed0/round001/metrics.json"],
        ),
    ],
    ids=lambda value: value.rpartition("/")[2] if isinstance(value, str) else "",
)
def test_a_truncated_artifact_stops_its_own_arm_alone_in_one_line(copy, damaged, lost):
    arm = copy.root / "results/digits/tiny/random20"
    for name in (*lost, "glister@5/seed0/round002/metrics.json"):  # there is work to do in this arm and in another
        (arm / name).unlink()
    whole = (arm / damaged).read_bytes()
    (arm / damaged).write_bytes(whole[: len(whole) // 2])
    output = copy.snakemake(ok=False)
    line = next(line for line in output.splitlines() if line.startswith("allround "))
    assert damaged in line
    assert "not a whole" in line
    assert "delete it and run the same command again" in line
    assert "Traceback" not in output
    assert (arm / "glister@5/seed0/round002/metrics.json").exists()
    (arm / damaged).unlink()  # what the message says to do
    copy.snakemake()
    assert copy.planned() == {}
