"""A small study with every stage in it, what one job of each stage writes, and how to kill it where."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from conftest import Workspace, copy_workspace

HOOK = Path(__file__).parent / "hook"
STRUCK = " -> killed"  # the hook's last word in the file `fired`
STUDY = """
datasets: [digits]
learners: [tiny]
strategies: [random, entropy_ensemble]
start: {size: 20, by: random}
budget: 5
rounds: 2
seeds: 1
"""
ARM = "results/digits/tiny/random20"
START = f"{ARM}/start/seed0/round000"
NEXT = f"{ARM}/entropy_ensemble@5/seed0/round001"
REPORT = "results/studies/faults"
OUTPUTS = {  # stage -> what one of its jobs writes, the file that is asked for first
    "dataset": ["results/datasets/digits.h5"],
    "seed_set": [f"{START}/labels.csv", f"{START}/cost/seed_set.json"],
    "train": [f"{NEXT}/metrics.json", f"{NEXT}/checkpoint.pt", f"{NEXT}/cost/train.json"],
    "train_again": [f"{NEXT}/checkpoint.pt"],
    "train_member": [
        f"{START}/members/1/metrics.json",
        f"{START}/members/1/checkpoint.pt",
        f"{START}/cost/train_member1.json",
    ],
    "embed": [f"{START}/pool/ensemble2.h5", f"{START}/cost/embed_ensemble2.json"],
    "query": [
        f"{ARM}/entropy_ensemble@5/seed0/round000/query.csv",
        f"{ARM}/entropy_ensemble@5/seed0/round000/cost/query.json",
    ],
    "label": [f"{NEXT}/labels.csv", f"{NEXT}/cost/label.json"],
    "collect": [f"{REPORT}/rounds.csv", f"{REPORT}/provenance.json"],
    "report": [
        f"{REPORT}/report.html",
        f"{REPORT}/summary.csv",
        f"{REPORT}/pairwise.csv",
        f"{REPORT}/efficiency.csv",
        f"{REPORT}/figures",
    ],
}
UNTOUCHED = {"train_again": f"{NEXT}/metrics.json"}  # what tells a stage's job from one that writes its files and more


def faults_study(work: Workspace) -> Workspace:
    """The study of this suite: every stage, embeddings kept, a training that saves its state after each epoch."""
    work.study("faults", STUDY)
    strategies = work.root / "config/catalogue/strategies.yaml"
    entry = "entropy_ensemble: {strategy: entropy, posterior: ensemble, samples: 2}"
    strategies.write_text(f"{strategies.read_text()}\n{entry}\n")
    work.edit("config/config.yaml", "keep: []", "keep: [checkpoints, embeddings]")
    work.edit("config/config.yaml", "study: quickstart", "study: faults")
    work.edit("config/config.yaml", "device: auto", "device: cpu")
    work.edit("config/catalogue/learners.yaml", "lr: 0.05}, epochs: 2", "lr: 0.05}, epochs: 6")
    work.edit("src/allround/learners/resume.py", "SECONDS = 10.0", "SECONDS = 0.0")
    work.edit("src/allround/learners/resume.py", "SHARE = 0.05", "SHARE = 1e9")
    return work


def contents(root: Path) -> dict[str, bytes]:
    """Every file below results/ that two runs must have in common, byte for byte: all but costs and logs."""
    found = {}
    for path in sorted((root / "results").rglob("*")):
        relative = path.relative_to(root)
        if path.is_file() and not {"cost", "log"} & set(relative.parts) and not path.name.startswith("."):
            found[str(relative)] = path.read_bytes()
    return found


def differences(found: dict[str, bytes], wanted: dict[str, bytes]) -> list[str]:
    """Names of files that are missing, left over or other than they should be."""
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


def remove(root: Path, stage: str) -> None:
    """Undo one job of a stage."""
    for name in OUTPUTS[stage]:
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def module(stage: str) -> str:
    """The stage's module: members of an ensemble are trained by `train`, as is a checkpoint that is made again."""
    return "train" if stage in ("train_member", "train_again") else stage


@dataclass
class Reference:
    """The finished study: its files, each stage's shell command, and the events of a process of each stage."""

    work: Workspace
    files: dict[str, bytes]
    commands: dict[str, str]
    events: dict[str, Events]  # of forked stages, and of a snakemake that runs one job


@dataclass
class Events:
    """How many audit events a process had, and which of them (from 1) touched a file of the workspace."""

    count: int
    near: list[int]


def read_events(path: Path) -> Events:
    lines = path.read_text(errors="replace").splitlines()
    return Events(len(lines), [n for n, line in enumerate(lines, 1) if "results/" in line or ".snakemake/" in line])


def draw(events: Events, rng: random.Random) -> int:
    """A point to die at: half of them anywhere (imports most of all), half where files of the workspace are touched."""
    return rng.choice(events.near) if events.near and rng.random() < 0.5 else rng.randint(1, events.count)


def commands(printed: str) -> dict[str, str]:
    """Stage -> the shell command of the job in OUTPUTS, from what `snakemake --printshellcmds` printed."""
    shell = re.findall(r"^Shell command: (.*)$", printed, re.M)
    return {
        stage: next(
            line
            for line in shell
            if f'"stage":"{module(stage)}"' in line
            and all(f" {name} " in line for name in outputs)
            and UNTOUCHED.get(stage, "none") not in line
        )
        for stage, outputs in OUTPUTS.items()
    }


def environment(work: Workspace, fault: dict | None) -> dict[str, str]:
    variables = work.environment()
    if fault:
        variables["ALLROUND_FAULT"] = json.dumps(fault)
        variables["PYTHONPATH"] = f"{HOOK}{os.pathsep}{variables['PYTHONPATH']}"
    return variables


def snakemake(work: Workspace, *arguments: str, fault: dict | None = None) -> subprocess.CompletedProcess:
    """Run snakemake to its end, or to the one that the fault makes."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            command, cwd=work.root, env=environment(work, fault), stdout=out, stderr=out, start_new_session=True
        )
        process.wait()
        out.seek(0)
        return subprocess.CompletedProcess(command, process.returncode, out.read())


def stage(work: Workspace, command: str, fault: dict | None = None, run: str = "") -> subprocess.CompletedProcess:
    """Run one stage's shell command, as Snakemake would. run: the run whose fork server is asked, as in ALLROUND_RUN"""
    return subprocess.run(
        ["bash", "-c", command],
        cwd=work.root,
        env={**environment(work, fault), **({"ALLROUND_RUN": run} if run else {})},
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )


@contextmanager
def idle_run() -> Iterator[str]:
    """The name of a run whose snakemake is a process that sleeps: it has a fork server."""
    sleeper = subprocess.Popen(["sleep", "10000"])
    try:
        yield f"{sleeper.pid}-{os.urandom(4).hex()}"
    finally:
        sleeper.kill()
        sleeper.wait()


def wait_until_quiet(root: Path, seconds: float = 600) -> None:
    """Until no process works in the workspace: what a test leaves behind would disturb the next one."""
    limit = time.monotonic() + seconds
    while living(root):
        assert time.monotonic() < limit, f"still alive: {living(root)}"
        time.sleep(0.02)


def living(root: Path) -> list[int]:
    """Processes that work in a workspace."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == root and "State:\tZ" not in (process / "status").read_text():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def kill_all(root: Path) -> None:
    """End what a failed test left running in its workspace."""
    for pid in living(root):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def fresh(reference: Reference, folder: Path) -> Workspace:
    """A copy of the finished study, to be broken."""
    return copy_workspace(reference.work.root, folder)
