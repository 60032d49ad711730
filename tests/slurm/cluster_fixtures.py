"""The cluster of a session, and workspaces to use it from."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest
from cluster import HERE, STARTED, STUDY, Cluster, new_study, obstacle
from conftest import Workspace


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    """Three nodes of 4 CPUs and 2 GPUs, accounting included."""
    if reason := obstacle():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([HERE / "up.sh", folder], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        if started.returncode:
            logs = "\n".join(line for log in folder.glob("log/*") for line in log.read_text().splitlines()[-3:])
            pytest.skip(f"no SLURM cluster starts here: {started.stdout}\n{logs}")
        yield Cluster(folder)
    finally:
        for process in STARTED:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        subprocess.run([HERE / "down.sh", folder], timeout=120)


@pytest.fixture(scope="session")
def reference(tmp_path_factory) -> Workspace:
    """The study, run on this machine without SLURM."""
    work = new_study(tmp_path_factory.mktemp("local") / "work")
    work.snakemake()
    return work


@pytest.fixture(scope="session")
def fresh(tmp_path_factory) -> Callable[..., Workspace]:
    """Makes workspaces, each with the study and nothing done."""
    return lambda name, text=STUDY: new_study(tmp_path_factory.mktemp(name) / "work", text)
