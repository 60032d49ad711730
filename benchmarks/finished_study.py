"""A large finished study without its computing: to measure what Snakemake and the planner cost on it.

    python benchmarks/finished_study.py FOLDER      a workspace in FOLDER in which study `large` is finished

Snakemake itself runs all jobs, so its records are what they are after a real run; only what a job does is
replaced by creating its outputs, empty. Takes two minutes on 2 cores.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
EMPTY = """shell:
        "for file in {output:q}; do case $file in"
        " */figures) mkdir -p $file ;;"
        " *) : > $file ;;"
        " esac; done"
"""


def copy_workspace(root: Path) -> None:
    """Copy what a run needs, without results."""
    for name in ("src", "workflow", "config", "profiles"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(REPOSITORY / "Snakefile", root)


def finish(root: Path, study: str) -> None:
    """Finish `study` in a workspace with jobs that create their outputs and do nothing else."""
    rules = {path: path.read_text(encoding="utf-8") for path in (root / "workflow/rules").glob("*.smk")}
    for path, text in rules.items():
        path.write_text(re.sub(r"shell:\n(?: {8}.*\n)+", EMPTY, text), encoding="utf-8")
    try:
        subprocess.run(
            [sys.executable, "-m", "snakemake", "--cores", "all", "--quiet", "all", "--config", f"study={study}"],
            cwd=root, env=environment(root), check=True,
        )  # fmt: skip
    finally:
        for path, text in rules.items():
            path.write_text(text, encoding="utf-8")


def environment(root: Path) -> dict[str, str]:
    """The environment in which snakemake runs in a workspace."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": str(root / "src"), "PATH": path}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from workflow import LARGE

    target = Path(sys.argv[1])
    copy_workspace(target)
    (target / "config/studies/large.yaml").write_text(LARGE, encoding="utf-8")
    finish(target, "large")
