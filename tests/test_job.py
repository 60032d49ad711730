"""What a user would lose: a cause that can be read, or random numbers that are what they claim to be."""

from __future__ import annotations

import errno
import json
import subprocess
import sys

import numpy as np
import pytest

from allround.errors import AllroundError
from allround.identity import canonical
from allround.job import explain, seed_sequence


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (AllroundError("a line"), "a line"),
        (OSError(errno.ENOSPC, "No space left on device", "x.h5"), "the disk is full while writing x.h5; free some"),
        (RuntimeError("Can't write (file write failed: errno = 28, ...)"), "the disk is full; free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "results"), "no permission to write or read results"),
        (OSError(errno.EROFS, "Read-only file system", "results"), "no permission to write or read results"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate"), "out of GPU memory; let fewer jobs share the GPU"),
        (RuntimeError("CUDA error: out of memory"), "jobs_per_gpu"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "out of GPU memory"),
        (MemoryError(), "out of memory"),
    ],
)
def test_what_a_person_can_mend_is_one_line(error, words):
    line = explain(error)
    assert words in line
    assert "\n" not in line


def test_only_a_training_is_told_to_shrink_its_batch():
    error = OutOfMemoryError("CUDA out of memory")
    assert "batch_size" in explain(error, "train")
    assert "batch_size" not in explain(error, "embed")


def test_a_bug_keeps_its_traceback():
    assert explain(RuntimeError("shape mismatch")) is None
    assert explain(KeyError("x")) is None


def draws(stage="train", seed=0, number=1, arm="margin@5"):
    cell = {"dataset": "d", "learner": "l", "start": "s", "arm": arm, "seed": seed, "round": number}
    identity = canonical({"stage": stage, "cell": cell, "settings": {}})
    return np.random.default_rng(seed_sequence(identity)).integers(2**60, size=4).tolist()


def test_stages_rounds_and_seeds_draw_independently_and_strategies_alike():
    base = draws()
    assert draws() == base
    assert draws(arm="badge@5") == base
    others = [draws(stage="query"), draws(seed=1), draws(number=2), draws(stage="seed_set")]
    assert all(other != base for other in others)
    assert len({tuple(other) for other in others}) == len(others)


def stage(name, *arguments, settings=None):
    identity = canonical({"stage": name, "cell": {"dataset": "none", "seed": 0}, "settings": settings or {}})
    command = [sys.executable, "-m", f"allround.stages.{name}", "--identity", identity, *arguments]
    return subprocess.run(command, text=True, capture_output=True, check=False)


def test_a_stage_says_what_is_wrong_in_one_line_and_exits_with_1(tmp_path):
    result = stage("seed_set", "--dataset", str(tmp_path / "no.h5"), "--labels", str(tmp_path / "labels.csv"))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"allround seed_set: {tmp_path}/no.h5: no such file")


def test_a_stage_refuses_the_identity_of_another(tmp_path):
    command = [sys.executable, "-m", "allround.stages.label", "--identity", json.dumps({"stage": "train"})]
    files = [f"--{name}={tmp_path}/x" for name in ("dataset", "previous", "query", "labels")]
    result = subprocess.run([*command, *files], text=True, capture_output=True, check=False)
    assert result.returncode == 1
    assert "--identity is not the JSON of a job" in result.stderr
