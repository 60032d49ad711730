"""What a run has to know of SLURM: whose jobs are in the queue, and how a job really ended."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from allround.errors import AllroundError

RUN_NAME = re.compile(r"(.+_)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # the plugin names its jobs after their run


class SlurmIsSilent(AllroundError):
    """SLURM does not say what is in its queue."""


def refuse_orphans(folder: Path, patience: float = 120) -> None:
    """Raise AllroundError if jobs that an earlier snakemake submitted from `folder` are still queued or running.

    A killed snakemake leaves its jobs in SLURM's hands and the next one does not know them: it would run them twice.
    patience: seconds to wait for SLURM's answer; SlurmIsSilent if there is none
    """
    if not (jobs := queued_jobs(folder, patience)):
        return
    raise AllroundError(
        f"{len(jobs)} SLURM job{'s' * (len(jobs) > 1)} of an earlier, killed run in {folder} still queued or running, "
        "which this run would do a second time. Wait until they have ended (their results are kept), or stop them: "
        f"scancel {' '.join(jobs)}. Then run the same command again."
    )


def queued_jobs(folder: Path, patience: float = 120) -> list[str]:
    """Ids of the user's jobs in SLURM's queue that a snakemake submitted from `folder`."""
    command = ["squeue", "--me", "--noheader", "--format=%i|%j|%Z"]
    try:
        queue = subprocess.run(command, check=True, capture_output=True, text=True, timeout=patience).stdout
    except FileNotFoundError:
        raise SlurmIsSilent(
            f"squeue is not on this machine, so jobs that a run in {folder} left in SLURM's queue are not seen."
        ) from None
    except (OSError, subprocess.SubprocessError) as error:
        why = " ".join((getattr(error, "stderr", None) or str(error)).split())
        raise SlurmIsSilent(
            f"squeue does not answer ({why}), so jobs of an earlier run in {folder} may still be running."
        ) from None
    jobs = [line.split("|", 2) for line in queue.splitlines() if line.count("|") >= 2]
    here = Path(folder).resolve()
    return [job for job, name, place in jobs if RUN_NAME.fullmatch(name) and Path(place).resolve() == here]


def understand_states() -> None:
    """Let Snakemake's plugin understand how jobs ended.

    sacct says "CANCELLED by 1000", which the plugin (2.8.0) takes for a job that still runs, and waits for ever. And it
    calls a job FAILED whose step was killed for memory, because the snakemake around that step ends in an orderly way.
    """
    import snakemake_executor_plugin_slurm as plugin  # there only where SLURM is used

    query = plugin.query_job_status
    if query.__module__ == __name__:
        return

    async def query_job_status(command, logger):
        states, seconds = await query(command, logger)
        return (plain_states(states) if states else states), seconds

    plugin.query_job_status = query_job_status


def plain_states(states: dict[str, str]) -> dict[str, str]:
    """Job -> one of SLURM's states in a single word, OUT_OF_MEMORY where that is why it failed."""
    plain = {job: (state.split() or [""])[0] for job, state in states.items()}
    killed = _killed_for_memory([job for job, state in plain.items() if state == "FAILED"])
    return {job: "OUT_OF_MEMORY" if job in killed else state for job, state in plain.items()}


def _killed_for_memory(jobs: list[str]) -> set[str]:
    """Those of the jobs that have a step of state OUT_OF_MEMORY."""
    if not jobs:
        return set()
    command = ["sacct", "--noheader", "--parsable2", "--format=JobIDRaw,State", f"--jobs={','.join(jobs)}"]
    try:
        steps = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return set()  # FAILED is true as well
    rows = (line.split("|") for line in steps.splitlines())
    return {row[0].partition(".")[0] for row in rows if row[-1].startswith("OUT_OF_ME")}
