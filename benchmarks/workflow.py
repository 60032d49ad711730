"""What the workflow itself costs, beside the computing that it arranges.

    python benchmarks/workflow.py                   all of it, in temporary copies of the repository; prints tables
    python benchmarks/workflow.py stages seconds    some of: stages, quickstart, seconds, large

stages: a training forked from the run's server, against the same training as a process of its own, in turns.
quickstart: the shipped study from nothing, then again with nothing to do.
seconds: the quickstart with 6 seeds and a second of computing added to every stage, against what its stages computed.
large: 8,266 jobs: the plan from nothing, and a run with nothing to do once they are finished (finished_study.py).

Run it in the environment that `make install` made, on an idle machine. It needs no data.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from finished_study import copy_workspace, environment, finish

from allround.artifacts import identity_of
from allround.launch import RUN, offer

CORES = os.cpu_count()
LARGE = """
datasets: [digits]
learners: [mlp]
strategies: [random, entropy, margin, least_confidence, badge, coreset, fass, glister]
start: {size: 20, by: random}
budget: 10
rounds: 11
seeds: 27
"""
WORK = "facts = work(**arguments) or {}"
SECOND = f"""end = time.process_time() + 1
        while time.process_time() < end:
            pass
        {WORK}"""


def main(wanted: list[str]) -> None:
    """Print markdown tables."""
    print(f"{platform.processor() or platform.machine()}, {CORES} cores, Python {platform.python_version()}")
    for measure in (stages, quickstart, seconds, large):
        if not wanted or measure.__name__ in wanted:
            with tempfile.TemporaryDirectory() as folder:
                copy_workspace(Path(folder))
                print(f"\n{measure.__name__}, load {os.getloadavg()[0]:.1f}", flush=True)
                measure(Path(folder))


def quickstart(root: Path) -> None:
    """The shipped study, once and once more."""
    table(["work", "jobs", "seconds"])
    row("quickstart, from nothing", *snakemake(root))
    row("quickstart again (nothing to do)", *snakemake(root))


def seconds(root: Path) -> None:
    """How much longer a study takes than its stages compute."""
    job = root / "src/allround/job.py"
    text = job.read_text(encoding="utf-8")
    assert WORK in text
    job.write_text(text.replace(WORK, SECOND), encoding="utf-8")
    study = root / "config/studies/quickstart.yaml"
    study.write_text(study.read_text(encoding="utf-8").replace("seeds: 3", "seeds: 6"), encoding="utf-8")
    jobs, wall = snakemake(root)
    costs = [json.loads(path.read_text()) for path in root.glob("results/**/cost/*.json")]
    uncounted = 3  # dataset, collect and report write no cost; each of them takes its second all the same
    queries = sum(cost["stage"] == "query" for cost in costs)  # they count their selection alone
    computing = sum(cost["seconds"] for cost in costs) + queries + uncounted
    table(["work", "jobs", "seconds", "stages' own seconds", "wall x cores / own"])
    row("quickstart with 6 seeds, a second added to every stage", jobs, wall, computing, wall * CORES / computing)


def large(root: Path) -> None:
    """Planning, and finding nothing to do."""
    (root / "config/studies/large.yaml").write_text(LARGE, encoding="utf-8")
    table(["work", "jobs", "seconds, best of 3"])
    plans = [snakemake(root, "-n", "--quiet", "rules", "--config", "study=large") for _ in range(3)]
    row("plan it", plans[0][0], min(wall for _, wall in plans))
    finish(root, "large")
    runs = [snakemake(root, "--config", "study=large") for _ in range(3)]
    row("run it again, finished", runs[0][0], min(wall for _, wall in runs))


def stages(root: Path) -> None:
    """Start to end of the quickstart's first training and of its first seed set, each way."""
    snakemake(root)
    cell = next(root.glob("results/digits/*/*/start/seed0/round000"))
    out = root / "out"
    out.mkdir()
    train = ["--dataset", "results/datasets/digits.h5", "--labels", cell / "labels.csv", "--device", "cpu"]
    train += ["--checkpoint", out / "checkpoint.pt", "--metrics", out / "metrics.json", "--cost", out / "cost.json"]
    train += ["--identity", identity_of(cell / "metrics.json")]
    offer()
    forked = [sys.executable, "-m", "allround.launch", "train", *train]
    plain = [sys.executable, "-m", "allround.stages.train", *train]
    server = {RUN: os.environ[RUN], "OMP_NUM_THREADS": "1"}
    once(root, forked, server)  # starts the server
    time.sleep(10)
    overheads: dict[str, list[float]] = {"forked": [], "plain": []}
    walls: dict[str, list[float]] = {"forked": [], "plain": []}
    for _ in range(11):
        for name, command in (("forked", forked), ("plain", plain)):
            wall = once(root, command, server)
            walls[name].append(wall)
            overheads[name].append(wall - json.loads((out / "cost.json").read_text())["seconds"])
    table(["a training of the quickstart", "seconds, median", "without its own computing: median", "worst of 11"])
    for name, values in overheads.items():
        row(name, statistics.median(walls[name]), statistics.median(values), max(values))
    ratio = statistics.median(overheads["plain"]) / statistics.median(overheads["forked"])
    row("ratio", "", ratio, "")


def once(root: Path, command: list, extra: dict[str, str]) -> float:
    """Wall-clock seconds of a command in a workspace."""
    begin = time.perf_counter()
    subprocess.run(
        list(map(str, command)), cwd=root, env={**environment(root), **extra}, check=True, capture_output=True
    )
    return time.perf_counter() - begin


def snakemake(root: Path, *arguments: str) -> tuple[int, float]:
    """Run snakemake in a workspace; return the number of jobs and the wall-clock seconds."""
    command = [sys.executable, "-m", "snakemake", "--cores", str(CORES), *arguments]
    begin = time.perf_counter()
    done = subprocess.run(
        command, cwd=root, env=environment(root), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        check=False,
    )  # fmt: skip
    wall = time.perf_counter() - begin
    if done.returncode:
        sys.exit(done.stdout)
    jobs = re.search(r"^total +(\d+)|(\d+) jobs to run", done.stdout, re.M)
    return int(jobs[1] or jobs[2]) if jobs else 0, wall


def table(columns: list[str]) -> None:
    """Print the head of a markdown table."""
    print("\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns), flush=True)


def row(*values: object) -> None:
    """Print a row of it."""
    print("| " + " | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in values) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
