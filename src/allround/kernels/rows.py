"""Rows of factors in blocks: from memory, or computed anew from a file in every pass over them.

A kernel that is written against `Rows` is one algorithm for pools in memory and for pools larger than it. Blocks begin
and end at the same rows either way, so that the same seed gives the same picks.
"""

from __future__ import annotations

import math
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

Factors = tuple[torch.Tensor, ...]  # (b, d_f) each; see allround.kernels.products
CANDIDATES = 2048  # in a pass, at most
CGROUPS, GROUPS_OF_PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# group memory limit, its use, and the lines of memory.stat that are files' pages, which the kernel takes back
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
V2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))


@dataclass(frozen=True)
class Rows:
    """n rows, each of one or more factors, on one device.

    blocks: called for every pass; yields (place, factors) for consecutive slices of 0..n
    take: rows (m,) int64 on the device, distinct -> their factors, in that order
    """

    n: int
    device: torch.device
    blocks: Callable[[], Iterator[tuple[slice, Factors]]]
    take: Callable[[torch.Tensor], Factors]


def block_bytes(device: torch.device | str) -> int:
    """Of a block in float32: small enough for caches and for the allocator to use again; on a GPU, large enough that
    a kernel runs longer than its launch."""
    return (16 if torch.device(device).type == "cpu" else 256) << 20


def held(*factors: torch.Tensor, places: list[slice] | None = None) -> Rows:
    """Rows in memory; places: where blocks begin and end, by default such that they are of `block_bytes`."""
    n, device = len(factors[0]), factors[0].device
    if places is None:
        step = max(1, block_bytes(device) // (4 * sum(factor.shape[1] for factor in factors)))
        places = [slice(start, min(start + step, n)) for start in range(0, n, step)]

    def blocks() -> Iterator[tuple[slice, Factors]]:
        for place in places:
            yield place, tuple(factor[place] for factor in factors)

    return Rows(n, device, blocks, lambda rows: tuple(factor.index_select(0, rows) for factor in factors))


def as_rows(vectors: Rows | torch.Tensor | Factors) -> Rows:
    """Rows as they are; a matrix or a tuple of factors as rows in memory."""
    if isinstance(vectors, Rows):
        return vectors
    return held(*((vectors,) if isinstance(vectors, torch.Tensor) else vectors))


def parts(count: int, width: int, device: torch.device) -> list[slice]:
    """Stretches of `count` rows that give temporaries of `width` columns a bounded size."""
    step = max(1, block_bytes(device) // 16 // max(1, width))
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def candidates(n: int) -> int:
    """How many of n rows a pass looks at closely, at most: not so many that all distances among them, which are on the
    host at once, cost more than a few picks do."""
    return min(n, CANDIDATES, max(64, 4 * math.isqrt(n)))


def room(device: torch.device | str) -> float:
    """Bytes that this process may still take on the device: what is free, and within its limits."""
    device = torch.device(device)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    process = psutil.Process().memory_info()
    left = [psutil.virtual_memory().available, *_cgroups()]
    for limit, used in (("RLIMIT_AS", process.vms), ("RLIMIT_DATA", getattr(process, "data", 0))):
        soft = resource.getrlimit(getattr(resource, limit))[0]
        left += [] if soft == resource.RLIM_INFINITY else [soft - used]
    return max(0, min(left))


def _cgroups() -> list[float]:
    """Bytes left in each control group that this process is in (Linux: containers and batch systems limit jobs so)."""
    try:
        lines = GROUPS_OF_PROCESS.read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, (limit, used, files) = (CGROUPS / "memory", V1) if controllers else (CGROUPS, V2)
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            left.append(_left(folder / limit, folder / used, folder / "memory.stat", files))
            if folder == root:
                break
    return left


def _left(limit: Path, used: Path, stat: Path, files: tuple[str, ...]) -> float:
    try:
        pages = dict(line.split() for line in stat.read_text().splitlines())
        taken = int(used.read_text()) - sum(int(pages.get(name, 0)) for name in files)
        return math.inf if limit.read_text().strip() == "max" else int(limit.read_text()) - taken
    except (OSError, ValueError):  # no such group in this view of the file system, or no such controller in it
        return math.inf
