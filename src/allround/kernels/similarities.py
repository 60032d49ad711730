"""Similarities between vectors kept as factors (see allround.kernels.products), block by block.

    "cosine"        max(0, cos(x, y)); zero vectors are similar to nothing
    RBF(width)      exp(-|x - y|^2 / width^2)
    Ball(radius)    1 where |x - y| <= radius, else 0

All are at most 1, and 1 between equal vectors. None is ever computed for all pairs at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from allround.kernels.products import BLOCK, EQUAL, squared_norms, unit

NARROW = 0.05  # Gaussians under this width, of vectors of length 1, see what rounding leaves between equal vectors


@dataclass(frozen=True)
class RBF:
    width: float


@dataclass(frozen=True)
class Ball:
    radius: float


Similarity = str | RBF | Ball


class Points(NamedTuple):
    """Vectors in the form that their similarity is computed from: products are cosines, or are to be held against the
    norms (n,)."""

    factors: tuple[torch.Tensor, ...]  # (n, d_f) float32 each
    norms: torch.Tensor | None

    def take(self, rows: torch.Tensor | slice) -> Points:
        return Points(tuple(factor[rows] for factor in self.factors), None if self.norms is None else self.norms[rows])


def points(factors: tuple[torch.Tensor, ...], similarity: Similarity) -> Points:
    if similarity == "cosine":
        return Points(unit(*factors), None)
    return Points(tuple(factor.float() for factor in factors), squared_norms(factors).float())


def similarities(a: Points, b: Points, similarity: Similarity) -> torch.Tensor:
    """(len(a), len(b)); cosines below 0 are left to the caller, who has a bound of his own to hold them against."""
    if similarity == "cosine":
        return _products(a, b)
    near = negated_distances(a, b)
    if isinstance(similarity, RBF):
        if similarity.width < NARROW:
            near.masked_fill_(near > -EQUAL * (a.norms[:, None] + b.norms), 0)
        return near.mul_(similarity.width**-2).clamp_(max=0).exp_()
    # what rounding cannot tell from equal vectors is in every ball
    return near.add_(EQUAL * (a.norms[:, None] + b.norms)).ge_(-(similarity.radius**2))


def negated_distances(a: Points, b: Points) -> torch.Tensor:
    """-|x - y|^2, (len(a), len(b)), of points that are not for cosines."""
    if len(a.factors) == 1:  # the product takes two of the passes along
        near = torch.addmm(b.norms, a.factors[0], b.factors[0].T, beta=-1, alpha=2)
    else:
        near = _products(a, b).mul_(2).sub_(b.norms)
    return near.sub_(a.norms[:, None])


def _products(a: Points, b: Points) -> torch.Tensor:
    first, *others = (x @ y.T for x, y in zip(a.factors, b.factors, strict=True))
    for other in others:
        first.mul_(other)
    return first


def best_similarity(
    factors: tuple[torch.Tensor, ...], others: tuple[torch.Tensor, ...], similarity: Similarity = "cosine"
) -> torch.Tensor:
    """Similarity of every row (n, d_f) to the nearest of the others (m, d_f), (n,) float32; 0 where there are none."""
    rows, best = points(factors, similarity), torch.zeros(len(factors[0]), device=factors[0].device)
    if not len(others[0]):
        return best
    others = points(others, similarity)
    width = min(len(others.factors[0]), 4096)
    height = max(1, BLOCK // width)
    for first in range(0, len(others.factors[0]), width):
        some = others.take(slice(first, first + width))
        for start in range(0, len(best), height):
            here = slice(start, start + height)
            torch.maximum(best[here], similarities(rows.take(here), some, similarity).amax(1), out=best[here])
    return best


def least_distance(factors: tuple[torch.Tensor, ...]) -> float:
    """The least distance between two rows that are not equal, but for rounding; 0 where there are no such two."""
    rows, n = points(factors, RBF(1.0)), len(factors[0])
    least = torch.full((), torch.inf, device=factors[0].device)
    for some in torch.arange(n, device=least.device).split(max(1, BLOCK // max(1, n))) if n else ():
        apart = -negated_distances(rows.take(some), rows)  # (b, n)
        equal = apart <= EQUAL * (rows.norms[some, None] + rows.norms)
        least = torch.minimum(least, apart.masked_fill_(equal, torch.inf).amin())
    return float(least.sqrt()) if float(least) < torch.inf else 0.0
