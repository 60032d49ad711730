"""ensemble<t>: logits (t, n, c) float32 of the t members of a deep ensemble, one forward pass each, no augmentation.

Lakshminarayanan, Pritzel & Blundell 2017 (NeurIPS, arXiv 1612.01474); for active learning Beluch et al. 2018 (CVPR).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

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
    """Write the view of all images; neither they nor the logits have to fit in memory. seeds: nothing is drawn."""
    shape = len(models), models[0].head.out_features
    for model in models:
        model.eval()

    def forward(start: int, block: torch.Tensor) -> torch.Tensor:
        return torch.stack([model(block) for model in models])

    place = {"mean": mean, "std": std, "device": device, "identity": identity, "digest": digest}
    write_draws(path, view, forward, images, shape, **place)
