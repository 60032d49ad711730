"""k-means++ seeding (Arthur & Vassilvitskii 2007) of vectors kept as factors, many picks in one pass over the rows.

scikit-learn's kmeans_plusplus needs the vectors themselves (n x c d numbers: 6 GB for 20,000 x (100 x 768)), runs on
the CPU alone and tries several candidates a pick, which is another distribution. Hence ours. Drawing one row after the
other would pass over all rows once a pick; instead, draw many candidates and reject those that the law would not have:

    W = the weights (squared distances to the nearest pick) at the last pass, w <= W those after the picks since then.
    A candidate x ~ W is kept with probability w(x) / W(x), else dropped. Given what was kept before, a candidate is
    kept and is x with probability W(x) / sum W * w(x) / W(x), proportional to w(x): the next one kept has exactly the
    law of k-means++, and a dropped one changes nothing. w of candidates alone is needed, which they give each other.

The next pass brings the weights up to date with all that were kept, by matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from allround.kernels.products import approached, arithmetic, products, row_products, squared_distances, those
from allround.kernels.rows import Factors, Rows, as_rows, candidates, parts

# The least weight of a vector that may still be drawn. It vanishes beside every real distance; where all distances
# are 0 (nothing but copies of chosen vectors is left) it makes the draw uniform.
FLOOR = 1e-300


def k_means_plus_plus(vectors: Rows | Factors, k: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """k rows: the longest vector, then each with probability ~ its squared distance to the nearest before it.

    vectors: n rows of factors, k <= n; see allround.kernels.rows and .products
    Returns rows (k,) int64, all distinct, and the squared distance to the nearest row before (k,) float64 (the first:
    its squared length). Memory O(n), for rows in a file too; time O(n d) a pass and O(n d) a pick, in matrix products.
    """
    vectors = as_rows(vectors)
    n, device = vectors.n, vectors.device
    norms = torch.empty(n, dtype=torch.float64, device=device)
    for here, block in _parts(vectors, 1):
        norms[here] = row_products(block, block)
    side = math.isqrt(n - 1) + 1
    weights = torch.zeros(-(-n // side), side, dtype=torch.float64, device=device)  # row by row n weights, then zeros
    nearest = weights.view(-1)[:n]
    nearest.fill_(torch.inf)
    new = norms.argmax().view(1)
    centres = arithmetic(*vectors.take(new))
    rows, scores, kept, rate = [new], [norms[new]], 1, 1.0
    while kept < k:
        _approach(vectors, norms, nearest, new, centres)
        size = min(candidates(n), math.ceil(1.5 * (k - kept) / rate))
        places, chances = rng.random((2, size))
        drawn = draw(weights, torch.from_numpy(places).to(device))  # (m,)
        distinct, each = drawn.unique(return_inverse=True)
        factors = tuple(factor.index_select(0, each) for factor in arithmetic(*vectors.take(distinct)))
        chosen, score = _keep(nearest[drawn].cpu().numpy(), _between(factors, norms[drawn], each), chances, k - kept)
        chosen = torch.from_numpy(chosen).to(device)
        new, centres = drawn[chosen], tuple(factor[chosen] for factor in factors)
        rows.append(new)
        scores.append(torch.from_numpy(score).to(device))
        kept, rate = kept + len(new), len(new) / size
    scores = torch.cat(scores)
    return torch.cat(rows), torch.where(scores > FLOOR, scores, 0.0)


def _between(factors: Factors, norms: torch.Tensor, each: torch.Tensor) -> np.ndarray:
    """The weight that candidate i leaves to j, (m, m) on the host: 0 if they are the same row."""
    factors = tuple(factor.double() for factor in factors)
    distance = squared_distances(norms[:, None], norms, products(factors, factors)).clamp_(min=FLOOR)
    return distance.masked_fill_(each[:, None] == each, 0).cpu().numpy()


def _keep(weight: np.ndarray, distance: np.ndarray, chances: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Which candidates to keep, in their order, and the weight of each when it was kept."""
    now, kept, scores = weight.copy(), [], []
    for i in range(len(weight)):
        if chances[i] * weight[i] < now[i]:
            kept.append(i)
            scores.append(now[i])
            np.minimum(now, distance[i], out=now)
            if len(kept) == most:
                break
    return np.array(kept), np.array(scores)


def _approach(vectors: Rows, norms: torch.Tensor, nearest: torch.Tensor, new: torch.Tensor, centres: Factors) -> None:
    """One pass: bring `nearest` up to date with the rows `new`, whose factors are `centres`."""
    lengths = norms[new]
    for here, block in _parts(vectors, len(new)):
        rows, centre = approached(nearest[here], norms[here], lengths, products(block, centres))
        left = tuple(those(factor, rows) for factor in block)
        right = centres if len(new) == 1 else tuple(factor.index_select(0, centre) for factor in centres)
        distance = squared_distances(norms[here][rows], lengths[centre], row_products(left, right))
        nearest[here][rows] = torch.minimum(nearest[here][rows], distance.clamp_(min=FLOOR))
    nearest[new] = 0  # never to be drawn again, whatever rounding leaves of the distance to itself


def _parts(vectors: Rows, columns: int) -> Iterator[tuple[slice, Factors]]:
    """One pass in parts whose products with `columns` rows are of a bounded size."""
    for place, block in vectors.blocks():
        width = max(columns, *(factor.shape[1] for factor in block))
        for part in parts(place.stop - place.start, width, vectors.device):
            here = slice(place.start + part.start, place.start + part.stop)
            yield here, arithmetic(*(factor[part] for factor in block))


def draw(weights: torch.Tensor, u: torch.Tensor, triangle: torch.Tensor | None = None) -> torch.Tensor:
    """Places, (m,) int64, each drawn with probability ~ its weight by inverting the distribution function at u.

    weights: (a, b) float64, not negative, not all 0; places count row by row
    u: (m,) float64 in [0, 1)
    triangle: that of `triangle_for(weights)`, for those who draw often

    The sum has two levels, rows and then inside one row. A single torch.cumsum on CUDA may add in another order every
    time, and torch.multinomial takes no u of ours, so that CPU and GPU would draw different examples.
    """
    a, b = weights.shape
    triangle = triangle_for(weights) if triangle is None else triangle
    sums = weights.sum(1)  # (a,)
    upto = triangle[:a, :a] @ sums  # (a,)
    target = u * upto[-1]  # (m,)
    row = first_with_weight(upto > target[:, None], sums)
    inside = weights[row]  # (m, b)
    target = target - (upto - sums)[row]
    return row * b + first_with_weight(inside @ triangle[:b, :b].T > target[:, None], inside)


def triangle_for(weights: torch.Tensor) -> torch.Tensor:
    """Ones on and below the diagonal: its product with a row, or a column, of the weights is their running sum."""
    side = max(weights.shape)
    return torch.ones(side, side, dtype=weights.dtype, device=weights.device).tril_()


def first_with_weight(reached: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(m,) the first column that is reached and has weight; the last with weight where rounding lets none be."""
    some, column = weights > 0, torch.arange(weights.shape[-1], device=weights.device)
    first = torch.where(reached & some, column, weights.shape[-1]).amin(-1)
    return torch.minimum(first, torch.where(some, column, -1).amax(-1))
