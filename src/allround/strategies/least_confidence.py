"""Least confidence: the examples whose most likely class is least probable.

score(x) = max_y p(y | x), smallest first        Lewis & Gale 1994 (SIGIR); Culotta & McCallum 2005 (AAAI)
Memory O(N); time O(N C).
"""

NEEDS = {"predictions"}


def select(pool, budget, rng):
    return pool.least(pool.map(confidence, "probabilities"), budget)


def confidence(probabilities):  # (b, c) -> (b,)
    return probabilities.amax(1)
