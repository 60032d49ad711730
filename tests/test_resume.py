"""What a user would lose: finished work to a kill, or a study to a half-written file."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import psutil
import pytest


def wait_for(condition, seconds=120):
    """Wait until condition() is true."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)


def metrics(work):
    return {path: path.stat().st_mtime_ns for path in (work.root / "results").rglob("metrics.json")}


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
    assert workspace.files() == finished.files()
    assert not list((workspace.root / "results").rglob("*.tmp"))
    assert workspace.planned() == {}


def test_a_second_snakemake_on_the_same_study_is_refused_while_the_first_runs(workspace):
    first = workspace.start()
    wait_for(lambda: (workspace.root / "results/datasets/digits.h5").exists())
    output = workspace.snakemake(ok=False)
    assert "lock" in output.lower()
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()


@pytest.mark.parametrize(
    ("damaged", "named"),
    [
        (
            "margin@5/seed0/round001/labels.csv",
            "truncated, or edited by hand; delete it and run the same command again",
        ),
        ("margin@5/seed0/round001/checkpoint.pt", "not a whole checkpoint"),
        ("margin@5/seed0/round000/query.csv", "truncated, or edited by hand; delete it and run"),
    ],
)
def test_a_truncated_artifact_stops_its_own_arm_alone_in_one_line(copy, damaged, named):
    arm = copy.root / "results/digits/tiny/random20"
    for lost in (
        "margin@5/seed0/round001/metrics.json",  # the round is trained again,
        "margin@5/seed0/round001/query.csv",  # its pool is queried again,
        "fass@5/seed0/round002/metrics.json",  # and an unrelated arm has work to do
    ):
        if damaged != lost:
            (arm / lost).unlink()
    if "query" in damaged:
        (arm / "margin@5/seed0/round001/labels.csv").unlink()
    if "checkpoint" in damaged:
        copy.snakemake("--until", "train")
    whole = (arm / damaged).read_bytes()
    (arm / damaged).write_bytes(whole[: len(whole) // 2])
    if "checkpoint" in damaged:
        (arm / "margin@5/seed0/round002/labels.csv").unlink()
        (arm / "margin@5/seed0/round002/metrics.json").unlink()
    output = copy.snakemake(ok=False)
    assert named in output
    assert damaged in output
    assert "Traceback" not in output
    assert (arm / "fass@5/seed0/round002/metrics.json").exists()
    (arm / damaged).unlink()  # what the message says to do
    copy.snakemake()
    assert copy.planned() == {}
