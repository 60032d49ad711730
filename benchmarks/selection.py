"""Time and peak memory of strategies, beside the packages that have them too, on the same random inputs.

    python benchmarks/selection.py --work cpu            # 50,000 x 128, 10 classes, 500 picks, with peers
    python benchmarks/selection.py --work gpu-50k        # a GPU: 50,000 x 512, 3,000 picks
    python benchmarks/selection.py --work gpu-1m         # 1,000,000 x 512, 10,000 picks
    python benchmarks/selection.py --work gpu-imagenet   # badge: 1,281,167 x (1,000 x 2,048) float16, 10,000 picks
    python benchmarks/selection.py --work out-of-core    # a pool larger than memory: benchmarks/out_of_core.py
    python benchmarks/selection.py --n 20000 --classes 100 --d 768 --budget 10      # any other size; no peers
    python benchmarks/selection.py --work cpu --strategies badge smi:gcmi --peers scikit-activeml

A strategy of several functions has a row for each (smi:gcmi). Each measurement runs in a process of its own, so that
its peak memory is its own, with a limit of --gigabytes on the process's private memory (RLIMIT_DATA; a GPU has its own)
and of --limit seconds: "out of memory" and "not finished" are results too. After one small selection that sets the
libraries up, the first run gives the memory above the inputs, and up to --repeats runs within 20 s, from arrays to
indices, the time: their best is what the machine can do, the median tells how busy it was with other work. (On a busy
machine set OMP_WAIT_POLICY=passive: threads that wait by spinning take turns with everything else.)
With badge at a free size, its dense form, which builds every gradient (n x c d), runs on what rows fit --dense-gb.
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
from functools import partial
from pathlib import Path

import numpy as np
from peers import PEERS, Inputs

SIZES = {"n": 20_000, "d": 768, "classes": 100, "budget": 10, "labelled": 100}
WORK = {  # sizes, strategies (None: all), seconds that each is to take
    "cpu": ({"n": 50_000, "d": 128, "classes": 10, "budget": 500, "labelled": 500}, None, None),
    "gpu-50k": (
        {"n": 50_000, "d": 512, "classes": 10, "budget": 3000, "labelled": 1000, "device": "cuda"},
        ["badge", "coreset", "facility_location", "max_herding", "probcover", "typiclust", "uherding"],
        2.0,
    ),
    "gpu-1m": (
        {"n": 1_000_000, "d": 512, "classes": 10, "budget": 10_000, "labelled": 1000, "device": "cuda"},
        ["cluster_margin", "coreset", "max_herding", "typiclust"],
        60.0,
    ),
    "gpu-imagenet": (
        {"n": 1_281_167, "d": 2048, "classes": 1000, "budget": 10_000, "labelled": 0, "device": "cuda", "half": True},
        ["badge"],
        10.0,
    ),
}


def main() -> None:
    if "out-of-core" in sys.argv:
        os.execv(sys.executable, [sys.executable, str(Path(__file__).with_name("out_of_core.py")), *_rest("--work")])
    options = arguments()
    print(
        f"{options.n:,} x ({options.classes} x {options.d}), {options.budget} picks, {options.labelled} labelled,",
        end="",
    )
    print(f" {'float16' if options.half else 'float32'} features, {hardware(options)}\n")
    peers = "| peer | seconds, best | median | MB | ratio |" if options.peers else "|"
    print(f"| strategy | seconds, best | median | MB above the inputs {peers}")
    print("|---" * (9 if options.peers else 4) + "|")
    measured = {name: row(name, options) for name in options.strategies}
    missed = [name for name, (ours, _) in measured.items() if not (ours.get("seconds", np.inf) <= options.target)]
    if options.target < np.inf:
        print(f"\nTarget of {options.target:g} s {'MISSED by ' + ', '.join(missed) if missed else 'met'}.")
    if "badge" in measured and not options.work:
        dense(options)
    if options.json:
        kept = vars(options) | {"json": None}
        options.json.write_text(json.dumps({"options": kept, "measured": measured}, indent=1))


def _rest(flag: str) -> list[str]:
    """The command line without a flag and its value."""
    at = sys.argv.index(flag)
    return sys.argv[1:at] + sys.argv[at + 2 :]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=[*WORK, "out-of-core"], help="a row of the targets; sizes below change it")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="threads on the CPU")
    parser.add_argument("--n", type=int, help="examples in the pool, labelled ones not counted")
    parser.add_argument("--d", type=int, help="features")
    parser.add_argument("--classes", type=int)
    parser.add_argument("--budget", type=int)
    parser.add_argument("--labelled", type=int, help="half of them are the query set, half the private set")
    parser.add_argument("--half", action="store_true", help="features in float16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for each strategy, ours or a peer's")
    parser.add_argument("--gigabytes", type=float, default=12.0, help="private memory of each process; 0: no limit")
    parser.add_argument("--dense-gb", type=float, default=2.0, help="memory for the gradients of the dense form")
    parser.add_argument("--strategies", nargs="+", metavar="NAME", help="default: every file, or the work's")
    parser.add_argument("--peers", nargs="*", metavar="PACKAGE", help="default with --work cpu: all; else none")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    sizes, chosen, target = WORK.get(_work(), (SIZES, None, None))
    parser.set_defaults(**sizes, target=target or np.inf)
    options = parser.parse_args()
    options.strategies = options.strategies or chosen or rows()
    if options.peers == [] or (options.peers is None and options.work == "cpu"):
        options.peers = sorted({package for package, _ in PEERS.values()})
    options.peers = options.peers or []
    return options


def _work() -> str | None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--work")
    return parser.parse_known_args()[0].work


def rows() -> list[str]:
    """Every strategy that there is, once for each of its functions."""
    from allround.strategies import describe, names

    functions = {name: describe(name).parameters.get("function") for name in names()}
    return [row for name, f in functions.items() for row in ([f"{name}:{c}" for c in f.choices] if f else [name])]


def hardware(options: argparse.Namespace) -> str:
    if options.device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(options.device)
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), cpu)
    return f"{options.threads} threads of {os.cpu_count()} on {cpu} (load {os.getloadavg()[0]:.1f} before)"


# --- one row ----------------------------------------------------------------------------------------------------------


def row(name: str, options: argparse.Namespace) -> tuple[dict, dict]:
    """Measure a strategy, and its peer if there is one; print the line."""
    ours, theirs = measure(name, options.n, options), {}
    line = f"| {name} | {shown(ours)} |"
    if options.peers:
        package = PEERS[name][0] if name in PEERS else None
        if package in options.peers:
            theirs = measure(f"peer {name}", options.n, options)
            both = "seconds" in ours and "seconds" in theirs
            ratio = f"{theirs['seconds'] / ours['seconds']:.1f} x" if both else ""
            line += f" {package} | {shown(theirs)} | {ratio} |"
        else:
            line += " | | | | |"
    print(line, flush=True)
    return ours, theirs


def shown(result: dict) -> str:
    if "fault" in result:
        return f"{result['fault']} | | "
    return f"{result['seconds']:.4f} | {result['median']:.4f} | {result['megabytes']:.0f}"


def measure(name: str, n: int, options: argparse.Namespace) -> dict:
    """Run one measurement in a new process: its seconds, median and megabytes, or its fault."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, name, n, options))
    process.start()
    theirs.close()
    try:
        result = ours.recv() if ours.poll(options.limit + 60) else {"fault": f"not finished in {options.limit:.0f} s"}
    except EOFError:  # died without a word: the allocator of a C++ library ends the process
        process.join()
        result = {"fault": f"died ({process.exitcode}), out of memory?" if process.exitcode < 0 else "failed"}
    process.kill()
    process.join()
    return result


def work(pipe, name: str, n: int, options: argparse.Namespace) -> None:
    import torch

    from allround.device import choose

    choose(options.device, options.threads, exact=True)
    kind, _, rest = name.rpartition(" ")
    strategy = partial(partial, dense_badge) if name == "badge-dense" else by_name(rest)
    ready = PEERS[rest][1] if kind == "peer" else strategy
    small = argparse.Namespace(**vars(options) | {"budget": min(options.budget, 20)})
    try:
        ready(inputs(1000, small))()  # libraries set themselves up
        run = ready(inputs(n, options))
        if options.gigabytes and options.device == "cpu":
            limit = int(options.gigabytes * 1e9)
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        before, times = peak(options.device, reset=True), []
        while len(times) < options.repeats and sum(times) < 20:
            start = time.perf_counter()
            picks = run()
            times.append(time.perf_counter() - start)
            if times[-1] > options.limit:
                raise TimeoutError
            if len(times) == 1:
                megabytes = (peak(options.device) - before) / 1e6
        if len({int(pick) for pick in picks}) != options.budget:
            pipe.send({"fault": f"{len({int(pick) for pick in picks})} distinct picks"})
            return
        pipe.send({"seconds": min(times), "median": statistics.median(times), "megabytes": megabytes})
    except TimeoutError:
        pipe.send({"fault": f"not finished in {options.limit:.0f} s"})
    except (MemoryError, RuntimeError, torch.OutOfMemoryError) as error:
        memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "memory" in str(error)
        pipe.send({"fault": "out of memory" if memory else f"failed: {_first_line(error)}"})
    except Exception as error:  # a line of the table, and on with the next
        pipe.send({"fault": f"failed: {_first_line(error)}"})


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__} {(str(error).splitlines() or [''])[0][:80]}".replace("|", "/")


def inputs(n: int, options: argparse.Namespace) -> Inputs:
    """Features, positive as after a ReLU, and the logits of linear layers over them; the first rows are labelled."""
    import torch

    n += options.labelled
    generator = torch.Generator(options.device).manual_seed(0)
    place = {"generator": generator, "device": options.device}
    features = torch.randn(n, options.d, dtype=torch.float16 if options.half else torch.float32, **place).relu_()
    members = torch.randn(10, options.d, options.classes, **place) * (2 / options.d**0.5)
    bias, labelled = torch.zeros(options.classes, device=options.device), np.arange(options.labelled)
    logits = torch.cat([part.float() @ members[0] for part in features.split(1 << 16)])
    labels = labelled % options.classes
    return Inputs(features, logits, members[0], bias, members, labelled, labels, options.budget)


def by_name(row: str) -> Callable:
    """A strategy of ours; its inputs are what it needs and no more, and are made before the clock starts."""
    name, _, function = row.partition(":")

    def ready(data: Inputs) -> Callable[[], np.ndarray]:
        more = needed(name, function, data)
        sets = {key: "labelled" for key in ("query", "private") if key in describe_needs(name) and not more["sets"]}
        return partial(selected, name, data, more, **sets, **({"function": function} if function else {}))

    return ready


def selected(name: str, data: Inputs, more: dict, **hyperparameters: str) -> np.ndarray:
    from allround.pool import Pool
    from allround.strategies import select

    pool = Pool.from_arrays(data.features, data.logits, data.labelled, data.labels, **more)
    return select(name, pool, budget=data.budget, **hyperparameters)


def describe_needs(name: str) -> set[str]:
    from allround.strategies import describe

    return {need for need, values in describe(name).needs.items() if values is None or name == "power"}


def needed(name: str, function: str, data: Inputs) -> dict:
    import torch

    from allround.learners.model import Classifier

    needs, more = describe_needs(name), {"sets": {}}
    if "samples" in needs:
        more["mc_logits"] = torch.stack([data.features.float() @ member for member in data.members])
    if needs & {"model", "images"}:
        head = torch.nn.Linear(*data.weights.shape).to(data.features.device)
        head.load_state_dict({"weight": data.weights.T.contiguous(), "bias": data.bias})
        more["model"] = Classifier(torch.nn.Flatten(), head).eval().requires_grad_(False)
    if "images" in needs:
        more["images"] = data.features.float()[:, None, None, :]
    more["sets"] = {key: getattr(data, key) for key in ("query", "private") if key in needs}
    places = {key: np.searchsorted(data.labelled, index) for key, index in more["sets"].items()}
    more["set_labels"] = {key: data.labels[place] for key, place in places.items()}
    return more


def dense(options: argparse.Namespace) -> None:
    """BADGE beside its dense form, on as many rows as that can hold."""
    n = min(options.n, int(options.dense_gb * 1e9 / 4 / options.classes / options.d))
    if n <= options.budget:
        return
    ours, whole = measure("badge", n, options), measure("badge-dense", n, options)
    print(f"| badge, {n:,} rows | {shown(ours)} |\n| badge with whole gradients, {n:,} rows | {shown(whole)} |")


def dense_badge(data: Inputs) -> np.ndarray:
    """BADGE over whole gradients, in its fastest form: one matrix-vector product a pick."""
    import torch

    rng = np.random.default_rng(0)
    features, residual = data.features[len(data.labelled) :], data.logits[len(data.labelled) :].softmax(1)
    residual[torch.arange(len(residual)), residual.argmax(1)] -= 1
    gradients = (residual[:, :, None] * features[:, None, :].float()).view(len(features), -1)  # (n, c d)
    norms = torch.stack([row @ row for row in gradients])  # (n,) without a second array of that size
    nearest, picks = torch.full_like(norms, torch.inf), [int(norms.argmax())]
    while len(picks) < data.budget:
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
