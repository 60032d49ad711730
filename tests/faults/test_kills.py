"""What a user would lose: a night of work, or the trust in it, to a kill -9 at the wrong moment.

ALLROUND_KILLS: kills for each stage and victim; without it a sample runs (`make test`), with 4 more than 200
(`make test-faults`). ALLROUND_SEED: of the points. A failure names the seed and the event at which the process died.
A process that came to its end before a delayed kill does not count.
"""

from __future__ import annotations

import os
import random

import pytest

from faults import kills

KILLS = int(os.environ.get("ALLROUND_KILLS", "0"))
SEED = int(os.environ.get("ALLROUND_SEED", "0"))
VICTIMS = ("stage", "snakemake", "both")
DELAYS = (0, 0, 0.003, 0.02)  # seconds after the event: into what no event announces, such as arithmetic and writes
COMPANION = kills.ARM + "/random@5/seed0/round000"  # a quick job that starts the fork server
stages = pytest.mark.parametrize("stage", kills.OUTPUTS)


@pytest.fixture
def fired(work):
    return work.root / "fired"


def plan(events, rng, who, victim, fired):
    """A point to die at that has not been met yet."""
    fired.unlink(missing_ok=True)
    at, delay = kills.draw(events, rng), rng.choice(DELAYS)
    return {"who": who, "at": at, "delay": delay, "victim": victim, "fired": str(fired)}


@pytest.fixture
def run():
    with kills.idle_run() as name:
        yield name


@stages
@pytest.mark.parametrize("kind", ["forked", "plain"])
def test_a_killed_stage_leaves_whole_files_alone_and_then_repeats_its_bytes(
    stage, kind, reference, work, run, fired, tmp_path, record_property
):
    rng, run = random.Random(f"{SEED} {kind} {stage}"), run if kind == "forked" else ""
    if kind == "plain" and not KILLS:
        pytest.skip("in the sample stages are forked: a process of its own takes seconds to import torch")
    command, events, killed, tries = reference.commands[stage], reference.events[stage], 0, 0
    kills.remove(work.root, stage)
    first = kills.stage(work, command, {"who": "all", "record": str(tmp_path)}, run)  # and starts the server
    assert first.returncode == 0, first.stderr
    if kind == "plain":
        events = kills.read_events(next(tmp_path.glob(f"{kills.module(stage)}-plain-*")))
    files = kills.contents(work.root)
    assert kills.differences(files, reference.files) == []
    while killed < ((3 * KILLS if kind == "forked" else KILLS // 2) or 2):
        tries += 1
        fault = plan(events, rng, kills.module(stage), "stage", fired)
        kills.remove(work.root, stage)
        result = kills.stage(work, command, fault, run)
        where = f"seed {SEED}, try {tries} of {kind} {stage}, {fault}"
        assert tries < 20 + 8 * KILLS, where
        if not fired.exists():
            assert result.returncode == 0, where
            continue
        where += fired.read_text()
        wrong = kills.differences(kills.contents(work.root), reference.files)
        halves = [name for name in wrong if (work.root / name).exists() and not name.endswith((".tmp", ".resume"))]
        assert halves == [], where
        again = kills.stage(work, command, None, run)
        assert again.returncode == 0, f"{where}\n{again.stderr}"
        assert kills.differences(kills.contents(work.root), reference.files) == [], where
        assert (result.returncode != 0) or not wrong, where
        killed += fired.read_text().endswith(kills.STRUCK)
    record_property("kills", [((stage, f"a {kind} stage"), killed)])


@pytest.mark.parametrize("victim", VICTIMS)
@stages
def test_the_same_command_goes_on_after_a_kill(stage, victim, reference, work, fired, record_property):
    rng = random.Random(f"{SEED} {stage} {victim}")
    if not KILLS and (list(kills.OUTPUTS).index(stage), victim) not in ((1, "stage"), (2, "both"), (7, "snakemake")):
        pytest.skip("three kills in the sample; make test-faults kills all stages by all means")
    killed, tries = 0, 0
    while killed < (KILLS or 1):
        # snakemake's own moments: its start, the preparation and the record of a job, its end
        trigger = "snakemake" if victim != "stage" and rng.random() < 0.4 else stage
        fault = plan(reference.events[trigger], rng, kills.module(trigger), victim, fired)
        kills.remove(work.root, stage)
        command = ["--cores", "2", kills.OUTPUTS[stage][0]]
        if (
            trigger == stage and stage not in ("query", "collect") and rng.random() < 0.5
        ):  # in turn: the second job is forked
            (work.root / COMPANION / "query.csv").unlink()
            command = ["--cores", "1", f"{COMPANION}/query.csv", kills.OUTPUTS[stage][0]]
        first = kills.snakemake(work, *command, fault=fault)
        tries += 1
        where = f"seed {SEED}, try {tries} of {stage} ({victim}), {fault}"
        assert tries < 20 + 8 * KILLS, where
        if not fired.exists():
            assert first.returncode == 0, f"{where}, not reached:\n{first.stdout}"
            continue
        where += f", {fired.read_text()}"
        again = kills.snakemake(work, *command)
        assert again.returncode == 0, f"{where}\n{first.stdout}\n{again.stdout}"
        kills.wait_until_quiet(work.root)
        assert kills.differences(kills.contents(work.root), reference.files) == [], f"{where}\n{again.stdout}"
        killed += fired.read_text().endswith(kills.STRUCK)
    if victim == "both":
        assert work.planned(study="faults") == {}
    record_property("kills", [((stage, victim), killed)])
