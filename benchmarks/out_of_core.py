"""Queries over a pool that is larger than the memory they may use: seconds, peak memory, passes over the file.

    python benchmarks/out_of_core.py                       # 12 GB of a pool's outputs, processes of 3 GB
    python benchmarks/out_of_core.py --rows 100000 --gigabytes 0.7 --budget 100

Writes a view of --rows x (--d float16 features + --classes float32 logits) into --folder, runs each strategy over it in
a process of its own, and deletes it. The limit is RLIMIT_DATA: the process's own private memory (heap, arrays and
mappings that it writes to), which the kernel refuses to exceed. Not RLIMIT_AS, the address space: under 3 GB of that,
importing PyTorch's CUDA build does not come to an end, for all the libraries that it maps and does not read. What such
limits do not count, the peak of resident memory (libraries included) does: it is in the table, and a peak above the
limit is an error. A pass is as many rows read as the file has; single rows that are looked up count in it. The system
may keep the file in its cache between passes, which belongs to no process; --cold drops it before each strategy (needs
root).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

STRATEGIES = ("margin", "entropy", "badge", "coreset")


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        start = time.perf_counter()
        view, labels = write(Path(folder), options)
        size = view.stat().st_size
        print(
            f"{options.rows:,} x ({options.d} float16 features + {options.classes} float32 logits), "
            f"{size / 1e9:.1f} GB, {options.labelled} labelled, {options.budget} picks, limit {options.gigabytes} GB, "
            f"{options.threads} threads of {os.cpu_count()}, {cpu()} (written in {time.perf_counter() - start:.0f} s)\n"
        )
        print("| strategy | seconds | peak memory, GB | passes over features | over logits | GB read |")
        print("|---|---|---|---|---|---|")
        failed = [name for name in options.strategies if not measure(name, view, labels, options)]
    sys.exit(f"above the limit or failed: {', '.join(failed)}" if failed else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_480_000)
    parser.add_argument("--d", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--labelled", type=int, default=1000)
    parser.add_argument("--budget", type=int, default=500)
    parser.add_argument("--gigabytes", type=float, default=3.0, help="limit of each process")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=None, help="where the file goes; default: the system's")
    parser.add_argument("--cold", action="store_true", help="empty the system's cache of files before each strategy")
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), metavar="NAME")
    return parser.parse_args()


def write(folder: Path, options: argparse.Namespace) -> tuple[Path, Path]:
    """A view of features that cluster by class, positive as after a ReLU, and logits; and a labels.csv."""
    import torch

    from allround.artifacts import Labels, create_view, write_labels
    from allround.identity import canonical

    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(options.classes, options.d, generator=generator)
    cell, path = {"dataset": "synthetic", "seed": 0, "round": 0}, folder / "outputs.h5"
    fields = {"features": (options.d,), "logits": (options.classes,)}
    identity = canonical({"stage": "embed", "cell": cell})
    with create_view(
        path, "outputs", rows=options.rows, fields=fields, dtypes={"features": "float16", "logits": "float32"},
        identity=identity, digest="synthetic",
    ) as out:  # fmt: skip
        for start in range(0, options.rows, 8192):
            b = min(8192, options.rows - start)
            truth = torch.randint(options.classes, (b,), generator=generator)
            features = (centres[truth] + torch.randn(b, options.d, generator=generator)).relu_()
            logits = torch.randn(b, options.classes, generator=generator)
            logits[torch.arange(b), truth] += 8 * torch.rand(b, generator=generator)
            out.write(start, features=features.half().numpy(), logits=logits.numpy())
    known = np.random.default_rng(0).choice(options.rows, options.labelled, replace=False)
    labels = Labels(known, np.zeros_like(known), np.zeros_like(known))
    write_labels(
        folder / "labels.csv", labels, identity=canonical({"stage": "label", "cell": cell}), digest="synthetic"
    )
    return path, folder / "labels.csv"


def measure(name: str, view: Path, labels: Path, options: argparse.Namespace) -> bool:
    """Run a strategy in a new process and print its line; False if it failed or rose above the limit."""
    if options.cold:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("1")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, name, view, labels, options))
    process.start()
    theirs.close()
    try:
        seconds, peak, read, size = ours.recv()
    except EOFError:
        print(f"| {name} | failed | | | | |", flush=True)
        return False
    process.join()
    passes = {field: f"{rows / options.rows:.2f}" for field, rows in read.items()}
    print(
        f"| {name} | {seconds:.1f} | {peak / 1e9:.2f} | {passes.get('features', 0)} | {passes.get('logits', 0)} "
        f"| {size / 1e9:.1f} |",
        flush=True,
    )
    return peak <= options.gigabytes * 1e9


def work(pipe, name: str, view: Path, labels: Path, options: argparse.Namespace) -> None:
    limit = int(options.gigabytes * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    import torch

    from allround.artifacts import View
    from allround.pool import Pool
    from allround.strategies import select

    torch.set_num_threads(options.threads)
    counts: dict[str, int] = {}
    read = View.read

    def counted(view, field, start=0, stop=None):
        block = read(view, field, start, stop)
        counts[field] = counts.get(field, 0) + len(block)
        return block

    View.read = counted
    before, start = bytes_read(), time.perf_counter()
    picks = select(name, Pool.open({"outputs": view}, labels), budget=options.budget)
    seconds, size = time.perf_counter() - start, bytes_read() - before
    assert len(set(picks.tolist())) == options.budget
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    pipe.send((seconds, peak, counts, size))


def bytes_read() -> int:
    """By this process's system calls, from files or their cache; 0 where the system does not tell."""
    counters = Path("/proc/self/io")
    return int(counters.read_text().split()[1]) if counters.exists() else 0


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
