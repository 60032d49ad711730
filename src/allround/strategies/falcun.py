"""FALCUN: uncertain examples first, then ever more those whose predictions are unlike the picked ones.

P(next = x) ~ (u(x) + d(x))^gamma,  u = 1 - (p(y1) - p(y2)),
d = min(u(x), min over picked q of |p(. | x) - p(. | q)|_1), stretched to [0, 1] over what is left before every pick
                                                        Gilhuber et al. 2024 (ECML PKDD)
Draws every pick. Memory O(N C), a second copy of the probabilities; time O(N C) a pick. score: u + d.
"""

import math
from typing import Annotated

import torch

from allround.kernels.k_means import draw, triangle_for
from allround.kernels.products import TINY
from allround.kernels.repeat import repeat, threads_for
from allround.strategies.margin import margin

NEEDS = {"outputs"}
CLASSES = 16  # that distances are summed over at a time


def select(pool, budget, rng, *, gamma: Annotated[float, ">= 0"] = 10.0):
    return pool.picks(*falcun(pool.probabilities, rng.random(budget), gamma))


def falcun(probabilities, draws, gamma):
    """Rows (k,) and their relevance (k,), for k uniform draws in [0, 1)."""
    n, device = len(probabilities), probabilities.device
    side = math.isqrt(n - 1) + 1
    weights = torch.zeros(-(-n // side), side, dtype=torch.float64, device=device)  # row by row n weights, then zeros
    weight = weights.view(-1)[:n]
    by_class = probabilities.T.contiguous()  # (c, n): sums over a short last dimension are slow on a CPU
    uncertainty = 1 - margin(probabilities)  # (n,)
    distance, gone = uncertainty.clone(), torch.zeros(n, device=device)  # of a picked row: 0 and infinite
    parts = by_class.split(CLASSES)
    apart, power = torch.empty_like(parts[0]), torch.empty_like(distance)  # used again by every pick
    gaps = [apart[: len(part)] for part in parts]
    u, triangle = torch.from_numpy(draws).to(device), triangle_for(weights)
    rows, scores = torch.zeros(len(u), dtype=torch.int64, device=device), torch.zeros(len(u), device=device)
    count = torch.zeros(1, dtype=torch.int64, device=device)

    def step():
        least = torch.add(distance, gone, out=power).amin()
        width = distance.amax() - least
        stretch = 1 / torch.where(width >= TINY, width, torch.inf)
        relevance = torch.addcmul(uncertainty, distance.sub(least), stretch)
        # Where nothing is relevant any more, the least value makes the draw uniform. The largest weight is 1.
        torch.clamp(relevance, min=1e-30, out=power).log_().mul_(gamma).sub_(gone)
        weight.copy_(power.sub_(power.amax()).exp_())
        row = draw(weights, u.index_select(0, count), triangle)
        rows.index_copy_(0, count, row)
        scores.index_copy_(0, count, relevance.index_select(0, row))
        gone.index_fill_(0, row, torch.inf)
        for part, gap in zip(parts, gaps, strict=True):
            torch.sub(part, part.index_select(1, row), out=gap).abs_()
            torch.sum(gap, 0, out=power) if part is parts[0] else power.add_(gap.sum(0))
        torch.minimum(distance, power, out=distance)
        count.add_(1)

    with threads_for(n):
        repeat(step, (weights, distance, gone, rows, scores, count), times=len(u))
    return rows, scores
