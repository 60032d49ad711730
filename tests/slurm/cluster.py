"""A real SLURM cluster on this machine, and studies on it whose trainings fail on demand.

Every training of a workspace made here looks into faults/: `seed<k>-round<r>.hold` makes it wait while the file is
there, `.hang` (once) makes it hang, `.memory` makes it hold as many MB as the file says. It appends a line to
faults/starts when it starts, and one to faults/gpus: the GPUs that it may use.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from conftest import Workspace, new_workspace

HERE = Path(__file__).parent
PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "sacct", "munged", "mariadbd", "setpriv", "mknod")
POLL = ("--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "10")  # the profile's are for long jobs
STARTED: list[subprocess.Popen] = []
HOOK = """
    import os
    from time import sleep
    fault = Path("faults", f"seed{cell['seed']}-round{cell['round']}")
    for name, line in (("starts", fault.name), ("gpus", os.environ.get("CUDA_VISIBLE_DEVICES", "none"))):
        with Path("faults", name).open("a") as file:
            file.write(f"{line}\\n")
    while fault.with_suffix(".hold").exists():
        sleep(0.1)
    if fault.with_suffix(".hang").exists():
        fault.with_suffix(".hang").unlink()
        sleep(3600)
    if fault.with_suffix(".memory").exists():
        ballast = b"x" * (int(fault.with_suffix(".memory").read_text()) << 20)
        sleep(3)
"""
STUDY = """
datasets: [digits]
learners: [tiny]
strategies: [random, margin]
start: {size: 20, by: random}
budget: 5
rounds: 3
seeds: 1
"""


@dataclass(frozen=True)
class Job:
    """A job as sacct has it. work: the plugin's comment, which names rule or group and the cell."""

    id: str
    name: str
    work: str
    state: str
    requested: str
    minutes: int
    nodes: str


@dataclass(frozen=True)
class Cluster:
    """A running cluster; folder: its configuration, state and logs."""

    folder: Path

    def daemon(self, action: str, name: str) -> None:
        subprocess.run([HERE / "daemon.sh", self.folder, action, name], check=True, timeout=600)

    def jobs(self, folder: Path) -> list[Job]:
        """All jobs that were submitted from a folder, in order of submission."""
        fields = "jobid,jobname%200,comment%300,state%30,reqtres%200,timelimitraw,nodelist,workdir%500"
        rows = call("sacct", "--allusers", "--allocations", "--noheader", "--parsable2", f"--format={fields}")
        found = [line.split("|") for line in rows.splitlines()]
        return [Job(*row[:5], int(row[5]), row[6]) for row in found if Path(row[7]) == folder]

    def queued(self, folder: Path, state: str = "all") -> dict[str, str]:
        """Id -> comment of the jobs of a folder that are in the queue."""
        rows = call("squeue", "--noheader", f"--states={state}", "--format=%i|%k|%T|%Z").splitlines()
        found = [row.split("|") for row in rows]
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
        return {row[0]: row[1] for row in found if Path(row[3]) == folder and row[2] not in ended}


def call(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def wait_for(condition: Callable[[], object], process: subprocess.Popen | None = None, seconds: float = 1800):
    """Wait until condition() holds, while the process lives; return what it gave."""
    limit = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit, "waited in vain"
        assert process is None or process.poll() is None, "snakemake has ended"
        time.sleep(0.2)
    return found


def obstacle() -> str | None:
    """Why no cluster can be started here."""
    if os.geteuid() != 0:
        return "needs root: slurmctld, slurmd, munged and mariadbd are started by hand"
    if missing := [name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]:
        return f"not installed: {', '.join(missing)} (Debian: slurm-wlm munge slurmdbd mariadb-server)"
    if Path("/etc/slurm/slurm.conf").exists() or subprocess.run(["sinfo"], capture_output=True).returncode == 0:
        return "this machine belongs to a cluster already (/etc/slurm/slurm.conf, or sinfo answers)"
    found = subprocess.run([sys.executable, "-c", "import snakemake_executor_plugin_slurm"], capture_output=True)
    return "not installed: snakemake-executor-plugin-slurm (pip install -e '.[slurm]')" if found.returncode else None


def new_study(root: Path, text: str = STUDY) -> Workspace:
    """A workspace with a study 'tiny' whose trainings look into faults/."""
    work = new_workspace(root)
    work.study("tiny", text)
    work.keep("[checkpoints]")  # what a kill leaves of deleted ones is no difference in results
    anchor = '    cell, learner = job["cell"], job["settings"]\n'
    work.edit("src/allround/stages/train.py", anchor, anchor + HOOK)
    (root / "faults").mkdir()
    return work


def start(work: Workspace, *arguments: str, log: str = "run.log") -> subprocess.Popen:
    """Start the study through the profile, as a user does; what it prints goes to a file of the workspace."""
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", "slurm", *POLL, *arguments]
    with (work.root / log).open("w") as out:
        process = subprocess.Popen(
            [*command, "--config", "study=tiny"], cwd=work.root, env=environment(work),
            stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    STARTED.append(process)
    return process


def environment(work: Workspace) -> dict[str, str]:
    sbin = f"{work.environment()['PATH']}:/usr/sbin:/sbin"
    return {**work.environment(), "PATH": sbin, "XDG_CACHE_HOME": str(work.root / "cache")}


def printed(work: Workspace, log: str = "run.log") -> str:
    file = work.root / log
    return file.read_text() if file.exists() else ""


def starts(work: Workspace) -> list[str]:
    """The trainings that were started: 'seed0-round1', once for every start."""
    return lines(work, "starts")


def gpus(work: Workspace) -> list[str]:
    """What CUDA_VISIBLE_DEVICES was in each of these, or "none"."""
    return lines(work, "gpus")


def lines(work: Workspace, name: str) -> list[str]:
    file = work.root / "faults" / name
    return file.read_text().split() if file.exists() else []


def trained(work: Workspace) -> set[str]:
    """seed<k>/round<rrr> of finished trainings."""
    found = (folder for folder, _, files in os.walk(work.root / "results") if "metrics.json" in files)
    return {re.search(r"seed\d+/round\d+", folder)[0] for folder in found}
