"""What a user would lose: hours computed twice, or new results to a job of yesterday's configuration."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from faults import kills

LR = "lr: 0.05}, epochs: 6"


def wait_for(condition, seconds=600):
    """Wait until condition() holds."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


def text_of(path: Path) -> str:
    """What a file says that others write, and may remove at any moment; none says nothing."""
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def start(work, *arguments: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    out = (work.root / f"{time.monotonic_ns()}.out").open("w+")
    process = subprocess.Popen(
        command,
        cwd=work.root,
        env={**work.environment(), **environment},
        stdout=out,
        stderr=out,
        start_new_session=True,
    )
    process.out = Path(out.name)
    return process


@pytest.fixture
def held(work):
    """Trainings that say when they have begun, and go on when they are told to, or when the test is over."""
    text = "    state = checkpoint.with_suffix"
    gate = f"    Path('begun').touch()\n    while not Path('go').exists(): __import__('time').sleep(0.05)\n{text}"
    work.edit("src/allround/stages/train.py", text, gate)
    assert kills.snakemake(work, "--touch", "--forceall").returncode == 0  # the edit changes no result: vouched for
    yield work
    (work.root / "go").touch()


def start_training(work, stage: str = "train") -> subprocess.Popen:
    """A snakemake that makes one training again, which has begun."""
    kills.remove(work.root, stage)
    process = start(work, kills.OUTPUTS[stage][0])
    wait_for(lambda: (work.root / "begun").exists())
    return process


def kill_snakemake_in_mid_training(work, stage: str = "train") -> None:
    first = start_training(work, stage)
    first.kill()
    first.wait()
    (work.root / "begun").unlink()


def left_by_orphan(work, stage: str = "train") -> list[Path]:
    """Let the training end, of which nobody is there to take note; the files that it made."""
    (work.root / "go").touch()
    kills.wait_until_quiet(work.root)
    made = [work.root / name for name in kills.OUTPUTS[stage]]
    assert all(path.exists() for path in made)
    return made


def test_a_job_that_outlived_its_snakemake_is_named_waited_for_and_not_run_twice(held, reference):
    kill_snakemake_in_mid_training(held)
    second = start(held, kills.OUTPUTS["train"][0])
    log = held.root / kills.NEXT / "log/train.log"  # snakemake removes it for a moment
    words = "waiting for this job's process of an earlier, killed run"
    wait_for(lambda: words in text_of(log))
    said = second.out.read_text()
    line = next(line for line in said.splitlines() if "still at work" in line)
    assert "train of digits/tiny/random20/entropy_ensemble@5/seed0/round001 (process " in line
    assert "does not run them twice" in line
    (held.root / "go").touch()
    assert second.wait() == 0, second.out.read_text()
    assert not (held.root / "begun").exists()  # the second process never came so far
    kills.wait_until_quiet(held.root)
    wrong = kills.differences(kills.contents(held.root), reference.files)
    assert wrong == [] or all("round001" in name for name in wrong)  # its code has another fingerprint


@pytest.mark.parametrize("stage", ["train", "train_again"])
def test_what_a_job_made_after_its_snakemake_was_killed_is_taken_and_not_made_again(held, stage):
    """Though the next snakemake had begun before, and deletes such files right before it comes to their job."""
    kill_snakemake_in_mid_training(held, stage)
    made = left_by_orphan(held, stage)
    number = made[0].stat().st_ino
    kills.remove(held.root, stage)
    second = start(held, kills.OUTPUTS[stage][0])
    assert second.wait() == 0, second.out.read_text()
    assert made[0].stat().st_ino == number
    assert not (held.root / "begun").exists()
    assert not list((held.root / "results").rglob("*.found"))
    assert held.planned(study="faults") == {}


def test_what_a_job_made_whose_end_snakemake_did_not_record_is_not_made_again(held):
    """A cluster's job does not know that its snakemake is gone: its files lie there, marked as incomplete."""
    kill_snakemake_in_mid_training(held)
    made = left_by_orphan(held)
    number = made[0].stat().st_ino
    for path in made:
        path.with_name(f"{path.name}.found").unlink()
    assert held.planned(study="faults")["train"] == 1  # snakemake knows no better, and deletes nothing in a dry run
    second = start(held)
    assert second.wait() == 0, second.out.read_text()
    assert made[0].stat().st_ino == number
    assert not (held.root / "begun").exists()
    assert not list((held.root / "results").rglob("*.found"))
    assert held.planned(study="faults") == {}


def test_touch_accepts_what_an_orphan_made_and_loses_none_of_it(held):
    kill_snakemake_in_mid_training(held)
    made = left_by_orphan(held)
    number = made[0].stat().st_ino
    assert kills.snakemake(held, "--touch", "--forceall").returncode == 0
    assert made[0].stat().st_ino == number
    assert held.planned(study="faults") == {}


@pytest.mark.parametrize("another", [False, True])
def test_a_run_that_is_no_longer_alone_when_it_begins_takes_no_file_of_the_other(work, another):
    """Both start at once, and the larger study plans for longer. What is being written is marked as incomplete too."""
    common = 'include: "workflow/rules/common.smk"  # the checked study, cells, what is finished\n'
    wait = "while not Path('go').exists():\n    __import__('time').sleep(0.05)\n"
    work.edit("Snakefile", common, f"{common}{wait}")
    kills.remove(work.root, "query")
    alive, lock, other = work.root / ".snakemake/alive", work.root / ".snakemake/locks/stale", "results/other.json"
    lock.parent.mkdir(exist_ok=True)
    lock.touch()
    slow = start(work, kills.OUTPUTS["query"][0])
    wait_for(lambda: not lock.exists())  # it has seen that it is alone
    with alive.open("a+") as file:
        if another:
            fcntl.flock(file, fcntl.LOCK_SH)
        (work.root / other).touch()
        mark = work.root / ".snakemake/incomplete" / base64.urlsafe_b64encode(other.encode()).decode()
        mark.parent.mkdir(exist_ok=True)
        mark.touch()
        (work.root / "go").touch()
        assert slow.wait() == 0, slow.out.read_text()
    assert (work.root / f"{other}.found").exists() != another


def test_what_an_orphan_of_another_configuration_left_is_not_taken(held):
    kill_snakemake_in_mid_training(held)
    old = left_by_orphan(held)[0].read_bytes()
    held.edit("config/catalogue/learners.yaml", LR, LR.replace("0.05", "0.06"))
    second = start(held)
    assert second.wait() == 0, second.out.read_text()
    assert (held.root / kills.OUTPUTS["train"][0]).read_bytes() != old
    assert not list((held.root / "results").rglob("*.found"))
    assert held.planned(study="faults") == {}


def test_an_orphan_of_another_configuration_never_has_the_last_word(held):
    kill_snakemake_in_mid_training(held)
    held.edit("config/catalogue/learners.yaml", LR, LR.replace("0.05", "0.01"))
    (held.root / "go").touch()
    target = kills.OUTPUTS["train"][0]
    result = kills.snakemake(held, target)
    assert result.returncode == 0, result.stdout
    kills.wait_until_quiet(held.root)
    made = json.loads((held.root / target).read_text())["identity"]["settings"]["optimiser"]["lr"]
    assert made == 0.01
    assert kills.snakemake(held, target).returncode == 0


def test_a_job_whose_snakemake_died_before_it_began_does_not_begin(work, reference):
    """It is stopped before it takes the lock of its log; meanwhile the next run does its work."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    for stage in kills.OUTPUTS:
        before = {path: path.stat().st_mtime_ns for path in (work.root / "results").rglob("*") if path.is_file()}
        command, log = reference.commands[stage].split(" > ")[0], work.root / "stage.log"
        with kills.idle_run() as run:  # its pid is alive for the server, and the stage's own run is not
            result = kills.stage(work, f"ALLROUND_RUN={gone.pid}-x {command} > {log} 2>&1", None, run)
        assert result.returncode == 1
        assert "its snakemake ended before this job began" in log.read_text()
        assert {path: path.stat().st_mtime_ns for path in before} == before


def test_two_snakemakes_at_once_on_one_study_the_second_is_refused_and_harms_nothing(held):
    first = start_training(held)
    second = kills.snakemake(held, kills.OUTPUTS["train"][0])
    assert second.returncode != 0
    assert "cannot be locked" in second.stdout and "Traceback" not in second.stdout
    assert "still at work" not in second.stdout  # a living run's jobs are no orphans
    (held.root / "go").touch()
    assert first.wait() == 0, first.out.read_text()


def test_two_studies_at_once_in_one_folder(held):
    text = kills.STUDY.replace("entropy_ensemble", "margin").replace("size: 20", "size: 30")
    held.study("other", text)
    first = start_training(held)
    second = start(held, "--config", "study=other")
    wait_for(lambda: (held.root / "results/digits/tiny/random30/start/seed0/round000/labels.csv").exists())
    (held.root / "go").touch()
    assert first.wait() == 0, first.out.read_text()
    assert second.wait() == 0, second.out.read_text()
    kills.wait_until_quiet(held.root)
    assert held.planned(study="other") == {}


@pytest.mark.parametrize("hours", [-30000, 30000])
def test_a_clock_that_is_set_changes_neither_plans_nor_results(hours, work, reference):
    """As a copy to another machine does, or a battery that is empty."""
    now = time.time()
    for n, path in enumerate(sorted((work.root / "results").rglob("*"))):
        os.utime(path, (now + hours * 3600 - n, now + hours * 3600 - n))
    assert work.planned(study="faults") == {}
    kills.remove(work.root, "train")
    assert work.planned(study="faults") == {"train": 1, "collect": 1, "report": 1}
    result = kills.snakemake(work)
    assert result.returncode == 0, result.stdout
    wrong = kills.differences(kills.contents(work.root), reference.files)
    assert all(name.startswith(kills.REPORT) for name in wrong)  # these hold what the training cost


def test_an_interrupted_conversion_starts_again(work, reference):
    for part in (0.1, 0.9):
        (work.root / "results/datasets/digits.h5").unlink()
        half = reference.files["results/datasets/digits.h5"]
        (work.root / "results/datasets/digits.h5.tmp").write_bytes(half[: int(part * len(half))])
        assert kills.snakemake(work, kills.OUTPUTS["dataset"][0]).returncode == 0
        assert kills.differences(kills.contents(work.root), reference.files) == []


def test_a_stopped_run_ends_its_jobs_and_goes_on(held):
    """Ctrl-C, as opposed to a kill: nothing is left at work."""
    first = start_training(held)
    os.killpg(first.pid, signal.SIGINT)
    first.wait()
    kills.wait_until_quiet(held.root)
    (held.root / "go").touch()
    again = kills.snakemake(held, kills.OUTPUTS["train"][0])
    assert again.returncode == 0, again.stdout
    assert "still at work" not in again.stdout
