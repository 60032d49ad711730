"""Margin sampling: the examples whose two most likely classes are closest in probability.

score(x) = p(y1 | x) - p(y2 | x), smallest first        Scheffer et al. 2001 (IDA)
Memory O(N); time O(N C).
"""

NEEDS = {"predictions"}


def select(pool, budget, rng):
    return pool.least(pool.map(margin, "probabilities"), budget)


def margin(probabilities):  # (b, c) -> (b,)
    top = probabilities.topk(min(2, probabilities.shape[1]), dim=1).values  # (b, 2)
    return top[:, 0] - top[:, 1:].sum(1)  # with one class alone, its probability
