"""k-means (Lloyd 1982) on the device of the vectors, with weights.

scikit-learn's KMeans runs on the CPU alone (1,000,000 x 512 into 10,000 clusters are 5e12 products an iteration), and
FAISS' wheels are built for certain versions of CUDA, not for those of torch. Hence ours: one matrix product a block and
iteration, sums in a fixed order (`index_add_` on CUDA has another one every time), seeds by k-means++ on a sample.
Memory O(n d) for a centred copy; time O(n k d) an iteration; distances exist for one block of rows at a time.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import embedding_bag

from allround.kernels.k_means import k_means_plus_plus
from allround.kernels.products import BLOCK

SAMPLE = 16  # seeds are drawn from this many rows for every cluster: passes over all n for each of k seeds cost more
SETTLED = 1e-3  # share of the rows that may still move when the iterations end


def k_means(
    vectors: torch.Tensor,
    k: int,
    rng: np.random.Generator,
    *,
    weights: torch.Tensor | None = None,
    iterations: int = 10,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres (k, d) float32 that make the (weighted) squared distances small, and each row's nearest centre (n,).

    vectors: (n, d), 1 <= k <= n; weights: (n,), not negative, not all 0
    iterations: at most so many; fewer where hardly a row changes its cluster any more. 10 leave the sum about 0.1 %
        above where it would end

    A cluster that loses its last row moves to the row that costs most where it is. Where there are fewer distinct
    vectors than clusters, some clusters stay empty; their centres are copies of others. Ties go to the lower centre.
    """
    mean = vectors.mean(0, dtype=torch.float32)
    vectors = vectors - mean  # (n, d) float32; differences of products lose fewer digits without the mean
    n = len(vectors)
    norms = squared_lengths(vectors)  # (n,)
    weights = None if weights is None else weights.to(vectors)
    centres = vectors[_seeds(vectors, k, rng, weights)]  # (k, d)
    before = torch.full((n,), -1, device=vectors.device)
    for _ in range(iterations):
        assignment, distances = assign(vectors, centres, norms)
        if int((assignment != before).sum()) <= SETTLED * n:
            return centres + mean, assignment
        centres = _means(vectors, centres, assignment, distances, weights)
        before = assignment
    return centres + mean, assign(vectors, centres, norms)[0]


def assign(
    vectors: torch.Tensor, centres: torch.Tensor, norms: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest centre of every row, (n,) int64, ties to the lower, and the squared distance to it, (n,) float32.

    norms: the rows' squared lengths (n,), where they are known
    """
    norms = squared_lengths(vectors) if norms is None else norms
    assignment = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
    distances = torch.empty(len(vectors), device=vectors.device)
    lengths = centres.square().sum(1)  # (k,)
    # A GPU waits for launches on blocks that fit a CPU's cache.
    height = max(1, (16 * BLOCK if vectors.is_cuda else BLOCK // 8) // len(centres))
    for start in range(0, len(vectors), height):
        block, here = vectors[start : start + height], slice(start, start + height)
        distances[here], assignment[here] = smallest(torch.addmm(lengths, block, centres.T, alpha=-2))
    return assignment, distances.add_(norms).clamp_(min=0)


def squared_lengths(vectors: torch.Tensor) -> torch.Tensor:
    """|x|^2 of every row, (n,), without a copy of all squares."""
    step = max(1, BLOCK // 8 // vectors.shape[1])
    return torch.cat([block.square().sum(1) for block in vectors.split(step)])


def smallest(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The least number of every row and its column, the first of equals. NumPy's argmin is 5 times torch's on a CPU."""
    if matrix.is_cuda:
        return matrix.min(1)
    column = torch.from_numpy(matrix.numpy().argmin(1))
    return matrix.gather(1, column[:, None])[:, 0], column


def totals(
    vectors: torch.Tensor, assignment: torch.Tensor, k: int, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """The (weighted) sum of every cluster's rows, (k, d) float32, each in the order of the rows; 0 for an empty one."""
    sizes, order = torch.bincount(assignment, minlength=k), assignment.sort(stable=True).indices
    ordered = None if weights is None else weights[order]
    return embedding_bag(order, vectors, sizes.cumsum(0) - sizes, mode="sum", per_sample_weights=ordered)


def _seeds(vectors: torch.Tensor, k: int, rng: np.random.Generator, weights: torch.Tensor | None) -> torch.Tensor:
    """k-means++ on a sample of the rows, drawn with probability ~ weight: (k,) rows."""
    n, size = len(vectors), SAMPLE * k
    if weights is not None:
        upto = np.cumsum(weights.double().cpu().numpy())
        rows = np.searchsorted(upto, np.sort(rng.random(size)) * upto[-1], side="right")
        rows = np.minimum(rows, np.searchsorted(upto, upto[-1]))  # rounding must not run past the last weight
    else:
        rows = np.sort(rng.choice(n, size, replace=False)) if size < n else np.arange(n)
    rows = torch.from_numpy(rows).to(vectors.device)
    return rows[k_means_plus_plus((vectors[rows],), k, rng)[0]]


def _means(
    vectors: torch.Tensor,
    centres: torch.Tensor,
    assignment: torch.Tensor,
    distances: torch.Tensor,
    weights: torch.Tensor | None,
) -> torch.Tensor:
    """The (weighted) mean of every cluster's rows, (k, d)."""
    k = len(centres)
    sizes = torch.bincount(assignment, minlength=k)
    if empty := int((sizes == 0).sum()):
        costs = distances if weights is None else distances * weights
        farthest = costs.sort(stable=True, descending=True).indices[:empty]
        moved = farthest[costs[farthest] > 0]
        to = (sizes == 0).nonzero()[: len(moved), 0]
        assignment = assignment.index_copy(0, moved, to)
        sizes = torch.bincount(assignment, minlength=k)
    total = totals(vectors, assignment, k, weights)
    mass = sizes.float() if weights is None else totals(weights[:, None], assignment, k)[:, 0]
    return torch.where(mass[:, None] > 0, total / mass[:, None].clamp(min=1e-30), centres)
