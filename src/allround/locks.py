"""After a kill: locks that nobody holds any more, and jobs that go on without their Snakemake.

Both use flock(2), which the kernel releases when a process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

_alive: list[TextIO] = []  # open for as long as this process lives


def clear_stale_locks(folder: Path = Path(".snakemake")) -> None:
    """Remove Snakemake's locks where no Snakemake is alive in this folder: after a kill the same command goes on.

    Every run holds `folder/alive` shared while it lives; who gets it exclusively is alone, and any lock is stale.
    Where the file system has no flock, nothing is removed and `snakemake --unlock` remains.
    """
    with suppress(OSError):
        folder.mkdir(exist_ok=True)
        file = (folder / "alive").open("a")
        _alive.append(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            for lock in folder.joinpath("locks").glob("*"):
                lock.unlink(missing_ok=True)
        fcntl.flock(file, fcntl.LOCK_SH)


def wait_for_orphan() -> bool:
    """Wait while a job of a killed run still writes to this job's log; whether there was one.

    Rules send a stage's output to the job's log, so the log tells one job from another. Its writer holds a lock on it.
    """
    with suppress(OSError, ValueError):
        out = sys.stdout.fileno()
        if not stat.S_ISREG(os.fstat(out).st_mode):
            return False
        try:
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for this job's process of an earlier, killed run to end", flush=True)
            fcntl.flock(out, fcntl.LOCK_EX)
            return True
    return False
