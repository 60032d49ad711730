"""A round of active learning, stage by stage, as the workflow runs it: train -> embed -> query -> label.

    python benchmarks/round.py --data data                               # cifar10-fast at 1k, 7k, 13k and 25k labels
    python benchmarks/round.py --data data --labels 25000 --strategies badge --device cuda
    python benchmarks/round.py --data data --strategies --threads 2      # training alone: accuracy of random labels

A study whose seed set has that many random labels is planned in a temporary folder, and the commands of its round 0 run
one after the other, each forked from the run's server as in `snakemake --cores`. Seconds are those of the commands:
start, reading, computing and writing included; the server's start is not. Accuracy is that of the test set. The
strategies are those that need no view but `outputs`. What the stages print goes to --log.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from finished_study import copy_workspace, environment

from allround import plan
from allround.launch import offer
from allround.layout import START, Cell, arm, dataset_path, path
from allround.study import Study, load
from workflow import row, table

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
STRATEGIES = ("random", "entropy", "margin", "least_confidence", "badge", "coreset", "fass", "glister")


def main() -> None:
    options = arguments()
    print(f"`{' '.join(['python', *sys.argv])}`  ")
    print(f"{machine(options.device)}, threads: {options.threads}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        copy_workspace(root)
        name = add_learner(root, options)
        offer()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that the folder is removed
        table(["labels", "seed", "stage", "seconds", "round so far", "result"])
        for size in options.labels:
            study = planned(root, name, size, options)
            for seed in study.seeds:
                Round(root, study, seed, options).run()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder that holds the dataset's files")
    parser.add_argument("--dataset", default="cifar10", help="an entry of config/catalogue/datasets.yaml")
    parser.add_argument("--learner", default="fast", help="an entry of config/catalogue/learners.yaml")
    parser.add_argument("--precision", help="of the training: auto, float32 or bfloat16; default: the learner's own")
    parser.add_argument("--labels", type=int, nargs="+", default=[1000, 7000, 13_000, 25_000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--strategies", nargs="*", default=STRATEGIES, help="none: the training alone")
    parser.add_argument("--budget", type=int, default=3000)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=1, help="threads on the CPU")
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="file for what the stages print")
    return parser.parse_args()


def machine(device: str) -> str:
    """The hardware, asked for in a process of its own: a GPU must not be in use here."""
    code = f"from allround.device import choose; from training import hardware; print(hardware(choose('{device}', 1)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or sys.exit(done.stderr)


def add_learner(root: Path, options: argparse.Namespace) -> str:
    """Write the learner, with the precision asked for, to the copied catalogue; returns its name there."""
    catalogue = root / "config/catalogue/learners.yaml"
    text = catalogue.read_text(encoding="utf-8")
    learners = yaml.safe_load(text)
    if options.learner not in learners:
        sys.exit(f"--learner {options.learner}: allowed: {', '.join(learners)}")
    if options.precision is None:
        return options.learner
    entry = learners[options.learner] | {"precision": options.precision}
    name = f"{options.learner}-{options.precision}"
    catalogue.write_text(f"{text}\n{yaml.safe_dump({name: entry})}", encoding="utf-8")
    return name


def planned(root: Path, learner: str, size: int, options: argparse.Namespace) -> Study:
    """The study whose round 0 has `size` random labels."""
    study = {
        "datasets": [options.dataset],
        "learners": [learner],
        "strategies": list(options.strategies) or ["random"],
        "start": {"size": size, "by": "random"},
        "budget": options.budget,
        "rounds": 2,
        "seeds": options.seeds,
    }
    (root / "config/studies/round.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    config = yaml.safe_load((root / "config/config.yaml").read_text(encoding="utf-8"))
    loaded = load(config | {"study": "round", "data": str(options.data.resolve()), "device": options.device}, root)
    for name, entry in loaded.strategies.items():
        if set(plan.views_of(entry)) - {"outputs"}:
            sys.exit(f"--strategies {name}: needs {', '.join(plan.views_of(entry))}; allowed: those of outputs alone")
    return loaded


class Round:
    """Round 0 of one seed: trained and embedded once, then queried and labelled by every strategy."""

    def __init__(self, root: Path, study: Study, seed: int, options: argparse.Namespace):
        self.root, self.study, self.seed, self.options = root, study, seed, options
        self.data = dataset_path(root, options.dataset)
        self.labels, self.checkpoint = self.file(START, "labels.csv"), self.file(START, "checkpoint.pt")
        self.total = 0.0

    def cell(self, folder: str, number: int = 0) -> Cell:
        (learner,) = self.study.learners
        return Cell(self.options.dataset, learner, self.study.start["name"], folder, self.seed, number)

    def file(self, folder: str, name: str, number: int = 0) -> Path:
        return path(self.root, self.cell(folder, number), name)

    def run(self) -> None:
        """Run the stages and print their rows; dataset and seed set, which no round waits for, have none."""
        start = self.cell(START)
        if not self.data.exists():
            identity = plan.dataset(self.study, start.dataset)
            self.command("dataset", identity, data=self.options.data.resolve(), dataset=self.data)
            time.sleep(10)  # until the server, which this command started, listens
        self.command("seed_set", plan.labels(self.study, start), dataset=self.data, labels=self.labels)
        self.train(start)
        if not self.options.strategies:
            return
        view = self.file(START, "pool/outputs.h5")
        identity = plan.embed(self.study, start, "outputs")
        self.timed("embed", identity, dataset=self.data, checkpoint=self.checkpoint, view=view)
        before = self.total
        for name in self.study.strategies:
            self.total = before
            self.query(name, view)

    def train(self, start: Cell) -> None:
        metrics = self.file(START, "metrics.json")
        files = {"labels": self.labels, "checkpoint": self.checkpoint, "metrics": metrics}

        def result() -> str:
            got = json.loads(metrics.read_text(encoding="utf-8"))
            accuracy, train = 100 * got["accuracy"], 100 * got["train_accuracy"]
            return f"{accuracy:.2f} % (train {train:.2f} %), {got['steps']:,} steps, {got['precision']}"

        self.timed("train", plan.train(self.study, start), result, dataset=self.data, **files)

    def query(self, strategy: str, view: Path) -> None:
        """Query and label by one strategy."""
        entry, folder = self.study.strategies[strategy], arm(strategy, self.study.budget)
        picks = self.file(folder, "query.csv")
        files = {"labels": self.labels, "query": picks}
        files |= {"views": view} if plan.views_of(entry) else {}
        files |= {"checkpoint": self.checkpoint} if plan.sees_model(entry) else {}
        self.timed(f"query {strategy}", plan.query(self.study, self.cell(folder)), dataset=self.data, **files)
        files = {"previous": self.labels, "query": picks, "labels": self.file(folder, "labels.csv", 1)}
        self.timed(f"label {strategy}", plan.labels(self.study, self.cell(folder, 1)), dataset=self.data, **files)

    def timed(self, what: str, identity: str, result: Callable[[], str] = str, **files: Path) -> None:
        begin = time.perf_counter()
        self.command(what.split()[0], identity, **files)
        seconds = time.perf_counter() - begin
        self.total += seconds
        row(self.study.start["size"], self.seed, what, f"{seconds:.2f}", f"{self.total:.2f}", result())

    def command(self, stage: str, identity: str, **files: Path) -> None:
        """A stage as the workflow's rules run it, in the environment that Snakemake gives a job."""
        words = [sys.executable, "-m", "allround.launch", stage, "--identity", identity]
        words += ["--device", self.options.device, "--threads", self.options.threads]
        for name, file in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            words += [f"--{name}", file]
        threads = dict.fromkeys(THREADS, str(self.options.threads))
        with self.options.log.open("a") as log:
            done = subprocess.run(
                list(map(str, words)), cwd=self.root, env=environment(self.root) | threads, stdout=log, check=False
            )
        if done.returncode:
            sys.exit(f"{stage} ended with exit code {done.returncode}")


if __name__ == "__main__":
    main()
