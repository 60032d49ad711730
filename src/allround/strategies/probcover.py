"""ProbCover: the labelled set and the batch have as many examples as can be within delta of one of them.

C(S) = number of x in G with a c in S, or labelled, at |x - c| <= delta, maximised greedily; features of length 1
                              Yehuda, Dekel, Hacohen & Weinshall 2022 (NeurIPS, arXiv 2205.11320)
delta = null is the paper's rule: the largest one for which a share `purity` of the examples have nothing of another
cluster within delta, clusters of k-means for as many classes as there are. An example's ball is pure up to its
distance r to the nearest example of another cluster, so that delta is a quantile of r (just below it), which needs no
grid of deltas; of 2,048 random examples, each against the whole pool.
G is the pool, or a uniform sample of `ground` examples. Once all of G is covered, the rest of the batch is random:
the method says nothing of it.
Memory O((N + M) D); time O(N (M + G + C) D), then O((N + G) D) a pick. score: how many examples it covers anew.
"""

from typing import Annotated

import torch

from allround.kernels.clusters import k_means
from allround.kernels.products import BLOCK, unit
from allround.kernels.similarities import Ball, negated_distances, points
from allround.strategies.facility_location import cover

NEEDS = {"outputs"}
SAMPLE = 2048


def select(
    pool,
    budget,
    rng,
    *,
    delta: Annotated[float | None, "> 0"] = None,
    purity: Annotated[float, "> 0 and < 1"] = 0.95,
    ground: Annotated[int, ">= 0"] = 0,
):
    features, labelled = unit(pool.features), unit(pool.labelled_features)  # (n, d), (m, d)
    ball = Ball(delta or largest_pure(features[0], max(2, pool.n_classes), purity, rng))
    rows, gains = cover(pool, budget, rng, features, labelled, ball, "lazy", 0, ground)
    covering = int((gains > 0).sum())
    if covering < budget:
        left = torch.ones(len(pool), dtype=torch.bool, device=pool.device).index_fill_(0, rows[:covering], False)
        left = left.nonzero()[:, 0]
        some = rng.choice(len(left), budget - covering, replace=False)
        rows = torch.cat([rows[:covering], left[torch.from_numpy(some).to(pool.device)]])
    return pool.picks(rows, gains)


def largest_pure(vectors, k, purity, rng):
    """The largest radius with which a share `purity` of all balls hold one of k clusters alone."""
    n = len(vectors)
    cluster = k_means(vectors, min(k, n), rng)[1]  # (n,)
    sample = torch.from_numpy(rng.choice(n, min(n, SAMPLE), replace=False)).to(vectors.device)
    everything = points((vectors,), Ball(0))
    reach = []
    for some in sample.split(max(1, BLOCK // n)):
        near = negated_distances(everything.take(some), everything)  # (b, n)
        reach.append(near.masked_fill_(cluster[some, None] == cluster, -torch.inf).amax(1))
    reach = torch.cat(reach).neg().clamp(min=0).sqrt().sort().values  # (s,) inf with a single cluster
    return min(2.0, float(reach[int((1 - purity) * len(reach))]) * (1 - 1e-5)) or 1e-3
