"""SIMILAR, conditional gain: diverse examples that are unlike a private set (out-of-distribution, or labelled already).

f(S | P) for a private set P, greedily                  Kothawade et al. 2021 (NeurIPS, arXiv 2107.00717)
    flcg      sum over V of max(max over S of s+ - nu max over P of s+, 0)           (V: the unlabelled pool)
    gccg      sum over V, S of s - trade_off sum over S, S of s - 2 trade_off nu sum over S, P of s
    logdetcg  log det(L_S - nu^2 s_SP L_P^-1 s_PS),  L = s + regularisation I
s = cosine of the features, or of the last layer's gradients, as in smi; s+ = max(0, s); nu says how hard to stay away.
Memory O(N (D + C)); logdetcg up to N (D + C + |P| + B) for gradients, N D + D^2 for features. Time O(N (D + C)) a pick,
logdetcg as its memory, flcg as facility_location. score: the gain in f.
"""

from typing import Annotated, Literal

from allround.kernels.facility_location import best_similarity
from allround.kernels.log_determinant import log_determinant
from allround.kernels.products import unit
from allround.kernels.set_functions import covering, graph_cut, total_similarity
from allround.strategies.smi import examples, members

NEEDS = {"outputs", "private"}


def select(
    pool,
    budget,
    rng,
    *,
    function: Literal["flcg", "gccg", "logdetcg"] = "flcg",
    similarity: Literal["gradients", "features"] = "gradients",
    nu: Annotated[float, ">= 0"] = 1.0,
    trade_off: Annotated[float, ">= 0"] = 0.4,
    regularisation: Annotated[float, ">= 0.0001"] = 1.0,
):
    factors, private = examples(pool, similarity), members(pool, "private", similarity)
    if function == "flcg":
        lower = nu * best_similarity(factors, private)  # (n,)
        rows, gains = covering(factors, budget, -lower, lower=lower)
    elif function == "gccg":
        penalty = 2 * trade_off * nu * total_similarity(unit(*factors), unit(*private))  # (n,)
        rows, gains = graph_cut(factors, budget, trade_off, penalty)
    else:
        rows, gains = log_determinant(factors, budget, regularisation=regularisation, given=((private, nu),))
    return pool.picks(rows, gains)
