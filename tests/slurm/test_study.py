"""What a user would lose when a study moves to a cluster: equal results, GPU hours run twice, GPUs that nobody used."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from cluster import STUDY, gpus, printed, start, starts, trained, wait_for
from conftest import copy_workspace

pytest_plugins = ("cluster_fixtures",)

SEED = "digits_tiny_random20_{}_0_{:03d}"  # wildcards of a training
ROUND = "tiny_digits_tiny_random20_{}_seed0_round{:03d}_{}"  # a group's cell and rules
WORK = {
    "rule_dataset_wildcards_digits",
    f"rule_train_wildcards_{SEED.format('start', 0)}",
    *(f"rule_train_wildcards_{SEED.format(f'{arm}@5', number)}" for arm in ("random", "margin") for number in (1, 2)),
    f"rule_{ROUND.format('start', 0, 'embed')}",
    *(f"rule_{ROUND.format(f'{arm}@5', 0, 'label_query')}" for arm in ("random", "margin")),
    f"rule_{ROUND.format('random@5', 1, 'label_query')}",  # random looks at no embedding
    f"rule_{ROUND.format('margin@5', 1, 'embed_label_query')}",
    "rule_tiny_collect_report",
}


def submitting(folder: Path) -> bool:
    """Whether an sbatch that a snakemake in this folder started is at work: it outlives a kill of that."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"sbatch" in (process / "cmdline").read_bytes() and (process / "cwd").readlink() == folder:
                return True
    return False


@pytest.fixture(scope="module")
def runs(cluster, fresh):
    """Two runs of the study, side by side: in one the cluster's daemons go away, in the other snakemake is killed."""
    calm, killed = fresh("calm"), fresh("killed")
    (killed.root / "faults/seed0-round1.hold").touch()  # so that trainings run while snakemake is killed and started
    first, second = start(calm), start(killed)

    wait_for(lambda: "seed0-round1" in starts(killed), second)
    second.kill()
    second.wait()
    wait_for(lambda: not submitting(killed.root))
    orphans = cluster.queued(killed.root)
    refused = start(killed, log="refused.log").wait(timeout=1800)
    submitted_since = [job.id for job in cluster.jobs(killed.root) if int(job.id) > max(map(int, orphans))]
    (killed.root / "faults/seed0-round1.hold").unlink()

    wait_for(lambda: len(trained(calm)) >= 1, first)
    for daemon in ("slurmdbd", "slurmctld"):
        cluster.daemon("stop", daemon)
    wait_for(lambda: "Unable to contact slurm controller" in squeue_says())
    for daemon in ("slurmdbd", "slurmctld"):
        cluster.daemon("start", daemon)

    wait_for(lambda: not cluster.queued(killed.root))
    third = start(killed, log="resumed.log")
    codes = first.wait(timeout=3600), third.wait(timeout=3600)
    return {
        "calm": calm,
        "killed": killed,
        "orphans": orphans,
        "refused": refused,
        "submitted_since": submitted_since,
        "codes": codes,
    }


def squeue_says():
    found = subprocess.run(["squeue"], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "LANG": "C"})
    return found.stderr


def completed(cluster, work):
    return Counter(job.work for job in cluster.jobs(work.root) if job.state == "COMPLETED")


def test_a_study_on_slurm_gives_the_artifacts_of_a_local_run_byte_for_byte(runs, reference):
    assert runs["codes"][0] == 0, printed(runs["calm"])
    assert runs["calm"].files() == reference.files()
    assert (runs["calm"].root / "results/studies/tiny/report.html").exists()
    assert runs["calm"].planned() == {}


def test_slurmdbd_and_slurmctld_restarted_in_mid_study_cost_no_job(runs, cluster):
    jobs = cluster.jobs(runs["calm"].root)
    assert {job.state for job in jobs} == {"COMPLETED"}, printed(runs["calm"])
    assert Counter(job.work for job in jobs) == Counter(WORK)
    assert set(Counter(starts(runs["calm"])).values()) == {1, 2}  # round 0 once, later rounds once an arm
    assert len(starts(runs["calm"])) == 5


def test_trainings_and_embeddings_ask_for_a_gpu_and_nothing_else_does(runs, cluster):
    """The machine that plans has none: `device: auto` means a GPU of the cluster's."""
    asked = {job.work: "gres/gpu=1" in job.requested for job in cluster.jobs(runs["calm"].root)}
    expected = {work: "_train_" in work or "_embed" in work for work in WORK}
    assert asked == expected
    assert len(gpus(runs["calm"])) == 5
    assert set(gpus(runs["calm"])) <= {"0", "1"}  # one of its node's, and no more


def test_squeue_tells_study_arm_seed_and_round(runs, cluster):
    for job in cluster.jobs(runs["calm"].root):
        assert re.fullmatch(r"tiny_[0-9a-f-]{36}", job.name)
        assert job.work in WORK


def test_after_kill_9_jobs_still_in_the_queue_are_found_and_refused_not_run_twice(runs):
    said = printed(runs["killed"], "refused.log")
    assert runs["refused"] != 0
    assert runs["submitted_since"] == []
    line = next(line for line in said.splitlines() if "SLURM job" in line and "earlier, killed run" in line)
    named = set(re.search(r"scancel ([\d ]+)\.", line)[1].split())
    held = {job for job, work in runs["orphans"].items() if "_train_" in work}
    assert held <= named <= set(runs["orphans"])  # others may have ended before the restart looked
    assert held
    assert "Traceback" not in said


def test_after_kill_9_the_same_command_goes_on_and_every_job_runs_exactly_once(runs, cluster, reference):
    assert runs["codes"][1] == 0, printed(runs["killed"], "resumed.log")
    assert runs["killed"].files() == reference.files()
    jobs = cluster.jobs(runs["killed"].root)
    assert {job.state for job in jobs} == {"COMPLETED"}
    assert Counter(job.work for job in jobs) == Counter(WORK)
    assert len(starts(runs["killed"])) == 5


def test_a_study_extended_on_slurm_makes_deleted_checkpoints_again_and_no_finished_training(
    cluster, reference, tmp_path
):
    def extended(name):
        work = copy_workspace(reference.root, tmp_path / name)
        (work.root / "faults").mkdir()
        for checkpoint in (work.root / "results").rglob("checkpoint.pt"):
            checkpoint.unlink()
        work.keep("[]")
        work.study("tiny", STUDY.replace("rounds: 3", "rounds: 4"))
        return work

    here, there = extended("here"), extended("there")
    here.snakemake()
    assert start(there).wait(timeout=3600) == 0, printed(there)
    assert there.files() == here.files()
    assert there.files().items() >= {k: v for k, v in reference.files().items() if "checkpoint.pt" not in k}.items()
    ran = Counter(job.work.split("_wildcards_")[0] for job in cluster.jobs(there.root) if job.state == "COMPLETED")
    assert ran["rule_train_again"] == 1  # margin's last model, which its next query looks at; random looks at none
    assert ran["rule_train"] == 2
    assert there.planned() == {}
