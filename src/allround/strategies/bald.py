"""BALD: the examples whose label says most about the model; where the draws of the posterior are sure, and disagree.

score(x) = I(y; w | x) = H(mean_t p_t(y | x)) - mean_t H(p_t(y | x)), largest first
        Houlsby et al. 2011 (arXiv 1112.5745); of networks with dropout Gal, Islam & Ghahramani 2017 (ICML, 1703.02910)
t are the draws of the posterior. score in nats, at most log T.
Memory O(N); time O(N T C).
"""

import torch

NEEDS = {"samples"}


def select(pool, budget, rng):
    return pool.greatest(pool.map(information, "mc_logits"), budget)


def information(logits):  # (t, b, c) -> (b,)
    p = logits.softmax(2)
    return torch.special.entr(p.mean(0)).sum(1) - expected(p)


def expected(p):  # (t, b, c) -> (b,) mean entropy of the draws
    return torch.special.entr(p).sum(2).mean(0)
