"""Time and peak memory of every strategy, and of BADGE beside its dense form, on random inputs of a given size.

    python benchmarks/selection.py                                         # the CPU target below
    python benchmarks/selection.py --device cuda --n 43000 --classes 10 --d 512 --budget 3000 --half   # the GPU target

Targets for badge: on 2 CPU cores, 20,000 x (100 x 768), 10 picks: 0.2 s in all and 200 MB above the inputs; on an H100,
43,000 x (10 x 512), 3,000 picks: 0.5 s.

Each measurement runs in a process of its own, so that its peak memory is its own: after one small selection that sets
the libraries up, the first run gives the memory, and --repeats runs, from arrays to indices, the time. Their best is
what the machine can do; the median tells how busy it was with other work. (On a busy machine set
OMP_WAIT_POLICY=passive: threads that wait for each other by spinning take turns with everything else.)
The dense form, which builds every gradient (n x c d), runs on as many rows as fit --dense-gb, and ours on the same.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def main() -> None:
    options = arguments()
    print(
        f"{options.n:,} x ({options.classes} x {options.d}), {options.budget} picks, {options.labelled} labelled, ",
        end="",
    )
    print(f"{'float16' if options.half else 'float32'} features, {hardware(options)}\n")
    print("| strategy | rows | seconds, best | median | MB above the inputs |\n|---|---|---|---|---|")
    measured = {name: measure(name, options.n, options) for name in options.strategies}
    rows = min(options.n, int(options.dense_gb * 1e9 / 4 / options.classes / options.d))
    if "badge" in measured and rows > options.budget:
        dense, ours = measure("badge, dense", rows, options), measure("badge", rows, options)
        seconds, megabytes = (dense[key] / max(ours[key], 1e-9) for key in ("seconds", "megabytes"))
        print(f"\nOn {rows:,} rows the dense form takes {seconds:.0f} x the time and {megabytes:.0f} x the memory.")
    if "badge" in measured and (options.device, options.n, options.d) == ("cpu", 20_000, 768):
        met = measured["badge"]["seconds"] <= 0.2 and measured["badge"]["megabytes"] <= 200
        print(f"Target of 0.2 s and 200 MB {'met' if met else 'MISSED'}.")
    if options.json:
        options.json.write_text(json.dumps({"options": vars(options) | {"json": None}, "measured": measured}, indent=1))


def arguments() -> argparse.Namespace:
    from allround.strategies import names

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="threads on the CPU")
    parser.add_argument("--n", type=int, default=20_000, help="examples in the pool, labelled ones not counted")
    parser.add_argument("--d", type=int, default=768, help="features")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--budget", type=int, default=10)
    parser.add_argument("--labelled", type=int, default=0, help="labelled examples (glister: at least 100)")
    parser.add_argument("--half", action="store_true", help="features in float16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dense-gb", type=float, default=2.0, help="memory for the gradients of the dense form")
    parser.add_argument("--strategies", nargs="+", default=names(), choices=names(), metavar="NAME")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def hardware(options: argparse.Namespace) -> str:
    if options.device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(options.device)
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), cpu)
    return f"{options.threads} threads of {os.cpu_count()} on {cpu} (load {os.getloadavg()[0]:.1f} before)"


def measure(name: str, rows: int, options: argparse.Namespace) -> dict[str, float]:
    """Run one measurement in a new process and print its line."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, name, rows, options))
    process.start()
    theirs.close()
    try:
        result = ours.recv()
    except EOFError:
        sys.exit(f"{name} failed; see above")
    process.join()
    seconds, median, megabytes = result["seconds"], result["median"], result["megabytes"]
    print(f"| {name} | {rows:,} | {seconds:.4f} | {median:.4f} | {megabytes:.0f} |", flush=True)
    return result


def work(pipe, name: str, rows: int, options: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(options.threads)
    run = dense_badge if name == "badge, dense" else by_name(name)
    run(*inputs(1000, options), options)
    data = inputs(rows, options)
    before = peak(options.device, reset=True)
    run(*data, options)
    megabytes = (peak(options.device) - before) / 1e6
    times = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        run(*data, options)
        times.append(time.perf_counter() - start)
    pipe.send({"seconds": min(times), "median": statistics.median(times), "megabytes": megabytes})


def inputs(n: int, options: argparse.Namespace):
    """Features (N, d), positive as after a ReLU, and logits (N, c); the first rows are the labelled ones."""
    import torch

    n += max(options.labelled, 0)
    generator = torch.Generator(options.device).manual_seed(0)
    place = {"generator": generator, "device": options.device}
    features = torch.randn(n, options.d, dtype=torch.float16 if options.half else torch.float32, **place).relu_()
    return features, torch.randn(n, options.classes, **place).mul_(2)


def by_name(name: str) -> Callable:
    def run(features, logits, options) -> np.ndarray:
        from allround.pool import Pool
        from allround.strategies import select

        labelled = np.arange(max(options.labelled, 100 if name == "glister" else 0))
        pool = Pool.from_arrays(features, logits, labelled=labelled, labels=labelled % options.classes)
        return select(name, pool, budget=options.budget)

    return run


def dense_badge(features, logits, options) -> np.ndarray:
    """BADGE over whole gradients, in its fastest form: one matrix-vector product a pick."""
    import torch

    rng = np.random.default_rng(0)
    residual = logits.softmax(1)
    residual[torch.arange(len(logits)), logits.argmax(1)] -= 1
    gradients = (residual[:, :, None] * features[:, None, :].float()).view(len(logits), -1)  # (n, c d)
    norms = torch.stack([row @ row for row in gradients])  # (n,) without a second array of that size
    nearest, picks = torch.full_like(norms, torch.inf), [int(norms.argmax())]
    while len(picks) < options.budget:
        distance = norms + norms[picks[-1]] - 2 * (gradients @ gradients[picks[-1]])
        nearest = torch.minimum(nearest, distance.clamp_(min=0))
        nearest[picks] = 0
        upto = nearest.double().cumsum(0)
        picks.append(int(torch.searchsorted(upto, float(upto[-1]) * rng.random())))
    return np.array(picks)


def peak(device: str, reset: bool = False) -> float:
    """Peak memory in bytes: the device's, or the process's."""
    if device.startswith("cuda"):
        import torch

        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
