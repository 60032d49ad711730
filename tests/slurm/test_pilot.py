"""What a user would lose to a pilot: work in flight when its time is over, or a study that cannot go on."""

from __future__ import annotations

import subprocess
import time

from cluster import environment, starts, trained, wait_for

pytest_plugins = ("cluster_fixtures",)

SMALL = ("--cpus-per-task=2", "--mem=4000", "--gpus=1")


def submit(work, *options):
    command = ["sbatch", "--parsable", *SMALL, *options, "profiles/slurm/pilot.sh", "--config", "study=tiny"]
    found = subprocess.run(command, cwd=work.root, env=environment(work), check=True, capture_output=True, text=True)
    return found.stdout.strip()


def ended(cluster, work, job):
    return next((found for found in cluster.jobs(work.root) if found.id == job and found.state != "RUNNING"), None)


def test_a_pilot_stops_before_its_time_is_over_and_goes_on_when_submitted_again(cluster, fresh, reference):
    work = fresh("pilot")
    hold = work.root / "faults/seed0-round1.hold"
    hold.touch()
    first = submit(work, "--time=2", "--signal=B:TERM@80")  # SLURM sends it up to a minute earlier than asked
    log = work.root / f"allround-pilot-{first}.log"
    wait_for(lambda: log.exists() and "the time is nearly over" in log.read_text())
    running = len(starts(work))
    hold.unlink()
    wait_for(lambda: (job := ended(cluster, work, first)) and job.state != "PENDING")
    assert "the same sbatch command goes on" in log.read_text(), log.read_text()
    assert ended(cluster, work, first).state == "FAILED"  # the study is not finished; TIMEOUT would be a kill
    assert len(starts(work)) == running  # what ran was let finish, nothing more was started
    assert len(trained(work)) >= 1
    assert not list((work.root / "results").rglob("*.tmp"))

    second = submit(work)
    state = wait_for(lambda: (job := ended(cluster, work, second)) and job.state != "PENDING" and job.state)
    assert state == "COMPLETED", (work.root / f"allround-pilot-{second}.log").read_text()
    assert work.files() == reference.files()
    assert len(starts(work)) == 5  # every training once


def test_a_pilot_out_of_grace_stops_its_trainings_and_the_next_one_goes_on(cluster, fresh):
    work = fresh("grace")
    hold = work.root / "faults/seed0-round0.hold"
    hold.touch()
    job = submit(work, "--export=ALL,GRACE=2")
    wait_for(lambda: starts(work))
    subprocess.run(["scancel", "--batch", "--signal=TERM", job], check=True)
    wait_for(lambda: (found := ended(cluster, work, job)) and found.state == "FAILED")
    assert not hold_is_waited_for(work)
    hold.unlink()
    assert work.snakemake("results/digits/tiny/random20/start/seed0/round000/metrics.json")
    assert trained(work) == {"seed0/round000"}


def hold_is_waited_for(work):
    """Whether a training of this workspace still runs."""
    time.sleep(1)
    found = subprocess.run(["pgrep", "-f", f"{work.root}.*allround.stages.train"], capture_output=True)
    return found.returncode == 0
