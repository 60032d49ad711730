"""One training step that never talks to the host, and its capture as a CUDA graph.

Everything that a step needs lies in static buffers on the device: the images (uint8), the labels, the epoch's order of
examples with what augmentation drew for each, the epoch's learning rates, the number of the step. A step reads them,
trains, and adds to running sums of loss and hits; the host waits for the device once per epoch. On a GPU the whole step
is captured once and replayed, so that small batches are not bound by the launches of hundreds of kernels. On a CPU, and
where a capture fails, the same function runs eagerly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from allround.learners import augmentation, optimisers

WARM_UP = 3  # steps before a capture: cuDNN and cuBLAS set themselves up, lazily allocated state comes to be


@dataclass(frozen=True)
class Buffers:
    """Tensors on the device, allocated once; n examples, s steps an epoch, b examples a step."""

    images: Tensor  # (n, h + 2 crop, w + 2 crop, c) uint8
    labels: Tensor  # (n,) int64
    mean: Tensor  # (c,) float32
    std: Tensor  # (c,) float32
    order: Tensor  # (s, b) int64, examples of every step of the epoch
    draws: Tensor  # (s, DRAWS, b) int64, what augmentation drew for them
    rates: Tensor  # (s,) float32, learning rate of every step of the epoch
    at: Tensor  # (1,) int64, the step of the epoch
    loss: Tensor  # () float32, sum over the epoch's steps so far
    hits: Tensor  # () int64, correct predictions in the epoch so far


def allocate(
    images: np.ndarray, labels: np.ndarray, mean: tuple, std: tuple, learner: Mapping[str, Any], device: torch.device
) -> Buffers:
    """Move a training set to the device. images: (n, h, w, c) uint8; labels: (n,)."""
    batch = min(learner["batch_size"], len(images))
    steps = -(-len(images) // batch)
    padded = torch.from_numpy(np.ascontiguousarray(augmentation.pad(images, learner["augmentation"])))
    moments = augmentation.moments(mean, std, device)
    return Buffers(
        padded.to(device),
        torch.as_tensor(labels, dtype=torch.int64).to(device),
        *moments,
        order=torch.zeros((steps, batch), dtype=torch.int64, device=device),
        draws=torch.zeros((steps, augmentation.DRAWS, batch), dtype=torch.int64, device=device),
        rates=torch.zeros(steps, device=device),
        at=torch.zeros(1, dtype=torch.int64, device=device),
        loss=torch.zeros((), device=device),
        hits=torch.zeros((), dtype=torch.int64, device=device),
    )


def stepper(
    model: nn.Module,
    parts: list[optimisers.Group],
    buffers: Buffers,
    learner: Mapping[str, Any],
    size: tuple[int, int],
) -> Callable[[], None]:
    """The step as a function without arguments: gather, augment, forward, loss, backward, update, count."""
    device = buffers.images.device
    half = precision(learner, device) == "bfloat16"
    augment, smoothing = learner["augmentation"], learner["label_smoothing"]

    def step() -> None:
        index = buffers.order.index_select(0, buffers.at)[0]  # (b,)
        draws = buffers.draws.index_select(0, buffers.at)[0]  # (DRAWS, b)
        rate = buffers.rates.index_select(0, buffers.at)[0]  # ()
        if augment:
            images = augmentation.gather(buffers.images, index, draws, size)  # (b, h, w, c)
        else:
            images = buffers.images.index_select(0, index)
        images = augmentation.normalise(images, buffers.mean, buffers.std)  # (b, c, h, w)
        if augment and augment["cutout"]:
            images = augmentation.cut_out(images, draws, augment["cutout"])
        labels = buffers.labels.index_select(0, index)
        # a cast that autocast caches during a capture would be missing from its replays
        with torch.autocast(device.type, torch.bfloat16, enabled=half, cache_enabled=False):
            logits = model(images)
        logits = logits.float()  # (b, c)
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        optimisers.forget_gradients(parts)  # a captured backward then owns its gradients' memory
        loss.backward()
        for group in parts:
            optimisers.update(group, rate, learner["optimiser"])
        buffers.loss.add_(loss.detach())
        buffers.hits.add_((logits.detach().argmax(1) == labels).sum())
        buffers.at.add_(1)

    return step


def precision(learner: Mapping[str, Any], device: torch.device) -> str:
    """What a learner's setting means on a device: "float32" or "bfloat16".

    auto: bfloat16 where products in it are faster, on GPUs since Ampere; CPUs are taken not to be.
    """
    if learner["precision"] != "auto":
        return learner["precision"]
    fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "bfloat16" if fast else "float32"


def faster(
    step: Callable[[], None], buffers: Buffers, changed: list[Tensor], log: Callable[[str], None]
) -> Callable[[], None]:
    """The step as one CUDA graph; the step itself on a CPU, or where it cannot be captured (a logged line says so).

    changed: all tensors that the step changes, besides the buffers' counters; they are as before when this returns
    The buffers must hold an epoch already: the warm-up trains on its first batch.
    """
    device = buffers.images.device
    if device.type != "cuda":
        return step
    stream = torch.cuda.current_stream(device)
    with unchanged(changed):
        try:
            return _capture(step, buffers, device)
        except RuntimeError as error:
            cause = error.__context__ or error  # the end of a capture that failed fails as well, and says nothing
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None
            # a capture that fails may leave its own stream behind, and a generator that draws in captures alone
            torch.cuda.set_stream(stream)
            torch.cuda.default_generators[device.index].graphsafe_set_state(torch.Generator(device))
            reason = str(cause).partition("\n")[0]
            log(f"the training step cannot be captured as a CUDA graph, training goes on without: {reason}")
            return step
        finally:
            torch.cuda.synchronize(device)


@contextmanager
def unchanged(tensors: list[Tensor]) -> Iterator[None]:
    """Put back what the tensors held before, in place: a graph keeps their addresses."""
    before = [tensor.clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)


def _capture(step: Callable[[], None], buffers: Buffers, device: torch.device) -> Callable[[], None]:
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            buffers.at.zero_()  # an epoch may be shorter than the warm-up
            step()
        buffers.at.zero_()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # the warm-up's stream, so that gradients are accumulated on the stream that they were first made on
    with torch.cuda.graph(graph, stream=side):
        step()
    return graph.replay
