"""What the workflow itself costs: the quickstart from nothing, and the planning of a large study.

    python benchmarks/workflow.py            both, in a temporary copy of this repository; prints a table

Run it in the environment that `make install` made. It needs no data.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
LARGE = """
datasets: [digits]
learners: [mlp]
strategies: [random, entropy, margin, least_confidence, badge, coreset, fass, glister]
start: {size: 20, by: random}
budget: 10
rounds: 11
seeds: 27
"""


def main() -> None:
    """Print a markdown table of wall-clock seconds."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("src", "workflow", "config", "profiles"):
            shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(REPOSITORY / "Snakefile", root)
        (root / "config/studies/large.yaml").write_text(LARGE)
        rows = [
            timed(root, "quickstart, from nothing"),
            timed(root, "quickstart again (nothing to do)"),
            timed(root, "plan a large study", "-n", "--quiet", "rules", "--config", "study=large"),
        ]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| work | jobs | seconds |\n|---|---|---|")
    for row in rows:
        print("| {} | {} | {:.1f} |".format(*row))


def timed(root: Path, what: str, *arguments: str) -> tuple[str, str, float]:
    """Run snakemake; return (what, number of jobs, wall-clock seconds)."""
    command = [sys.executable, "-m", "snakemake", "--cores", str(os.cpu_count()), *arguments]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    begin = time.perf_counter()
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "PYTHONPATH": str(root / "src"), "PATH": path},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    if done.returncode:
        sys.exit(done.stdout)
    jobs = re.search(r"^total +(\d+)", done.stdout, re.M)
    return what, jobs[1] if jobs else "0", seconds


if __name__ == "__main__":
    main()
