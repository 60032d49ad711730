"""Entropy sampling: the examples whose predicted class is most uncertain, over all classes.

score(x) = -sum_y p(y | x) log p(y | x), largest first        Shannon 1948; Settles 2009 (survey), section 3.1
Memory O(N); time O(N C).
"""

import torch

NEEDS = {"predictions"}


def select(pool, budget, rng):
    return pool.greatest(pool.map(entropy, "probabilities"), budget)


def entropy(probabilities):  # (b, c) -> (b,)
    return torch.special.entr(probabilities).sum(1)  # entr(0) = 0 where p log p is NaN
