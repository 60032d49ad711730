"""Graph cut: examples that are like the rest of the pool and unlike each other.

f(S) = sum over i in V, j in S of s(i, j) - lambda sum over i, j in S of s(i, j), greedily; s = cosine of the features
                                                        Lin & Bilmes 2010 (NAACL); Iyer et al. 2021 (ALT)
V is the unlabelled pool, lambda is `trade_off`: up to 0.5, f is monotone (if no similarity is negative); above, gains
may turn negative, and the budget is spent all the same. Sums over V are products with the sum of all unit vectors.
Memory O(N D); time O(N D) a pick. score: the gain in f.
"""

from typing import Annotated

from allround.kernels.set_functions import graph_cut

NEEDS = {"outputs"}


def select(pool, budget, rng, *, trade_off: Annotated[float, ">= 0"] = 0.4):
    rows, gains = graph_cut((pool.features,), budget, trade_off)
    return pool.picks(rows, gains)
