"""Run one step of a greedy selection many times without waiting for the GPU in between.

A pick costs a dozen small kernels, and launching one from Python takes longer (about 5 µs) than most of them run.
Captured once in a CUDA graph and replayed, the step costs one launch. Hence the rule for steps: fixed shapes, state in
tensors that are changed in place, nothing read back to the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

SHARE = 1 << 17  # rows that are worth a thread of the CPU: waking it takes as long as some passes over them
WORTH = 32  # fewer steps than this run faster as they are than a capture takes
CHUNK = 64  # steps between two looks at `done` on CUDA: a look waits for the device


def repeat(
    step: Callable[[], None],
    state: Sequence[torch.Tensor],
    *,
    times: int | None = None,
    done: Callable[[], bool] | None = None,
) -> None:
    """Run `step` `times` times, or until `done` says so.

    step: reads and changes `state` in place; the same kernels on the same memory every time
    state: every tensor that a step changes (the warm-up before a capture runs the step, and has to be undone)
    done: a look at the state, after every step on the CPU, after every CHUNK steps on CUDA; a step after the end must
        change nothing
    """
    device = state[0].device
    if device.type != "cuda" or (times is not None and times < WORTH):
        _drive(step, times, done, 1)
        return
    with torch.cuda.device(device):
        graph = _capture(step, state)
        _drive(graph.replay, times, done, CHUNK)
        torch.cuda.synchronize()  # the graph owns memory that its replays use: it must outlive them


def _drive(step: Callable[[], None], times: int | None, done: Callable[[], bool] | None, chunk: int) -> None:
    if times is not None:
        for _ in range(times):
            step()
        return
    while not done():
        for _ in range(chunk):
            step()


def _capture(step: Callable[[], None], state: Sequence[torch.Tensor]) -> torch.cuda.CUDAGraph:
    """The step as a CUDA graph. Libraries set themselves up on first use, which a capture forbids: so warm up first."""
    before = [tensor.clone() for tensor in state]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    for tensor, saved in zip(state, before, strict=True):
        tensor.copy_(saved)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # records, runs nothing: the state stays as it is
        step()
    return graph


@contextmanager
def threads_for(rows: int) -> Iterator[None]:
    """No more threads of the CPU than pay off in steps of many short passes over so many rows: two threads take twice
    as long as one for 50,000."""
    before = torch.get_num_threads()
    few = min(before, max(1, rows // SHARE))
    if few == before:  # as in a thread that has one anyway
        yield
        return
    try:
        torch.set_num_threads(few)
        yield
    finally:
        torch.set_num_threads(before)
