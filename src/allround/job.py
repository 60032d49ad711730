"""What every stage does around its work: the command line, errors in one line, what the job cost."""

from __future__ import annotations

import argparse
import errno
import json
import os
import platform
import resource
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from allround import __version__, gpus
from allround.artifacts import identity_of, read_checkpoint, reserve, write_json
from allround.errors import AllroundError
from allround.locks import is_orphan, keep_aside, refuse_to_begin_as_orphan, take_back, wait_for_orphan

LOG_BYTES = 4096  # kept free for the log: what fills the disk must leave room to say that it is full
ALWAYS_NEW = ("collect", "report")  # quick, and their identity does not cover what their inputs hold
DISK_FULL = ("errno = 28", "No space left on device")  # h5py raises RuntimeError when the disk fills up on closing
GPU_FULL = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def run_stage(
    work: Callable[..., dict | None],
    *,
    inputs: Sequence[str] = (),
    optional: Sequence[str] = (),
    outputs: Sequence[str],
    extra: Sequence[str] = (),
    given: Sequence[str] = (),
    repeated: Sequence[str] = (),
    numbers: Sequence[str] = (),
) -> None:
    """Run one stage from its command line and exit.

    work: called with a Path for every name in inputs, optional (or None), outputs, extra (outputs that are made only
        where asked for, or None) and given (files of the user's, never touched, or None), a list of Paths for every
        name in repeated, a float (or None) for every name in numbers (limits, which never change what a finished
        artifact holds), and identity, device, threads; what it returns is added to the cost file
    """
    arguments = vars(_parser(work, (*inputs, *outputs), (*optional, *extra, *given), repeated, numbers).parse_args())
    stage, cost = _stage_name(work), arguments.pop("cost")
    with suppress(OSError):
        reserve(sys.stdout, LOG_BYTES)
    try:
        _check_identity(arguments["identity"], stage)
        waited = wait_for_orphan(arguments[outputs[0]])
        refuse_to_begin_as_orphan()
        made = [arguments[name] for name in (*outputs, *extra) if arguments[name]]
        files = [*made, *filter(None, [cost])]
        found = take_back(files)
        if (waited or found) and stage not in ALWAYS_NEW and _finished(files, made, arguments["identity"]):
            print("this job's process of an earlier, killed run has made all of this", flush=True)
            return
        for path in found:
            path.unlink()
        for path in made:
            _check_free(path, arguments["identity"], by_orphan=waited)
        _bring_to_the_present([arguments[name] for name in (*inputs, *optional)])
        _bring_to_the_present(path for name in repeated for path in arguments[name])
        started, wall = datetime.now(UTC), time.perf_counter()
        facts = work(**arguments) or {}
        if cost:
            facts = {"code": json.loads(arguments["identity"]).get("code"), **facts}
            write_json(cost, _cost(stage, started, time.perf_counter() - wall - gpus.waited(), facts))
        # a newer run deletes these before it begins this job, which then looks for them
        if is_orphan() and stage not in ALWAYS_NEW:
            keep_aside(files)
    except Exception as error:
        message = explain(error, stage)
        if message is None:
            raise
        sys.exit(f"allround {stage}: {message}")


def export_source(folder: Path) -> None:
    """Make the stages that this process starts run the code in `folder`."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def seed_sequence(identity: str) -> np.random.SeedSequence:
    """The job's own stream of random numbers: independent between stages and rounds, equal for every strategy."""
    job = json.loads(identity)
    cell = job["cell"]
    member = [cell["member"]] if "member" in cell else []  # of an ensemble, whose first member is the round's model
    spawn_key = (zlib.crc32(job["stage"].encode()), cell.get("round", 0), *member)
    return np.random.SeedSequence(entropy=cell["seed"], spawn_key=spawn_key)


def explain(error: BaseException, stage: str = "") -> str | None:
    """One line for an error that its reader can mend; None for a bug, whose traceback should be seen."""
    text, name = str(error), getattr(error, "filename", None) or ""
    if isinstance(error, AllroundError):
        return text
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(words in text for words in DISK_FULL):
        place = f" while writing {name}" if name else ""
        return f"the disk is full{place}; free some space, and the same command goes on where it stopped."
    if isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EROFS:
        return f"no permission to write or read {name or text}: check its owner and mode, or the mount."
    if type(error).__name__ == "OutOfMemoryError" or any(words in text for words in GPU_FULL):  # torch's
        train = "; or give the learner a smaller batch_size, which trains it again" if stage == "train" else ""
        fewer = "let fewer jobs share the GPU (jobs_per_gpu in config/config.yaml)"
        return f"out of GPU memory; {fewer}, or set device: cpu{train}."
    if isinstance(error, MemoryError):
        return f"out of memory ({text or 'no size given'}); run fewer jobs at once (--cores) or use a smaller dataset."
    return None


def _stage_name(work: Callable) -> str:
    return Path(work.__code__.co_filename).stem


def _parser(work: Callable, files: Sequence, optional: Sequence, repeated: Sequence, numbers: Sequence):
    doc = sys.modules[work.__module__].__doc__
    parser = argparse.ArgumentParser(f"python -m allround.stages.{_stage_name(work)}", description=doc)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name in files:
        parser.add_argument(_flag(name), type=Path, required=True, metavar="FILE")
    for name in optional:
        parser.add_argument(_flag(name), type=Path, nargs="?", metavar="FILE")
    for name in repeated:
        parser.add_argument(_flag(name), type=Path, nargs="*", default=[], metavar="FILE")
    for name in numbers:
        parser.add_argument(_flag(name), type=float, metavar="NUMBER")
    parser.add_argument("--cost", type=Path, metavar="FILE", help="where to write what the job cost (JSON)")
    parser.add_argument("--identity", required=True, metavar="JSON", help="cell and settings of the job")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads on the CPU")
    return parser


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _check_identity(identity: str, stage: str) -> None:
    try:
        job = json.loads(identity)
        found = job["stage"], job["cell"], job["settings"]
    except (ValueError, KeyError, TypeError):
        raise AllroundError(
            "--identity is not the JSON of a job; needed: stage, cell and settings (snakemake -n -p prints them)."
        ) from None
    if found[0] != stage:
        raise AllroundError(f"--identity is for stage '{found[0]}', this is stage '{stage}'.")


def _finished(files: list[Path], outputs: list[Path], identity: str) -> bool:
    """Whether all files are there, and those outputs that can tell were made under this identity."""
    found = {_identity_of(path) for path in outputs} - {None}
    return found == {identity} and all(path.exists() for path in files)


def _identity_of(path: Path) -> str | None:
    """That of a checkpoint included, which is slow to read."""
    if path.suffix != ".pt":
        return identity_of(path)
    try:
        return read_checkpoint(path)["identity"]
    except AllroundError:
        return None


def _check_free(path: Path, identity: str, by_orphan: bool) -> None:
    """Nothing made by another configuration is overwritten (Snakemake removes what it has decided to remake)."""
    if (found := identity_of(path)) and found != identity and by_orphan:
        print(f"{path}: made meanwhile by the earlier, killed run, under another configuration; made again", flush=True)
    elif found and found != identity:
        raise AllroundError(f"{path}: was made by another configuration; delete it or write elsewhere.")


def _bring_to_the_present(inputs: Iterable[Path | None]) -> None:
    """Give inputs from the future the present time: Snakemake refuses outputs that are older than an input.

    A clock that was set back leaves such files. What is up to date is a question of identities, not of times.
    """
    for path in inputs:
        with suppress(OSError):
            if path and path.is_file() and path.stat().st_mtime > time.time():
                os.utime(path)


def _cost(stage: str, started: datetime, seconds: float, facts: dict) -> dict:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    torch = sys.modules.get("torch")
    on_gpu = torch is not None and torch.cuda.is_initialized()
    cost = {
        "stage": stage,
        "seconds": round(seconds, 4),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 4),
        "peak_memory_mb": round(usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20), 1),
        "peak_gpu_memory_mb": round(torch.cuda.max_memory_allocated() / 1e6, 1) if on_gpu else None,
        "device": "cuda" if on_gpu else "cpu",
        "device_name": torch.cuda.get_device_name() if on_gpu else _processor(),
        "host": platform.node(),
        "started": started.isoformat(timespec="seconds"),
        "versions": {"allround": __version__, "python": platform.python_version(), **_versions()},
        **facts,
    }
    if cost.get("images"):
        cost["images_per_second"] = round(cost["images"] / max(cost["seconds"], 1e-9), 1)
    return cost


def _versions() -> dict[str, str]:
    packages = ("numpy", "torch", "h5py", "pandas", "torchvision", "timm")
    return {name: sys.modules[name].__version__ for name in packages if name in sys.modules}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"
