"""Training a learner on a labelled set.

An epoch is ceil(n / batch) full batches: a permutation of the examples, the last batch filled up from a further
permutation, so that every step has the same shape and every example is seen in every epoch. The batch is at most n.
Train accuracy and loss are running ones, over the predictions made while the epoch trained, as the paper's 99 % rule
reads them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from allround.errors import AllroundError
from allround.learners import augmentation, optimisers
from allround.learners.model import Classifier, architecture, build
from allround.learners.resume import Keeper
from allround.learners.schedules import rates
from allround.learners.steps import allocate, faster, precision, stepper

STREAMS = {"initialisation": 0, "order": 1, "augmentation": 2, "dropout": 3}
REPORT = 5.0  # seconds between two lines of progress
# what an architecture's `prepare` sees at most: enough for statistics of pixels, in bounded time and memory
PREPARED_IMAGES, PREPARED_PIXELS = 5000, 2**23


@dataclass(frozen=True)
class Fitted:
    """A trained model (on its device, in evaluation mode) and how its training went."""

    model: Classifier
    epochs: int
    steps: int
    train_accuracy: float
    train_loss: float
    images: int  # trained on in this process, for the cost
    precision: str  # of the network's products: "float32" or "bfloat16"


def fit(
    images: np.ndarray,
    labels: np.ndarray,
    learner: Mapping[str, Any],
    *,
    classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    seeds: np.random.SeedSequence,
    device: torch.device,
    start: Callable[[Classifier], None] | None = None,
    state: Path | None = None,
    identity: str = "",
    log: Callable[[str], None] = print,
    graphs: bool = True,
) -> Fitted:
    """Train a learner from scratch, or from the weights that `start` puts into its model.

    images: (n, h, w, c) uint8; labels: (n,) in 0..classes-1; mean, std: per channel on the scale 0..1
    learner: complete settings
    seeds: of the job; initialisation, order, augmentation and dropout are independent streams of it
    state: file to resume from and to save to, for the job called `identity`; the caller removes it when all is written
    graphs: whether a GPU may capture the step as a CUDA graph
    AllroundError: the images do not fit the architecture, or the loss stops being a number
    """
    n, *shape = images.shape
    model = _initial(images, learner, tuple(shape), classes, mean, std, seeds, start)
    model = model.to(device=device, memory_format=torch.channels_last).train()
    parts = optimisers.groups(model, learner["optimiser"])
    changed = optimisers.tensors(model, parts)
    keeper = Keeper(state, identity, log)
    done = keeper.restore(changed)

    buffers = allocate(images, labels, mean, std, learner, device)
    steps, batch = buffers.order.shape
    epochs = max(learner["epochs"], math.ceil(learner["min_steps"] / steps))
    table = rates(learner["schedule"], learner["optimiser"]["lr"], epochs * steps).reshape(epochs, steps)
    goal = learner["stop"]["train_accuracy"] if learner["stop"] else math.inf

    def fill(epoch: int) -> None:
        order = epoch_order(_stream(seeds, "order", epoch), n, batch)
        rng = _stream(seeds, "augmentation", epoch)
        draws = augmentation.draw(rng, order.shape, tuple(shape[:2]), learner["augmentation"])
        for buffer, values in ((buffers.order, order), (buffers.draws, draws), (buffers.rates, table[epoch])):
            buffer.copy_(torch.from_numpy(values))
        for counter in (buffers.at, buffers.loss, buffers.hits):
            counter.zero_()
        torch.manual_seed(_seed(seeds, "dropout", epoch))

    step = stepper(model, parts, buffers, learner, tuple(shape[:2]))
    fill(done)
    if graphs:
        step = faster(step, buffers, changed, log)
    progress = _Progress(log, done, epochs, steps, batch)
    accuracy = loss = math.nan
    for epoch in range(done, epochs):
        fill(epoch)
        for number in range(1, steps + 1):
            step()
            if progress.due():
                progress.report(epoch, number, *_means(buffers, number))
        loss, accuracy = _means(buffers, steps)
        if not math.isfinite(loss):
            lr = learner["optimiser"]["lr"]
            raise AllroundError(
                f"the training loss is {loss} in epoch {epoch + 1}: training diverged; lower the learner's lr "
                f"(now {lr:g}), add warm-up to its schedule, or set precision: float32."
            )
        done = epoch + 1
        if accuracy >= goal:
            break
        if done < epochs:  # a finished training has no epoch left whose loss it could report
            keeper.save(done, changed)
    optimisers.forget_gradients(parts)
    log(f"trained {done} epochs, {done * steps} steps: loss {loss:.4f}, train accuracy {accuracy:.4f}")
    return Fitted(model.eval(), done, done * steps, accuracy, loss, progress.images(), precision(learner, device))


def epoch_order(rng: np.random.Generator, n: int, batch: int) -> np.ndarray:
    """The examples of every step of an epoch, (ceil(n / batch), batch) int64; every example occurs once or twice."""
    missing = -n % batch
    return np.concatenate([rng.permutation(n), rng.permutation(n)[:missing]]).reshape(-1, batch)


def _initial(
    images: np.ndarray,
    learner: Mapping[str, Any],
    shape: tuple[int, int, int],
    classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    seeds: np.random.SeedSequence,
    start: Callable[[Classifier], None] | None,
) -> Classifier:
    """The model before its first step, drawn on the CPU: equal weights on every device."""
    torch.manual_seed(_seed(seeds, "initialisation", 0))
    model = build(learner, shape, classes, fetch=start is None)
    prepare = getattr(architecture(learner["architecture"]), "prepare", None)
    if start is not None:
        start(model)
    elif prepare:
        moments = augmentation.moments(mean, std, torch.device("cpu"))
        many = min(len(images), PREPARED_IMAGES, max(1, PREPARED_PIXELS // (shape[0] * shape[1])))
        few = images[np.arange(many) * len(images) // many]  # evenly spread over the order of acquisition
        prepare(model.body, augmentation.normalise(torch.from_numpy(few), *moments))
    return model


def _stream(seeds: np.random.SeedSequence, name: str, epoch: int) -> np.random.Generator:
    """The generator of one purpose in one epoch; it follows from the job's seed, so a resumed training has it too."""
    return np.random.default_rng(np.random.SeedSequence(seeds.entropy, spawn_key=_key(seeds, name, epoch)))


def _seed(seeds: np.random.SeedSequence, name: str, epoch: int) -> int:
    """A seed for torch, likewise."""
    sequence = np.random.SeedSequence(seeds.entropy, spawn_key=_key(seeds, name, epoch))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def _key(seeds: np.random.SeedSequence, name: str, epoch: int) -> tuple[int, ...]:
    return (*seeds.spawn_key, STREAMS[name], epoch)


def _means(buffers: Any, steps: int) -> tuple[float, float]:
    """Mean loss and accuracy of the epoch's first `steps` steps; waits for the device."""
    loss, hits = torch.stack((buffers.loss.double(), buffers.hits.double())).tolist()
    return loss / steps, hits / (steps * buffers.order.shape[1])


class _Progress:
    """Lines of progress, every few seconds."""

    def __init__(self, log: Callable[[str], None], done: int, epochs: int, steps: int, batch: int):
        self.log, self.done, self.epochs, self.steps, self.batch = log, done, epochs, steps, batch
        self.began = self.last = time.monotonic()
        self.seen = done * steps
        if done:
            log(f"going on after epoch {done} of {epochs}")

    def due(self) -> bool:
        self.seen += 1
        return time.monotonic() - self.last >= REPORT

    def images(self) -> int:
        return (self.seen - self.done * self.steps) * self.batch

    def report(self, epoch: int, number: int, loss: float, accuracy: float) -> None:
        self.last = time.monotonic()
        speed = self.images() / max(self.last - self.began, 1e-9)
        left = (self.epochs * self.steps - self.seen) * self.batch / speed
        self.log(
            f"epoch {epoch + 1} of at most {self.epochs}, step {number} of {self.steps}: loss {loss:.4f}, "
            f"train accuracy {accuracy:.4f}, {speed:,.0f} images/s, ETA {_clock(left)}"
        )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
