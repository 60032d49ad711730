"""Disparity-sum: the examples of the batch are far from each other on average.

f(S) = sum over pairs i, j in S of d(i, j), d = 1 - cosine of the features, greedily
                                                        Dasgupta, Kumar & Ravi 2013 (ACL)
f is not submodular: greedy comes without a guarantee for this d. The first pick, where all gains are 0, and ties go to
the example least like the rest of the pool. Zero vectors, which have no direction, come last.
Memory O(N D); time O(N D) a pick. score: the gain, which is the sum of distances to the picks before it.
"""

from allround.kernels.greedy import greedy
from allround.kernels.products import squared_norms, unit
from allround.kernels.set_functions import disparity, tie_break

NEEDS = {"outputs"}


def select(pool, budget, rng):
    vectors = unit(pool.features)  # (n, d)
    lengths, gains = squared_norms(vectors).round_(), tie_break(vectors)  # (n,)

    def update(row):
        gains.add_(disparity(vectors, lengths, row))

    rows, gained = greedy(gains, update, budget)
    return pool.picks(rows, gained)
