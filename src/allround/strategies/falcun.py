"""FALCUN: uncertain examples first, then ever more those whose predictions are unlike the picked ones.

P(next = x) ~ (u(x) + d(x))^gamma,  u = 1 - (p(y1) - p(y2)),
d = min(u(x), min over picked q of |p(. | x) - p(. | q)|_1), stretched to [0, 1] over what is left before every pick
                                                        Gilhuber et al. 2024 (ECML PKDD)
Draws every pick. Memory O(N C); time O(N C) a pick. score: u + d.
"""

import math
from typing import Annotated

import torch

from allround.kernels.k_means import FLOOR, draw
from allround.kernels.repeat import repeat
from allround.strategies.margin import margin

NEEDS = {"outputs"}


def select(pool, budget, rng, *, gamma: Annotated[float, ">= 0"] = 10.0):
    return pool.picks(*falcun(pool.probabilities, rng.random(budget), gamma))


def falcun(probabilities, draws, gamma):
    """Rows (k,) and their relevance (k,), for k uniform draws in [0, 1)."""
    n, device = len(probabilities), probabilities.device
    side = math.isqrt(n - 1) + 1
    weights = torch.zeros(-(-n // side), side, dtype=torch.float64, device=device)  # row by row the n weights
    uncertainty = 1 - margin(probabilities)  # (n,)
    distance, picked = uncertainty.clone(), torch.zeros(n, dtype=torch.bool, device=device)
    u = torch.from_numpy(draws).to(device)
    rows, scores = torch.zeros(len(u), dtype=torch.int64, device=device), torch.zeros(len(u), device=device)
    count = torch.zeros(1, dtype=torch.int64, device=device)

    def step():
        least, most = (distance.masked_fill(picked, end).aminmax() for end in (torch.inf, -torch.inf))
        width = most.max - least.min
        relevance = uncertainty + torch.where(width > 0, (distance - least.min) / width, 0.0)
        # Where nothing is relevant any more, the floor makes the draw uniform.
        power = relevance.clamp(min=1e-30).log_().mul_(gamma).double().exp_().clamp_(min=FLOOR)
        weights.view(-1)[:n].copy_(power.masked_fill_(picked, 0))
        row = draw(weights, u.index_select(0, count))
        rows.index_copy_(0, count, row)
        scores.index_copy_(0, count, relevance.index_select(0, row))
        picked.index_fill_(0, row, True)
        new = torch.cdist(probabilities, probabilities.index_select(0, row), p=1.0)[:, 0]
        torch.minimum(distance, new, out=distance)
        count.add_(1)

    repeat(step, (weights, distance, picked, rows, scores, count), times=len(u))
    return rows, scores
