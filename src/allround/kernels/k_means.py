"""k-means++ seeding (Arthur & Vassilvitskii 2007) of vectors kept as factors.

scikit-learn's kmeans_plusplus needs the vectors themselves (n x c d numbers: 6 GB for 20,000 x (100 x 768)), runs on
the CPU alone and tries several candidates a pick, which is another distribution. Hence ours: memory O(n), and one
matrix-vector product a factor and pick.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from allround.kernels.products import arithmetic, dots, squared_distances, squared_norms
from allround.kernels.repeat import repeat

# The least weight of a vector that may still be drawn. It vanishes beside every real distance; where all distances
# are 0 (nothing but copies of chosen vectors is left) it makes the draw uniform, at the cost of no extra kernel.
FLOOR = 1e-300


def k_means_plus_plus(factors: tuple[torch.Tensor, ...], draws: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """As many rows as there are draws: the longest vector, then each with probability ~ its squared distance to the
    nearest.

    factors: (n, d_f) each; see allround.kernels.products
    draws: (k,) uniform in [0, 1), k <= n; draws[0] is not used, the first pick being certain
    Returns rows (k,) int64, all distinct, and the squared distance to the nearest row before (k,) float64 (the first:
    its squared length).
    """
    factors = arithmetic(*factors)
    norms, device = squared_norms(factors), factors[0].device  # (n,)
    n, k = len(norms), len(draws)
    side = math.isqrt(n - 1) + 1
    triangle = torch.ones(side, side, dtype=torch.float64, device=device).tril_()
    position = torch.arange(side, device=device)
    weights = torch.zeros(
        -(-n // side), side, dtype=torch.float64, device=device
    )  # row by row the n weights, then zeros
    nearest = weights.view(-1)[:n]
    nearest.fill_(torch.inf)
    u = torch.from_numpy(np.asarray(draws, dtype=np.float64)).to(device)  # (k,)
    rows = torch.zeros(k, dtype=torch.int64, device=device)
    scores = torch.zeros(k, dtype=torch.float64, device=device)
    count = torch.zeros(1, dtype=torch.int64, device=device)

    def add(row: torch.Tensor, score: torch.Tensor) -> None:
        rows.index_copy_(0, count, row)
        scores.index_copy_(0, count, score)
        distance = squared_distances(norms, norms.index_select(0, row), dots(factors, row))
        torch.minimum(nearest, distance.clamp_(min=FLOOR), out=nearest)
        nearest.index_fill_(0, row, 0)  # never to be drawn again, whatever rounding leaves of its distance to itself
        count.add_(1)

    def step() -> None:
        row = draw(weights, u.index_select(0, count), triangle, position)
        add(row, nearest.index_select(0, row))

    first = norms.argmax().view(1)
    add(first, norms.index_select(0, first))
    repeat(step, (weights, rows, scores, count), times=k - 1)
    return rows, torch.where(scores > FLOOR, scores, 0.0)


def draw(weights: torch.Tensor, u: torch.Tensor, triangle: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """The place, (1,) int64, drawn with probability ~ its weight by inverting the distribution function at u.

    weights: (a, b) float64, not negative, not all 0; places count row by row
    u: (1,) in [0, 1)
    triangle, position: (s, s) ones on and under the diagonal, and 0..s-1, for an s of at least a and b

    The sum has two levels, rows and then inside one row. A single torch.cumsum on CUDA may add in another order every
    time, and torch.multinomial takes no u of ours, so that CPU and GPU would draw different examples.
    """
    a, b = weights.shape
    sums = weights.sum(1)  # (a,)
    upto = triangle[:a, :a] @ sums  # (a,)
    target = u * upto[-1:]
    row = first_with_weight(upto > target, sums, position[:a])
    inside = weights.index_select(0, row)[0]  # (b,)
    target = target - (upto - sums).index_select(0, row)
    return row * b + first_with_weight(triangle[:b, :b] @ inside > target, inside, position[:b])


def first_with_weight(reached: torch.Tensor, weights: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """(1,) the first position that is reached and has weight; the last with weight where rounding lets none be."""
    some = weights > 0
    first = torch.where(reached & some, position, len(weights)).amin()
    return torch.minimum(first, torch.where(some, position, -1).amax()).view(1)
