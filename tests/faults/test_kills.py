"""What a user would lose: a night of work, or the trust in it, to a kill -9 at the wrong moment.

ALLROUND_KILLS: kills of every stage by every victim (default 1: the sample in `make test`; `make test-faults`: 8);
ALLROUND_SEED: of the points. A failure names both, and the event at which the process died.
"""

from __future__ import annotations

import os
import random

import pytest

from faults import kills

KILLS = int(os.environ.get("ALLROUND_KILLS", "0"))
SEED = int(os.environ.get("ALLROUND_SEED", "0"))
VICTIMS = ("stage", "snakemake", "both")
DELAYS = (0, 0, 0.003, 0.03)  # seconds after the event: into what no event announces, such as arithmetic and writes
stages = pytest.mark.parametrize("stage", kills.OUTPUTS)


def fault(events, rng, who, victim, fired):
    """A point to die at that has not been met yet."""
    fired.unlink(missing_ok=True)
    at, delay = kills.draw(events, rng), rng.choice(DELAYS)
    return {"who": who, "at": at, "delay": delay, "victim": victim, "fired": str(fired)}


@stages
def test_a_stage_killed_anywhere_leaves_whole_files_alone_and_repeats_its_bytes(
    stage, reference, work, record_property
):
    rng, fired = random.Random(f"{SEED} {stage}"), work.root / "fired"
    killed = 0
    while killed < (4 * KILLS or 2):
        plan = fault(reference.events[stage], rng, kills.module(stage), "stage", fired)
        kills.remove(work.root, stage)
        result = kills.stage(work, reference.commands[stage], plan)
        where = (
            f"seed {SEED}, kill {killed} of {stage}, {plan}, {fired.read_text() if fired.exists() else 'not reached'}"
        )
        if not fired.exists():
            assert result.returncode == 0, where
            continue
        wrong = kills.differences(kills.contents(work.root), reference.files)
        assert set(wrong) <= gone_or_on_the_way(work, wrong), where
        again = kills.stage(work, reference.commands[stage])
        assert again.returncode == 0, f"{where}\n{again.stderr}{log(work, reference, stage)}"
        assert kills.differences(kills.contents(work.root), reference.files) == [], where
        killed += 1
    record_property("kills", [((stage, "a stage by itself"), killed)])


def gone_or_on_the_way(work, names):
    """Of files that differ, those that are not there at all, or are not under their own name."""
    return {name for name in names if name.endswith((".tmp", ".resume")) or not (work.root / name).exists()}


def log(work, reference, stage):
    """What a stage said."""
    path = work.root / reference.commands[stage].split(" > ")[1].split()[0]
    return path.read_text(errors="replace") if path.exists() else ""


@pytest.mark.parametrize("victim", VICTIMS)
@stages
def test_the_same_command_goes_on_after_a_kill(stage, victim, reference, work, record_property):
    rng, fired = random.Random(f"{SEED} {stage} {victim}"), work.root / "fired"
    if not KILLS and victim != VICTIMS[list(kills.OUTPUTS).index(stage) % 3]:
        pytest.skip("one victim a stage in the sample; make test-faults kills all")
    killed, target = 0, kills.OUTPUTS[stage][0]
    while killed < (KILLS or 1):
        # snakemake's own moments: its start, the preparation and the record of a job, its end
        trigger = "snakemake" if victim != "stage" and rng.random() < 0.5 else stage
        plan = fault(reference.events[trigger], rng, kills.module(trigger), victim, fired)
        kills.remove(work.root, stage)
        first = kills.snakemake(work, target, plan)
        where = f"seed {SEED}, kill {killed} of {stage} ({victim}), {plan}"
        if not fired.exists():
            assert first.returncode == 0, f"{where}, not reached:\n{first.stdout}"
            continue
        where += f", {fired.read_text()}"
        assert first.returncode != 0, f"{where}\n{first.stdout}"
        again = kills.snakemake(work, target)
        assert again.returncode == 0, f"{where}\n{first.stdout}\n{again.stdout}"
        kills.wait_until_quiet(work.root)
        assert kills.differences(kills.contents(work.root), reference.files) == [], f"{where}\n{again.stdout}"
        killed += 1
    assert work.planned(study="faults") == {}
    record_property("kills", [((stage, victim), killed)])
