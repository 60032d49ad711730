"""What views of several draws share: mc_logits (t, n, c) float32, written block by block."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from allround.artifacts import create_view
from allround.learners.inference import in_blocks

NUMBERS = 2**22  # logits of one block, all draws together


def write_draws(
    path: Path,
    view: str,
    forward: Callable[[int, torch.Tensor], torch.Tensor],
    images: Any,
    shape: tuple[int, int],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device,
    identity: str,
    digest: str,
) -> None:
    """Write the view of all images; neither they nor the logits have to fit in memory.

    forward: (first index of a block, its normalised images) -> logits (t, b, c); shape: (t, c)
    """
    whole = create_view(
        path,
        view,
        rows=len(images),
        fields={"mc_logits": shape},
        dtypes={"mc_logits": "float32"},
        identity=identity,
        digest=digest,
    )
    most = max(1, NUMBERS // (shape[0] * shape[1]))
    blocks = in_blocks(lambda at, some: (forward(at, some),), images, mean=mean, std=std, device=device, most=most)
    with whole as out:
        for start, logits in blocks:
            out.write(start, mc_logits=logits)
