"""Facility location and its kin, maximised greedily: rows that together cover a ground set.

    f(S) = sum_i w_i clamp(max_(j in S) s(i, j), lower_i, upper_i)          i in the ground set

With w = 1, lower = 0 and no upper this is facility location. lower_i, the similarity to examples that are there
already, makes it what S adds to them (conditional gain); upper_i, the similarity to a query set, what S and the query
set have in common (mutual information); see allround.kernels.similarities for s, RBF for kernel coverage and Ball for
probability coverage. f is monotone and submodular: greedy is within 1 - 1/e of the optimum (Nemhauser et al. 1978).

"lazy" is the exact greedy algorithm. apricot and submodlib keep n x n similarities and a heap of stale gains (Minoux
1978) on the CPU, one candidate at a time. Here what is put off is not the gains but the ground set: a pick raises
the coverage of a few of its members only (of n / t or so after t picks), and until these are worked in, all gains are
upper bounds. A step works in up to K of them with one matrix product; the pick follows once none is left. That
makes about n ln k similarities a row in all, whatever the data are (lazy gains: between half as many and four times as
many), by masks and without a look from the host. The last few rows in question are then computed anew.

"stochastic" (Mirzasoleiman et al. 2015, AAAI) takes the best of a random sample of (n / k) ln(1 / epsilon) rows at
every pick, which is within 1 - 1/e - epsilon in expectation, for n ln(1 / epsilon) similarities a row.

Neither ever holds more similarities than fit a block. Ties go to the lower row, but for ties within rounding.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from allround.kernels.products import BLOCK
from allround.kernels.repeat import repeat
from allround.kernels.similarities import Points, Similarity, best_similarity, points, similarities

__all__ = ["best_similarity", "facility_location", "rise", "sample_draws"]

REFRESH = 8  # rows that a pick is chosen from by gains computed anew, which carry no rounding of updates
CACHE = 1 << 19  # similarities in a block on the CPU, which stays in its cache
GPU = 1 << 25  # and on a GPU, which it keeps busy


def facility_location(
    factors: tuple[torch.Tensor, ...],
    k: int,
    *,
    similarity: Similarity = "cosine",
    lower: torch.Tensor | None = None,
    upper: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    ground: tuple[torch.Tensor, ...] | None = None,
    candidates: torch.Tensor | None = None,
    optimiser: str = "lazy",
    draws: np.ndarray | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """k rows, in the order in which the greedy algorithm picks them, and the gain of each when it was picked.

    factors: (n, d_f) each; see allround.kernels.products
    ground: (g, d_f) each, what is to be covered; the rows themselves where it is not given
    lower, upper, weights: (g,), not negative; 0, infinity and 1 where they are not given
    candidates: the rows, (c,) int64, k <= c, that may be picked; all where they are not given
    optimiser: "lazy" (exact) or "stochastic", which takes draws: see sample_draws
    Returns rows (k,) int64, all distinct, and gains (k,) float64. Memory O((n + g) d), and the draws.
    """
    rows = points(factors, similarity)
    over = rows if ground is None or ground is factors else points(ground, similarity)
    rows = rows if candidates is None else rows.take(candidates)
    g, device = len(over.factors[0]), rows.factors[0].device
    level = torch.zeros(g, device=device) if lower is None else lower.float().clone()
    ceiling = None if upper is None else upper.float()
    weights = torch.ones(g, device=device) if weights is None else weights.float()
    cover = Cover(rows, over, similarity, level, ceiling, weights)
    picked, gains = _exact(cover, k) if optimiser == "lazy" else _stochastic(cover, k, draws)
    return picked if candidates is None else candidates[picked], gains


def sample_draws(n: int, k: int, epsilon: float, rng: np.random.Generator) -> np.ndarray:
    """The draws of `stochastic`, (k, m): numbers that every pick's sample is made of."""
    return rng.random((k, max(1, min(n, math.ceil(n / k * math.log(1 / epsilon))))), dtype=np.float32)


class Cover:
    """The ground set and how well each member is covered: level (g,), changed in place."""

    def __init__(
        self,
        rows: Points,
        over: Points,
        similarity: Similarity,
        level: torch.Tensor,
        ceiling: torch.Tensor | None,
        weights: torch.Tensor,
    ):
        self.rows, self.over, self.similarity = rows, over, similarity
        self.level, self.ceiling, self.weights = level, ceiling, weights
        self.block = GPU if level.is_cuda else CACHE

    def rise(
        self, some: Points, members: torch.Tensor | slice, low: torch.Tensor, high: torch.Tensor | None
    ) -> torch.Tensor:
        """sum over the members of w max(0, min(s, high) - low) for some rows, (m,) float64; low, high: (b,)"""
        part = similarities(some, self.over.take(members), self.similarity)  # (m, b)
        top = None if high is None else torch.maximum(high, low)
        torch.clamp(part, low, top, out=part).sub_(low)
        return (part @ self.weights[members]).double()

    def gains(self, some: Points) -> torch.Tensor:
        """What each of some rows would add now, (m,) float64."""
        m, g = len(some.factors[0]), len(self.level)
        total = torch.zeros(m, dtype=torch.float64, device=self.level.device)
        wide = max(1, min(g, self.block // min(m, 512)))
        high = max(1, self.block // wide)
        for start in range(0, g, wide):
            members = slice(start, start + wide)
            ceiling = None if self.ceiling is None else self.ceiling[members]
            for first in range(0, m, high):
                here = slice(first, first + high)
                total[here] += self.rise(some.take(here), members, self.level[members], ceiling)
        return total

    def to(self, row: torch.Tensor) -> torch.Tensor:
        """How well one row, (1,), covers every member, (g,)."""
        one = similarities(self.rows.take(row), self.over, self.similarity)[0]
        return one if self.ceiling is None else torch.minimum(one, self.ceiling)

    def risen_by(self, row: torch.Tensor) -> int:
        """How many members one row, (1,), would cover better. The host waits for it."""
        return int(((self.to(row) > self.level) & (self.weights > 0)).sum())

    def add(self, row: torch.Tensor, where: torch.Tensor) -> None:
        """Cover the ground set with one more row, (1,), where the mask (1,) says so."""
        torch.where(where, torch.maximum(self.level, self.to(row)), self.level, out=self.level)


def rise(similarity: torch.Tensor, members: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """What every row adds to the coverage of some members of the ground set, from `low` up to `high`, (n,) float64.

    similarity: (g, n); members: (m,) of the ground set; low, high: (g,). In blocks: differences are as large.
    """
    total = torch.zeros(similarity.shape[1], dtype=torch.float64, device=similarity.device)
    for part in members.split(max(1, BLOCK // len(total))):
        least = low[part, None]
        total += torch.clamp(similarity[part], least, high[part, None]).sub_(least).sum(0)
    return total


def looks_are_free(device: torch.device) -> bool:
    """Whether a step may look at its state and leave out what has no effect; if not, all goes by masks."""
    return device.type == "cpu"


def _exact(cover: Cover, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    n, g, device = len(cover.rows.factors[0]), len(cover.level), cover.level.device
    some, looks = min(n, REFRESH), looks_are_free(device)
    bounds = cover.gains(cover.rows)  # (n,) gains but for members not worked in, -inf once picked
    width = min(g, _usual_rise(cover.risen_by(bounds.argmax().view(1)), g, k))  # members that a step works in
    high = max(1, cover.block // width)
    worked = cover.level.clone()  # (g,) the level that bounds know of
    position, slots = torch.arange(g, device=device), torch.arange(width, device=device)
    chunk = torch.zeros(width + 1, dtype=torch.int64, device=device)  # the last place is for what finds no room
    rows = torch.zeros(k, dtype=torch.int64, device=device)
    gains = torch.zeros(k, dtype=torch.float64, device=device)
    count = torch.zeros(1, dtype=torch.int64, device=device)

    def work_in() -> torch.Tensor:
        """Up to `width` members whose level rose; returns whether that was all, (1,) bool."""
        risen = (cover.level > worked) & (cover.weights > 0)
        place = risen.cumsum(0)  # from 1
        now = risen & (place <= width)
        chunk.scatter_(0, torch.where(now, place - 1, width), position)
        taken = min(width, int(place[-1])) if looks else width
        members, full = chunk[:taken], slots[:taken] < place[-1]
        low = worked.index_select(0, members)
        top = torch.where(full, cover.level.index_select(0, members), low)
        for first in range(0, n if taken else 0, high):
            here = slice(first, first + high)
            bounds[here] -= cover.rise(cover.rows.take(here), members, low, top)
        torch.where(now, cover.level, worked, out=worked)
        return place[-1:] <= width

    def step() -> None:
        settled = work_in()
        if looks and not settled:
            return
        best = bounds.float().topk(some).indices  # in half the passes of float64
        best[-1:] = bounds.argmax()  # the first of many equals, which topk may leave out
        best = best.sort().values
        chosen = bounds.index_select(0, best) == -torch.inf
        fresh = torch.where(chosen, -torch.inf, cover.gains(cover.rows.take(best)))
        # members not worked in are in fresh gains already: taken off again, bounds would be too low
        bounds.index_copy_(0, best, torch.where(settled, fresh, bounds.index_select(0, best)))
        commit, slot = settled & (count < k), count.clamp(max=k - 1)
        row = best.index_select(0, fresh.argmax().view(1))
        rows.index_copy_(0, slot, torch.where(commit, row, rows.index_select(0, slot)))
        gains.index_copy_(0, slot, torch.where(commit, fresh.amax().view(1), gains.index_select(0, slot)))
        bounds.index_copy_(0, row, torch.where(commit, -torch.inf, bounds.index_select(0, row)))
        cover.add(row, commit)
        count.add_(commit)

    repeat(step, (bounds, worked, cover.level, chunk, rows, gains, count), done=lambda: int(count) == k)
    return rows, gains


def _usual_rise(first: int, g: int, k: int) -> int:
    """About as many members as a pick raises, so that most picks take one step: a multiple of 32 up to 256.

    first: how many of g the first pick raises. As if m = g / first rows covered them before: pick t raises g / (m + t),
    over k picks g / k ln(1 + k / m) on average, and half as many again is room for picks that raise more.
    """
    usual = g / k * math.log1p(k * max(first, 1) / g)
    return min(256, 32 * math.ceil(1.5 * usual / 32))


def _stochastic(cover: Cover, k: int, draws: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    n, device = len(cover.rows.factors[0]), cover.level.device
    left = torch.arange(n, device=device)  # the first n - count are the rows not picked
    draws = torch.from_numpy(draws).to(device)  # (k, m)
    rows = torch.zeros(k, dtype=torch.int64, device=device)
    gains = torch.zeros(k, dtype=torch.float64, device=device)
    count = torch.zeros(1, dtype=torch.int64, device=device)
    always = torch.ones(1, dtype=torch.bool, device=device)

    def step() -> None:
        remain = n - count
        places = (draws.index_select(0, count)[0].double() * remain).long()  # (m,)
        fresh = cover.gains(cover.rows.take(left.index_select(0, places)))
        best = fresh.argmax().view(1)
        place = places.index_select(0, best)
        row = left.index_select(0, place)
        rows.index_copy_(0, count, row)
        gains.index_copy_(0, count, fresh.index_select(0, best))
        left.index_copy_(0, place, left.index_select(0, remain - 1))
        cover.add(row, always)
        count.add_(1)

    repeat(step, (left, cover.level, rows, gains, count), times=k)
    return rows, gains
