"""mc_dropout<t>: logits (t, n, c) float32 of t passes with dropout, see allround.learners.dropout; no augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from allround import views
from allround.learners.dropout import draws, on_features
from allround.learners.model import Classifier
from allround.views._draws import write_draws


def write(
    path: Path,
    models: list[Classifier],
    images: Any,
    *,
    view: str,
    seeds: np.random.SeedSequence,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device,
    identity: str,
    digest: str,
) -> None:
    """Write the view of all images; neither they nor the logits have to fit in memory."""
    model, shape = models[0], (views.samples(view), models[0].head.out_features)
    _, height, width, channels = images.shape
    drop = on_features(model, torch.zeros(1, channels, height, width, device=device))

    def forward(start: int, block: torch.Tensor) -> torch.Tensor:
        return draws(model, block, [_seed(seeds, number, start) for number in range(shape[0])], drop)

    place = {"mean": mean, "std": std, "device": device, "identity": identity, "digest": digest}
    write_draws(path, view, forward, images, shape, **place)


def _seed(seeds: np.random.SeedSequence, *key: int) -> int:
    """An independent seed of a pass over the block that begins at an image."""
    own = np.random.SeedSequence(seeds.entropy, spawn_key=(*seeds.spawn_key, *key))
    return int(own.generate_state(1, np.uint64)[0])
