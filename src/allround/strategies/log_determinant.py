"""Log-determinant (DPP MAP): examples whose features span the most volume together.

f(S) = log det(s_SS + r I), greedily; s = cosine of the features, r = `regularisation`
                                                        Chen, Zhang & Zhou 2018 (NeurIPS, arXiv 1709.05135)
The smaller r, the more two alike examples exclude each other; with r = 1, f is twice the information gain of a Gaussian
process with noise 1. The first pick, where all gains are equal, and ties go to the example least like the rest.
Memory O(N D + D^2); time O(N D + D^2) a pick. score: the gain in f.
"""

from typing import Annotated

from allround.kernels.log_determinant import log_determinant

NEEDS = {"outputs"}


def select(pool, budget, rng, *, regularisation: Annotated[float, ">= 0.0001"] = 1.0):
    rows, gains = log_determinant((pool.features,), budget, regularisation=regularisation)
    return pool.picks(rows, gains)
