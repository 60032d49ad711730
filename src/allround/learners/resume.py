"""A training's state at the end of an epoch, so that a killed training goes on instead of starting again.

The state lies beside the checkpoint, is written at most every few seconds, atomically, and carries the job's identity:
it is picked up by the same job only, and ignored otherwise. What is drawn in an epoch follows from the job's seed and
the epoch's number, so no generator has a state to keep, and the resumed training ends in the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from allround.artifacts import load_tensors, replacing

SECONDS = 10.0  # at least between two saves
SHARE = 0.05  # at most of the training's time


@dataclass
class Keeper:
    """Saves and restores a training's state; `path` None keeps nothing."""

    path: Path | None
    identity: str
    log: Callable[[str], None]
    due: float = 0.0

    def __post_init__(self) -> None:
        self.due = time.monotonic() + SECONDS

    def save(self, epoch: int, tensors: list[Tensor]) -> None:
        """Save the state after `epoch` epochs, if a save is due. A full disk is logged: training itself can go on."""
        started = time.monotonic()
        if self.path is None or started < self.due:
            return
        state = {"identity": self.identity, "epoch": epoch, "tensors": [tensor.cpu() for tensor in tensors]}
        try:
            with replacing(self.path) as partial:
                torch.save(state, partial)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError for a failed write
            self.log(f"cannot save the state to resume from ({error}); training goes on")
        now = time.monotonic()
        self.due = now + max(SECONDS, (now - started) / SHARE)

    def restore(self, tensors: list[Tensor]) -> int:
        """Put a saved state of this job into `tensors`; return how many epochs it has behind it (0: nothing saved)."""
        if self.path is None or not self.path.exists():
            return 0
        try:
            state = load_tensors(self.path)
            fits = state["identity"] == self.identity and len(state["tensors"]) == len(tensors)
            fits = fits and all(a.shape == b.shape for a, b in zip(state["tensors"], tensors, strict=True))
        except Exception as error:  # a damaged file may raise anything; it is only a head start
            self.log(f"{self.path}: cannot be read ({type(error).__name__}); training starts from the beginning")
            return 0
        if not fits:
            self.log(f"{self.path}: belongs to another configuration; training starts from the beginning")
            return 0
        with torch.no_grad():
            for tensor, saved in zip(tensors, state["tensors"], strict=True):
                tensor.copy_(saved)
        return int(state["epoch"])

    def forget(self) -> None:
        """Remove the state, once what it led to is written."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
