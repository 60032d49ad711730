"""Greedy k-centre (Gonzalez 1985): again and again the vector farthest from all centres, a 2-approximation of the
optimum.

Neither scikit-learn nor scipy has it. Memory O(n d) for a centred copy; never n x n, nor n x (number of centres).
"""

from __future__ import annotations

import torch

from allround.kernels.products import BLOCK, dots, squared_distances, squared_norms
from allround.kernels.repeat import repeat


def k_centre(vectors: torch.Tensor, centres: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k rows that the greedy algorithm adds to the centres that are there.

    vectors: (n, d), k <= n; centres: (m, d), m >= 0. Without centres the first pick is the vector nearest to the mean.
    Returns rows (k,) int64, all distinct, ties to the lower row, and the distance of each to the nearest centre
    before it (k,) float64 (the first of an empty set of centres: to the mean).
    """
    # Distances are differences of products: without the mean, which features share, less is lost in rounding.
    mean = vectors.mean(0, dtype=torch.float32)
    vectors, centres = vectors - mean, centres - mean  # float32
    norms, device = squared_norms((vectors,)), vectors.device  # (n,)
    nearest = _nearest(vectors, norms, centres)  # (n,) squared distance to the nearest centre, -1 once chosen
    rows = torch.zeros(k, dtype=torch.int64, device=device)
    scores = torch.zeros(k, dtype=torch.float64, device=device)
    count = torch.zeros(1, dtype=torch.int64, device=device)

    def add(row: torch.Tensor, score: torch.Tensor) -> None:
        rows.index_copy_(0, count, row)
        scores.index_copy_(0, count, score)
        distance = squared_distances(norms, norms.index_select(0, row), dots((vectors,), row))
        torch.minimum(nearest, distance, out=nearest)
        nearest.index_fill_(0, row, -1)  # below every distance: copies of a centre (0) are left, the centre is not
        count.add_(1)

    def step() -> None:
        row = nearest.argmax().view(1)
        add(row, nearest.index_select(0, row))

    if not len(centres):
        row = norms.argmin().view(1)
        add(row, norms.index_select(0, row))
    repeat(step, (nearest, rows, scores, count), times=k - (len(centres) == 0))
    return rows, scores.sqrt()


def _nearest(vectors: torch.Tensor, norms: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Squared distance of every vector to the nearest centre, (n,) float64; infinite where there is none."""
    nearest = torch.full_like(norms, torch.inf)
    if not len(centres):
        return nearest
    lengths = squared_norms((centres,))  # (m,)
    width = max(1, min(len(centres), 4096))
    height = max(1, BLOCK // width)
    for start in range(0, len(vectors), height):
        block, here = vectors[start : start + height], slice(start, start + height)
        for first in range(0, len(centres), width):
            some = slice(first, first + width)
            # argmin over centres of |c|^2 - 2 v.c, then its distance in the same arithmetic as between two vectors
            near = torch.addmm(lengths[some].float(), block, centres[some].T, alpha=-2).argmin(1)  # (b,)
            centre = centres[some][near]
            products = (block * centre).sum(1, dtype=torch.float64)
            distance = squared_distances(norms[here], lengths[some][near], products)
            nearest[here] = torch.minimum(nearest[here], distance)
    return nearest
