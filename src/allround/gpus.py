"""Places on GPUs: several small jobs share one, but never more than the site allows, whoever started them.

A place is a file under a lock of the kernel's (flock), held for as long as the job's process lives, however it ends.
All runs of a user on a machine share the places, if they name the GPUs alike (by number or by UUID); inside a SLURM
allocation they belong to the allocation, whose GPUs may be numbered anew.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from allround.errors import AllroundError

JOBS = "ALLROUND_JOBS_PER_GPU"
DEFAULT_JOBS = 4
PAUSE = 0.2  # seconds between two looks for a free place

_held: list[TextIO] = []  # open for as long as this process lives
_waits: list[float] = []


def share(jobs: int, device: str) -> int:
    """Let `jobs` jobs share each GPU in the stages that this process starts; how many places that makes, at least 1."""
    os.environ[JOBS] = str(jobs)
    return jobs if ":" in device else max(expected(), 1) * jobs


def jobs_per_gpu() -> int:
    """How many jobs may share a GPU, as `share` has said."""
    return int(os.environ.get(JOBS, DEFAULT_JOBS))


def expected() -> int:
    """How many GPUs this process may use, as far as their device files tell; asking CUDA is slow."""
    return len(names(len(list(Path("/dev").glob("nvidia[0-9]*")))))


def names(count: int) -> list[str]:
    """How CUDA_VISIBLE_DEVICES calls the `count` GPUs that this process sees."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(number) for number in range(count)]
    return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")][:count]


def take(gpus: Sequence[str], jobs: int, folder: Path | None = None) -> int:
    """Wait for a place on one of `gpus`, the emptiest first, and keep it until this process ends; which one it is.

    gpus: names of GPUs, as of `names`; jobs: places on each; folder: where the locks lie
    """
    folder = folder or places()
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise AllroundError(f"{folder}: belongs to another user, but must hold your locks on GPUs; have it removed.")
    began, waiting = time.monotonic(), False
    while True:
        for place in range(jobs):
            for number, gpu in enumerate(gpus):
                file = (folder / f"{gpu.replace('/', '_')}.{place}").open("a")
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.close()
                else:
                    _held.append(file)
                    _waits.append(time.monotonic() - began)
                    return number
        if not waiting:
            print(f"waiting for a GPU: {jobs} jobs run on each of {', '.join(gpus)} (jobs_per_gpu)", flush=True)
            waiting = True
        time.sleep(PAUSE)


def waited() -> float:
    """Seconds that this process has waited for places."""
    return sum(_waits)


def places() -> Path:
    """The folder of this user's locks on this machine, or in this SLURM allocation."""
    allocation = os.environ.get("SLURM_JOB_ID")
    return Path(tempfile.gettempdir()) / f"allround-gpus-{os.getuid()}{f'-{allocation}' if allocation else ''}"
