"""MaxHerding: the labelled set and the batch cover the pool, where an example covers others as a Gaussian kernel says.

C(S) = sum over x in G of max over c in S, or labelled, of k(x, c), maximised greedily;
k(x, c) = exp(-|x - c|^2 / width^2) of features of length 1; width 1 is the authors' for these
                              Bae, Noh & Sutherland 2024 (ECCV, arXiv 2407.12212)
G is the pool, or a uniform sample of `ground` examples. optimiser = stochastic: each pick is the best of a random
sample of (N / B) ln(1 / epsilon) examples (Mirzasoleiman et al. 2015, AAAI): for pools of a million.
Memory O((N + M) D); time O(N (M + G log B) D), stochastic O(N (M + G log(1 / epsilon)) D), and then O((N + G) D) a
pick. score: the gain in C.
"""

from typing import Annotated, Literal

from allround.kernels.products import unit
from allround.kernels.similarities import RBF
from allround.strategies.facility_location import cover

NEEDS = {"outputs"}


def select(
    pool,
    budget,
    rng,
    *,
    width: Annotated[float, "> 0"] = 1.0,
    optimiser: Literal["lazy", "stochastic"] = "lazy",
    epsilon: Annotated[float, "> 0 and < 1"] = 0.1,
    ground: Annotated[int, ">= 0"] = 0,
):
    features, labelled = unit(pool.features), unit(pool.labelled_features)  # (n, d), (m, d)
    kernel = RBF(width)
    return pool.picks(*cover(pool, budget, rng, features, labelled, kernel, optimiser, epsilon, ground))
