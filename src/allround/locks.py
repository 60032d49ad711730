"""After a kill: locks that nobody holds any more, and jobs that go on without their Snakemake.

All locks are the kernel's, which releases them when a process ends, however it ends. A job that is at work when its
Snakemake dies goes on; the next run says so, and waits for it instead of running it twice. What it makes gets a second
name, `<output>.found`: Snakemake deletes what it has no record of right before a job begins, and the job then takes it
back. A job that has not begun by then does not begin: it could only come in the way of a newer one.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import select
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from allround.errors import AllroundError
from allround.launch import RUN

LOOKS, PAUSE = 4, 0.05  # at a folder that seems to be in use, and seconds in between
_runs: list[TextIO] = []  # the lock of this run, one at most; like those of its jobs, open while this process lives
_jobs: list[TextIO] = []


def recover() -> bool:
    """What a Snakemake does first: after a kill the same command goes on. Returns whether it is alone here."""
    alone = clear_stale_locks()
    if alone:
        tell_of_orphans()
    tell_of_full_disk()
    return alone


def keep_what_is_incomplete(folder: Path = Path(".snakemake")) -> None:
    """Keep what jobs have made whose end Snakemake did not live to record: those on a cluster, for one.

    For a Snakemake that is alone here (`alone_for_now`), before its first job.
    """
    incomplete = folder / "incomplete"
    for mark in incomplete.rglob("*"):
        with suppress(OSError, ValueError):
            name = "".join(part.removeprefix("@") for part in mark.relative_to(incomplete).parts)
            path = Path(os.fsdecode(base64.urlsafe_b64decode(name)))
            if mark.is_file() and path.is_file():
                path.replace(_aside(path))


def keep_aside(outputs: Iterable[Path]) -> None:
    """Give files a second name, for the job that is to make them again: `take_back` there.

    The first stays: a newer snakemake that is planning has seen it. A file system without hard links keeps but that.
    """
    for path in outputs:
        spare = path.with_name(f"{path.name}.found.tmp")
        with suppress(OSError):
            spare.unlink(missing_ok=True)
            os.link(path, spare)
            spare.replace(_aside(path))  # at no moment is there no name: `keep_what_is_incomplete` may take the first
            spare.unlink(missing_ok=True)  # where both were names of one file, which leaves both


def take_back(outputs: list[Path]) -> list[Path]:
    """Give files that were set aside their names again, where nothing newer has them; which ones."""
    found = []
    for path in outputs:
        aside = _aside(path)
        if aside.is_file():
            if not path.exists():
                aside.replace(path)
                found.append(path)
            else:
                if path.samefile(aside):  # the killed run's job came to its end just now
                    found.append(path)
                aside.unlink()
    return found


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.found")


def clear_stale_locks(folder: Path = Path(".snakemake")) -> bool:
    """Remove Snakemake's locks where no Snakemake is alive in this folder: after a kill the same command goes on.

    Returns whether this Snakemake is alone.

    Every run holds `folder/alive` shared while it lives; who gets it exclusively is alone, and any lock is stale. The
    status command holds it for a moment when it asks, so one look is not enough.
    Where the file system has no flock, nothing is removed and `snakemake --unlock` remains.
    """
    with suppress(OSError):
        folder.mkdir(exist_ok=True)
        _runs.append((folder / "alive").open("a+"))  # NFS wants it readable for a shared lock
        for _ in range(LOOKS):
            with alone_for_now() as alone:
                if alone:
                    for lock in folder.joinpath("locks").glob("*"):
                        lock.unlink(missing_ok=True)
                    return True
            time.sleep(PAUSE)
    return False


@contextmanager
def alone_for_now() -> Iterator[bool]:
    """Whether no other Snakemake is alive in this run's folder; if so, none gets past its start meanwhile.

    For one that has called `clear_stale_locks`; another may have come since. A try that fails drops the shared lock for
    a moment, in which a third may find itself alone.
    """
    alone = False
    for file in _runs:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
    try:
        yield alone
    finally:
        for file in _runs:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_SH)


def tell_of_orphans(results: Path = Path("results")) -> None:
    """Say on standard error which jobs of a killed run are still at work; for a Snakemake that is alone here.

    A job writes to its log below `results`, so /proc tells them; without /proc, they say themselves who waits for whom.
    """
    jobs: dict[str, int] = {}
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        with suppress(OSError, ValueError):
            place = str((process / "fd/1").readlink()).removesuffix(" (deleted)")
            log = Path(place).relative_to(results.resolve())
            if log.suffix == ".log" and log.parent.name == "log":
                jobs[f"{log.stem} of {log.parent.parent}"] = int(process.name)
    if jobs:
        named = ", ".join(f"{job} (process {number})" for job, number in list(jobs.items())[:5])
        more = f" and {len(jobs) - 5} more" if len(jobs) > 5 else ""
        print(
            f"{len(jobs)} of an earlier, killed run's jobs still at work: {named}{more}. "
            "Where this run needs what they make, it waits for them and does not run them twice.",
            file=sys.stderr,
            flush=True,
        )


def tell_of_full_disk(results: Path = Path("results"), least: int = 1 << 20) -> None:
    """Say on standard error that the disk is full: at the start, and after a failure whose log had no room for it."""
    with suppress(OSError):
        disk = os.statvfs(results)
        free = disk.f_bavail * disk.f_frsize
        if free < least:
            print(
                f"the disk of {results}/ is full ({free} bytes free): free some space, and the same command goes on.",
                file=sys.stderr,
                flush=True,
            )


def refuse_to_begin_as_orphan() -> None:
    """AllroundError: the snakemake that started this job has ended, so that nobody would know of its results."""
    if is_orphan():
        raise AllroundError("its snakemake ended before this job began; run the same command again.")


def is_orphan() -> bool:
    """Whether the snakemake that started this job has ended; of a job started by hand or on a cluster: no."""
    snakemake = os.environ.get(RUN, "").partition("-")[0]
    return snakemake.isdecimal() and _has_ended(int(snakemake))


def _has_ended(process: int) -> bool:
    """Whether a process is gone, or a zombie that nobody has asked for yet."""
    try:
        file = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    except (AttributeError, OSError):  # no such call here
        return False
    ended, _, _ = select.select([file], [], [], 0)
    os.close(file)
    return bool(ended)


def wait_for_orphan(output: Path, folder: Path = Path(".snakemake")) -> bool:
    """Wait while a job of a killed run still works at this output; whether there was one.

    Whoever makes an output holds a lock on one byte of `folder/jobs`, at a place that follows from the output's path.
    The output and its log are no place for locks: Snakemake removes both before a job begins. Outside of a folder in
    which Snakemake runs, nothing is locked.
    """
    place = int.from_bytes(hashlib.sha256(os.fsencode(output.absolute())).digest()[:7], "big")
    with suppress(OSError):
        if not folder.is_dir():
            return False
        file = (folder / "jobs").open("a")
        _jobs.append(file)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except (BlockingIOError, PermissionError):
            print("waiting for this job's process of an earlier, killed run to end", flush=True)
            fcntl.lockf(file, fcntl.LOCK_EX, 1, place)
            return True
    return False
