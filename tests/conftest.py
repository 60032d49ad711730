"""A whole copy of the workflow in a temporary folder, run with the real snakemake."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

TINY = """
datasets: [digits]
learners: [tiny]
strategies: [random, margin, glister]
start: {size: 20, by: random}
budget: 5
rounds: 3
seeds: 1
"""
TINY_LEARNER = """
tiny: {architecture: mlp, arguments: {width: 16}, optimiser: {name: sgd, lr: 0.05}, epochs: 2, batch_size: 10}
tiny_too: {architecture: mlp, arguments: {width: 8}, optimiser: {name: sgd, lr: 0.05}, epochs: 2, batch_size: 10}
"""


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")


@dataclass
class Workspace:
    """A copy of the repository with its own results/."""

    root: Path

    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PYTHONPATH": str(self.root / "src"), "PATH": path, "OMP_NUM_THREADS": "1"}

    def start(self, *arguments: str, study: str = "tiny", **options: object) -> subprocess.Popen:
        """Start snakemake in a process group of its own."""
        command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments, "--config", f"study={study}"]
        return subprocess.Popen(
            command, cwd=self.root, env=self.environment(), text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True, **options,
        )  # fmt: skip

    def snakemake(self, *arguments: str, study: str = "tiny", ok: bool = True) -> str:
        """Run snakemake to its end; return what it printed."""
        process = self.start(*arguments, study=study)
        output, _ = process.communicate()
        if ok:
            assert process.returncode == 0, output
        else:
            assert process.returncode != 0, output
        return output

    def planned(self, *arguments: str, study: str = "tiny") -> dict[str, int]:
        """Rule -> number of jobs that snakemake -n plans."""
        output = self.snakemake("-n", "--quiet", "rules", *arguments, study=study)
        table = re.search(r"^job +count\n-+ +-+\n(.*?)^total", output, re.M | re.S)
        if not table:
            assert "Nothing to be done" in output, output
            return {}
        return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table[1], re.M) if rule != "all"}

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace one piece of text in a file of the copy."""
        path = self.root / file
        text = path.read_text()
        assert old in text, f"{old!r} is not in {file}"
        path.write_text(text.replace(old, new, 1))

    def keep(self, kinds: str) -> None:
        """Which large files outlive their use: "[]", "[checkpoints]", "[checkpoints, embeddings]"."""
        path = self.root / "config/config.yaml"
        path.write_text(re.sub(r"^keep: .*$", f"keep: {kinds}", path.read_text(), flags=re.M))

    def study(self, name: str, text: str) -> None:
        (self.root / f"config/studies/{name}.yaml").write_text(text)

    def files(self) -> dict[str, bytes]:
        """Every artifact that must be equal between two runs: all but costs, logs and what names hosts."""
        found = {}
        for path in sorted((self.root / "results").rglob("*")):
            relative = path.relative_to(self.root / "results")
            if path.is_file() and not {"cost", "log", "studies"} & set(relative.parts) and path.suffix != ".gitkeep":
                found[str(relative)] = path.read_bytes()
        return found


def copy_workspace(source: Path, target: Path) -> Workspace:
    """Copy what a run needs: code, rules, configuration, and results with Snakemake's records where there are some."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("src", "workflow", "config", "profiles", "results", ".snakemake"):
        if (source / name).exists() and not (name in ("results", ".snakemake") and source == REPOSITORY):
            ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source / name, target / name, ignore=ignore, dirs_exist_ok=True)
    shutil.copy(source / "Snakefile", target)
    return Workspace(target)


def new_workspace(target: Path, keep: str = "[]") -> Workspace:
    """A workspace with the tiny study and nothing done yet; what it keeps is as in config/config.yaml."""
    work = copy_workspace(REPOSITORY, target)
    work.keep(keep)
    learners = work.root / "config/catalogue/learners.yaml"
    learners.write_text(learners.read_text() + TINY_LEARNER)
    work.study("tiny", TINY)
    return work


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """The tiny study, nothing done yet."""
    return new_workspace(tmp_path / "work")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The tiny study with its checkpoints, run once a session. Read only: copy it before a change (see `copy`)."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # one run for all workers
    root, done = shared / "finished", shared / "finished.done"
    with (shared / "finished.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            new_workspace(root, keep="[checkpoints]").snakemake()
            done.touch()
    return Workspace(root)


@pytest.fixture
def copy(finished: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the finished tiny study, checkpoints kept, to be changed."""
    return copy_workspace(finished.root, tmp_path / "work")


@pytest.fixture
def bare(copy: Workspace) -> Workspace:
    """The same as it is by default: no checkpoint is kept."""
    copy.keep("[]")
    for path in (copy.root / "results").rglob("checkpoint.pt"):
        path.unlink()
    return copy
