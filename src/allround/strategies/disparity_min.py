"""Disparity-min: no two examples of the batch are alike.

f(S) = min over i != j in S of d(i, j), d = 1 - cosine of the features; greedily: the example farthest from its nearest
pick                                                    Dasgupta, Kumar & Ravi 2013 (ACL); Gonzalez 1985
The first pick, which f leaves open, and ties go to the example least like the rest of the pool. Unlike `coreset`, it
looks at the batch alone, and at directions. Zero vectors, which have none, come last.
Memory O(N D); time O(N D) a pick. score: d to the nearest pick before it (the first: 0).
"""

import torch

from allround.kernels.greedy import greedy
from allround.kernels.products import squared_norms, unit
from allround.kernels.set_functions import disparity, tie_break

NEEDS = {"outputs"}


def select(pool, budget, rng):
    vectors = unit(pool.features)  # (n, d)
    lengths, preference = squared_norms(vectors).round_(), tie_break(vectors)  # (n,)
    nearest = torch.full_like(lengths, torch.inf)
    gains = preference.clone()

    def update(row):
        torch.minimum(nearest, disparity(vectors, lengths, row), out=nearest)
        torch.add(nearest, preference, out=gains)

    rows, distances = greedy(gains, update, budget, (nearest,))
    return pool.picks(rows, distances)
