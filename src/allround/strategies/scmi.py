"""SIMILAR, conditional mutual information: examples like a query set and unlike a private set.

I(S; Q | P), greedily                                   Kothawade et al. 2021 (NeurIPS, arXiv 2107.00717)
    flcmi      sum over V of max(min(max over S of s+, eta max over Q of s+) - nu max over P of s+, 0)
    logdetcmi  log det(S | P) - log det(S | P u Q),  log det(S | X) = log det(L_S - s_SX L_X^-1 s_XS), where
               L = s + regularisation I, and s_SQ is scaled by eta, s_SP by nu
s = cosine of the features, or of the last layer's gradients, as in smi; s+ = max(0, s); V: the unlabelled pool.
Memory O(N (D + C)); logdetcmi up to N (D + C + |Q| + |P| + B) for gradients, N D + D^2 for features. Time: as
facility_location, and as its memory a pick. score: the gain in I.
"""

from typing import Annotated, Literal

import torch

from allround.kernels.facility_location import best_similarity
from allround.kernels.log_determinant import log_determinant
from allround.kernels.set_functions import covering
from allround.strategies.smi import examples, members

NEEDS = {"outputs", "query", "private"}


def select(
    pool,
    budget,
    rng,
    *,
    function: Literal["flcmi", "logdetcmi"] = "flcmi",
    similarity: Literal["gradients", "features"] = "gradients",
    eta: Annotated[float, "> 0"] = 1.0,
    nu: Annotated[float, ">= 0"] = 1.0,
    regularisation: Annotated[float, ">= 0.0001"] = 1.0,
):
    factors = examples(pool, similarity)
    query, private = members(pool, "query", similarity), members(pool, "private", similarity)
    if function == "flcmi":
        lower = nu * best_similarity(factors, private)  # (n,)
        upper = eta * best_similarity(factors, query)
        rows, gains = covering(factors, budget, upper - lower, lower=lower, upper=torch.maximum(upper, lower))
    else:
        given = ((private, nu),)
        against = (*given, (query, eta))
        rows, gains = log_determinant(factors, budget, regularisation=regularisation, given=given, against=against)
    return pool.picks(rows, gains)
