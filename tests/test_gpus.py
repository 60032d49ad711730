"""What a user would lose: a training to a GPU that is full, or the use of one that is empty."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from allround import gpus
from allround.device import choose
from allround.errors import AllroundError

TAKE = """
import sys, time
from pathlib import Path
from allround import gpus
print(gpus.take(sys.argv[2].split(","), int(sys.argv[3]), Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def take(tmp_path):
    """Start a job that takes a place and keeps it until its standard input is closed."""
    jobs = []

    def start(names="0,1", places=2):
        command = [sys.executable, "-c", TAKE, str(tmp_path / "locks"), names, str(places)]
        jobs.append(subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return jobs[-1]

    yield start
    for job in jobs:
        job.kill()
        job.wait()


def test_jobs_are_spread_over_the_gpus_and_no_gpu_gets_more_than_its_places(take):
    assert [take().stdout.readline().strip() for _ in range(4)] == ["0", "1", "0", "1"]
    fifth = take()
    assert "waiting for a GPU: 2 jobs run on each of 0, 1" in fifth.stdout.readline()
    assert fifth.poll() is None


@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_a_place_is_free_again_when_its_job(take, how):
    jobs = [take(places=1) for _ in range(2)]
    taken = [job.stdout.readline().strip() for job in jobs]
    third = take(places=1)
    assert "waiting" in third.stdout.readline()
    if how == "ends":
        jobs[1].stdin.close()
    else:
        os.kill(jobs[1].pid, signal.SIGKILL)
    assert third.stdout.readline().strip() == taken[1]


def test_of_many_jobs_at_once_each_place_goes_to_one(take):
    jobs = [take("a,b,c", 2) for _ in range(9)]
    first = Counter(job.stdout.readline().split()[0] for job in jobs)
    assert first == {"0": 2, "1": 2, "2": 2, "waiting": 3}


def test_the_planner_counts_places_on_the_gpus_that_are_visible(monkeypatch):
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [self / f"nvidia{number}" for number in range(4)])
    for visible, count in ((None, 4), ("2,3", 2), ("0", 1), ("", 0), ("-1", 0), ("GPU-5ab, GPU-7cd", 2)):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert gpus.expected() == count
        monkeypatch.setenv(gpus.JOBS, "1")
        assert gpus.share(3, "auto") == 3 * max(count, 1)
        assert gpus.share(3, "cuda:1") == 3
        assert gpus.jobs_per_gpu() == 3


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with three GPUs, as far as PyTorch says."""

    def count():
        return len(gpus.names(3))

    monkeypatch.setattr(gpus, "places", lambda: tmp_path / "locks")
    monkeypatch.setattr(gpus, "_held", [])
    monkeypatch.setenv(gpus.JOBS, "1")
    for name in ("enable_flash_sdp", "enable_mem_efficient_sdp", "enable_cudnn_sdp"):
        monkeypatch.setattr(torch.backends.cuda, name, lambda _: None)
    for name, answer in (("is_available", True), ("is_initialized", False), ("set_device", None)):
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "device_count", count)
    return monkeypatch


@pytest.mark.parametrize(
    ("visible", "device", "then"),
    [
        (None, "auto", ["0", "1", "2"]),
        ("4,7", "cuda", ["4", "7"]),
        ("GPU-5ab,GPU-7cd", "cuda:1", ["GPU-7cd"]),
        (None, "cuda:2", ["2"]),
    ],
)
def test_a_job_sees_the_gpu_that_it_has_a_place_on_and_no_other(machine, visible, device, then):
    for expected in then:
        machine.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible:
            machine.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert choose(device) == torch.device("cuda:0")
        assert os.environ["CUDA_VISIBLE_DEVICES"] == expected


def test_a_gpu_that_is_not_there_is_one_clear_line(machine):
    machine.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(AllroundError, match="device 'cuda:3': this machine shows 3 GPUs, numbered from 0"):
        choose("cuda:3")


def test_a_stage_that_computes_on_the_cpu_takes_no_place(machine, tmp_path):
    assert choose("cpu") == torch.device("cpu")
    assert not (tmp_path / "locks").exists()
