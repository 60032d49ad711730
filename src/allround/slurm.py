"""What a run has to know of SLURM's queue before it submits to it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from allround.errors import AllroundError

RUN_NAME = re.compile(r"(.+_)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # the plugin names its jobs after their run


def refuse_orphans(folder: Path) -> None:
    """Raise AllroundError if jobs that an earlier snakemake submitted from `folder` are still queued or running.

    A killed snakemake leaves its jobs in SLURM's hands and the next one does not know them: it would run them twice.
    """
    if not (jobs := queued_jobs(folder)):
        return
    raise AllroundError(
        f"{len(jobs)} SLURM job{'s' * (len(jobs) > 1)} of an earlier, killed run in {folder} still queued or running, "
        "which this run would do a second time. Wait until they have ended (their results are kept), or stop them: "
        f"scancel {' '.join(jobs)}. Then run the same command again."
    )


def queued_jobs(folder: Path) -> list[str]:
    """Ids of the user's jobs in SLURM's queue that a snakemake submitted from `folder`."""
    command = ["squeue", "--me", "--noheader", "--format=%i|%j|%Z"]
    try:
        queue = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    except (OSError, subprocess.SubprocessError) as error:
        why = " ".join((getattr(error, "stderr", None) or str(error)).split())
        raise AllroundError(
            f"squeue does not answer ({why}), so jobs of an earlier run in {folder} may still be running; run the same "
            "command again once `squeue --me` works."
        ) from None
    jobs = [line.split("|", 2) for line in queue.splitlines() if line.count("|") >= 2]
    here = Path(folder).resolve()
    return [job for job, name, place in jobs if RUN_NAME.fullmatch(name) and Path(place).resolve() == here]
