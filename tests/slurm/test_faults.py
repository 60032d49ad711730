"""What a user would lose to a cluster: a study, to one job that was killed for memory, for time, or with its node.

Four seeds, each with a training of its own that fails in its own way once, in one run.
"""

from __future__ import annotations

import subprocess

import pytest
from cluster import STUDY, call, gpus, printed, start, starts, trained, wait_for

pytest_plugins = ("cluster_fixtures",)

MEMORY, TIME, CANCELLED, NODE = range(4)  # seeds
FOUR = STUDY.replace("seeds: 1", "seeds: 4").replace("rounds: 3", "rounds: 1")
# a minute is the least that SLURM has
MINUTES = f"train:runtime=(1 if attempt == 1 else 15) if wildcards.seed in '{TIME}' else 15"


@pytest.fixture(scope="module")
def run(cluster, fresh):
    """The study after all four faults."""
    work = fresh("faults", FOUR)
    work.edit("config/config.yaml", "device: auto ", "device: cpu ")
    (work.root / f"faults/seed{MEMORY}-round0.memory").write_text("2300")  # more than 2 GB, less than 4
    for seed in (TIME, CANCELLED, NODE):
        (work.root / f"faults/seed{seed}-round0.hang").touch()
    process = start(work, "--set-resources", MINUTES)
    try:
        wait_for(lambda: f"seed{CANCELLED}-round0" in starts(work), process)
        subprocess.run(["scancel", running(cluster, work, CANCELLED)], check=True)
        wait_for(lambda: "'TIMEOUT'" in printed(work), process)
        (work.root / f"faults/seed{TIME}-round0.hang").unlink(missing_ok=True)  # a slow one may not have come so far
        wait_for(lambda: f"seed{TIME}/round000" in trained(work), process)  # else its node may be the one
        wait_for(lambda: f"seed{NODE}-round0" in starts(work), process)
        node = call("squeue", "--noheader", "--format=%N", f"--jobs={running(cluster, work, NODE)}").strip()
        subprocess.run(["scontrol", "update", f"nodename={node}", "state=down", "reason=test"], check=True)
        process.wait(timeout=3600)
    finally:
        subprocess.run(["scontrol", "update", "nodename=ALL", "state=resume"], capture_output=True)
    return work, process


def training(seed):
    return f"rule_train_wildcards_digits_tiny_random20_start_{seed}_000"


def trainings(cluster, work, seed):
    """The jobs of one seed's training, in the order of its attempts."""
    return [job for job in cluster.jobs(work.root) if job.work == training(seed)]


def running(cluster, work, seed):
    """Id of the running job of one seed's training; sacct learns of a job's comment when it ends."""
    queued = cluster.queued(work.root, "RUNNING").items()
    return next(job for job, comment in queued if comment == training(seed))


def said_of(work, job):
    """What snakemake printed about a job's failure."""
    return next(line for line in printed(work).splitlines() if f"SLURM-job '{job.id}' failed" in line)


def test_all_four_faults_together_leave_a_finished_study(run):
    work, process = run
    assert process.returncode == 0, printed(work)
    assert trained(work) == {f"seed{seed}/round000" for seed in range(4)}


def test_a_job_killed_for_memory_says_so_and_comes_back_with_more(run, cluster):
    if "proctrack/cgroup" not in (cluster.folder / "etc/slurm.conf").read_text():
        pytest.skip("SLURM enforces no memory without a writable memory cgroup (v1)")
    work, _ = run
    first, *_, last = trainings(cluster, work, MEMORY)
    assert first.state in ("OUT_OF_MEMORY", "FAILED")  # of its step, or of the snakemake around that
    assert last.state == "COMPLETED"
    assert memory(last) >= 2 * memory(first)
    assert "'OUT_OF_MEMORY'" in said_of(work, first)


def test_a_job_over_its_time_says_so_and_comes_back_with_more(run, cluster):
    work, _ = run
    first, *_, last = trainings(cluster, work, TIME)
    assert (first.state, first.minutes) == ("TIMEOUT", 1)
    assert last.state == "COMPLETED"
    assert last.minutes >= 2
    assert "'TIMEOUT'" in said_of(work, first)


def test_a_job_that_somebody_cancelled_says_so_and_runs_again(run, cluster):
    work, _ = run
    first, *_, last = trainings(cluster, work, CANCELLED)
    assert first.state.startswith("CANCELLED")
    assert last.state == "COMPLETED"
    assert "'CANCELLED" in said_of(work, first)


def test_a_job_whose_node_is_lost_runs_again_on_another_node(run, cluster):
    work, _ = run
    first, *_, last = trainings(cluster, work, NODE)
    assert first.state == "NODE_FAIL"
    assert last.state == "COMPLETED"
    assert first.nodes != last.nodes
    assert "'NODE_FAIL'" in said_of(work, first)


def test_no_gpu_is_asked_for_with_device_cpu(run, cluster):
    work, _ = run
    assert not [job for job in cluster.jobs(work.root) if "gpu" in job.requested]
    assert set(gpus(work)) == {"none"}


def memory(job):
    """MB that a job asked for."""
    amount = next(item.removeprefix("mem=") for item in job.requested.split(",") if item.startswith("mem="))
    return float(amount[:-1]) * {"M": 1, "G": 1024}[amount[-1]]
