"""Facility location, maximised greedily and exactly: rows that are together as similar as can be to every row.

    f(S) = sum_i max_(j in S) s(i, j),   s(i, j) = max(0, cos(x_i, x_j)), 0 for S empty

f is monotone and submodular, so that greedy is within 1 - 1/e of the optimum (Nemhauser et al. 1978), and a gain
computed earlier bounds the gain now (lazy greedy, Minoux 1978). apricot and submodlib are lazy through a heap on the
CPU, one candidate at a time, over an n x n matrix. Here a step refreshes the K best bounds at once with one matrix
product and commits the best row if its gain is fresh, by masks and without a look from the host; similarities are
computed as they are needed, K x n at a time. Ties go to the lower row, but for ties within rounding.
"""

from __future__ import annotations

import torch

from allround.kernels.products import BLOCK, unit
from allround.kernels.repeat import repeat

REFRESH = 64  # K: a matrix product this wide costs little more than a narrow one


def facility_location(factors: tuple[torch.Tensor, ...], k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k rows of the exact greedy algorithm, k <= n, and the gain of each when it was picked.

    factors: (n, d_f) each; see allround.kernels.products
    Returns rows (k,) int64, all distinct, and gains (k,) float64. Memory O(n (d + K)); time O(n^2 d) for the first
    pick, O(K n d) for each refresh, of which a pick takes a few.
    """
    factors = unit(*factors)
    n, device = len(factors[0]), factors[0].device
    width = min(n, REFRESH)
    best = torch.zeros(n, device=device)  # similarity of every row to the nearest picked one
    bounds = torch.cat([_similarity(factors, block).clamp_(min=0).sum(1).double() for block in _blocks(n, device)])
    rows = torch.zeros(k, dtype=torch.int64, device=device)
    gains = torch.zeros(k, dtype=torch.float64, device=device)
    count = torch.zeros(1, dtype=torch.int64, device=device)
    similarity = torch.empty(width, n, device=device)
    rise = torch.empty(width, n, device=device)

    def step() -> None:
        candidates = bounds.topk(width).indices  # (K,)
        # topk may leave out the first of many equals, which the arg-max below would then never find refreshed
        candidates[-1:] = bounds.argmax()
        _similarity(factors, candidates, out=similarity, space=rise)
        fresh = torch.sub(similarity, best, out=rise).clamp_(min=0).sum(1).double()  # (K,)
        chosen = bounds.index_select(0, candidates) == -torch.inf
        bounds.index_copy_(0, candidates, torch.where(chosen, -torch.inf, fresh))
        row = bounds.argmax().view(1)
        hit = candidates == row  # (K,)
        commit = hit.any() & (count < k)  # (1,)
        slot = count.clamp(max=k - 1)
        rows.index_copy_(0, slot, torch.where(commit, row, rows.index_select(0, slot)))
        gains.index_copy_(0, slot, torch.where(commit, bounds.index_select(0, row), gains.index_select(0, slot)))
        nearer = torch.maximum(best, similarity.index_select(0, hit.int().argmax().view(1))[0])
        torch.where(commit, nearer, best, out=best)
        bounds.index_copy_(0, row, torch.where(commit, -torch.inf, bounds.index_select(0, row)))
        count.add_(commit)

    repeat(step, (best, bounds, rows, gains, count), done=lambda: int(count) == k)
    return rows, gains


def rises(similarity: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
    """The gain of every row over a ground set with a similarity of `best` already: sum_i max(0, s_ji - best_i), (n,).

    similarity: (n, g); best: (g,). In blocks: the differences are as large as the similarities.
    """
    blocks = similarity.split(max(1, BLOCK // len(best)))
    return torch.cat([(block - best).clamp_(min=0).sum(1) for block in blocks])


def _similarity(
    factors: tuple[torch.Tensor, ...],
    rows: torch.Tensor,
    out: torch.Tensor | None = None,
    space: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cosines of the given rows and all rows, (k, n); out and space: (k, n) memory for the result and for a factor."""
    first, *others = factors
    out = torch.mm(first.index_select(0, rows), first.T, out=out)
    for factor in others:
        out.mul_(torch.mm(factor.index_select(0, rows), factor.T, out=space))
    return out


def _blocks(n: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """All rows, in blocks whose similarities fit a temporary."""
    return torch.arange(n, device=device).split(max(1, BLOCK // n))
