"""What a user would lose to a pilot: work in flight when its time is over, or a study that cannot go on."""

from __future__ import annotations

import subprocess
from collections import Counter

from cluster import STUDY, call, environment, printed, starts, trained, wait_for

pytest_plugins = ("cluster_fixtures",)

SMALL = ("--cpus-per-task=2", "--mem=4000", "--gpus=1")


def submit(work, *options):
    command = ["sbatch", "--parsable", *SMALL, *options, "profiles/slurm/pilot.sh", "--config", "study=tiny"]
    found = subprocess.run(command, cwd=work.root, env=environment(work), check=True, capture_output=True, text=True)
    return found.stdout.strip()


def end_of(cluster, work, job):
    """The job as sacct has it, once it has ended."""

    def ended():
        rows = (found for found in cluster.jobs(work.root) if found.id == job)
        return next((row for row in rows if row.state not in ("PENDING", "RUNNING")), None)

    return wait_for(ended, seconds=600)


def test_a_pilot_stops_before_its_time_is_over_and_goes_on_when_submitted_again(cluster, fresh, reference):
    work = fresh("pilot")
    hold = work.root / "faults/seed0-round1.hold"
    hold.touch()
    first = submit(work, "--time=60", "--signal=B:TERM@120")
    wait_for(lambda: "seed0-round1" in starts(work))
    end_in_minutes(first, 4)  # now SLURM sees the end coming; it looks once a minute or so
    log = f"allround-pilot-{first}.log"
    wait_for(lambda: "the time is nearly over" in printed(work, log))
    hold.unlink()
    assert end_of(cluster, work, first).state == "FAILED", printed(work, log)  # unfinished; TIMEOUT would be a kill
    assert "the same sbatch command goes on" in printed(work, log)
    finished = list((work.root / "results").rglob("metrics.json"))
    assert len(finished) == len(starts(work)) < 5  # what ran was let finish, nothing was begun: one arm lacks a round

    second = submit(work)
    assert end_of(cluster, work, second).state == "COMPLETED", printed(work, f"allround-pilot-{second}.log")
    assert work.files() == reference.files()
    assert Counter(starts(work)) == {"seed0-round0": 1, "seed0-round1": 2, "seed0-round2": 2}  # two arms, each once


def test_a_pilot_whose_grace_is_over_stops_its_trainings_and_the_next_run_goes_on(cluster, fresh):
    work = fresh("grace", STUDY.replace("[random, margin]", "[margin]"))  # random's round 1 would not wait for round 0
    hold = work.root / "faults/seed0-round0.hold"
    hold.touch()
    job = submit(work, "--export=ALL,GRACE=2")
    wait_for(lambda: starts(work))
    subprocess.run(["scancel", "--batch", "--signal=TERM", job], check=True)
    assert end_of(cluster, work, job).state == "FAILED"
    hold.unlink()
    work.snakemake("results/digits/tiny/random20/start/seed0/round000/metrics.json")  # no lock is in the way
    assert trained(work) == {"seed0/round000"}


def end_in_minutes(job, minutes):
    """Give a running job so many minutes from now, rounded up to whole ones since its start."""
    elapsed = call("squeue", "--noheader", "--format=%M", f"--jobs={job}").strip().split(":")
    limit = int(elapsed[-2]) + minutes
    subprocess.run(["scontrol", "update", f"jobid={job}", f"timelimit={limit}"], check=True)
