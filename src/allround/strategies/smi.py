"""SIMILAR, mutual information: examples of the kind that a query set shows (rare classes, failures, a target domain).

I(S; Q) for a query set Q, greedily                     Kothawade et al. 2021 (NeurIPS, arXiv 2107.00717)
    fl2mi     sum over Q of max over S of s+ + eta sum over S of max over Q of s+    (their FLQMI: relevance, diversity)
    fl1mi     sum over V of min(max over S of s+, eta max over Q of s+)              (their FLVMI; V: the pool)
    gcmi      sum over S, Q of s                                                     (relevance alone)
    logdetmi  log det L_S - log det(L_S - eta^2 s_SQ L_Q^-1 s_QS),  L = s + regularisation I
    com       eta sum over S of psi(sum over Q of s+) + sum over Q of psi(sum over S of s+), psi = `concave`
s = cosine of the features, or of the last layer's gradients q h^T: under the predicted label for the pool, under the
true one for Q, so that a class is looked for where the model misses it. s+ = max(0, s). Q is no part of V.
fl1mi saturates: once no example gains anything, those most like Q are taken.
Memory O(N (D + C + |Q|)), fl1mi without |Q|; logdetmi up to N (D + C + |Q| + B) for gradients, N D + D^2 for features.
Time O(N (D + C + |Q|)) a pick, fl1mi as facility_location. score: the gain in I.
"""

from typing import Annotated, Literal

import torch

from allround.kernels.facility_location import best_similarity
from allround.kernels.log_determinant import log_determinant
from allround.kernels.products import residuals, unit
from allround.kernels.set_functions import (
    concave_over_modular,
    covering,
    query_coverage,
    similarities,
    total_similarity,
)

NEEDS = {"outputs", "query"}


def select(
    pool,
    budget,
    rng,
    *,
    function: Literal["fl2mi", "fl1mi", "gcmi", "logdetmi", "com"] = "fl2mi",
    similarity: Literal["gradients", "features"] = "gradients",
    eta: Annotated[float, "> 0"] = 1.0,
    concave: Literal["log", "sqrt", "inverse"] = "log",
    regularisation: Annotated[float, ">= 0.0001"] = 1.0,
):
    factors, query = examples(pool, similarity), members(pool, "query", similarity)
    if function == "fl1mi":
        upper = eta * best_similarity(factors, query)  # (n,)
        rows, gains = covering(factors, budget, upper, upper=upper)
    elif function == "logdetmi":
        rows, gains = log_determinant(factors, budget, regularisation=regularisation, against=((query, eta),))
    elif function == "gcmi":
        return pool.greatest(total_similarity(unit(*factors), unit(*query)), budget)
    else:
        near = similarities(unit(*factors), unit(*query)).clamp_(min=0)  # (n, q)
        run = (near, budget, eta)
        rows, gains = query_coverage(*run) if function == "fl2mi" else concave_over_modular(*run, concave)
    return pool.picks(rows, gains)


def examples(pool, similarity):
    """What the unlabelled examples are compared by, as factors: (n, d), and (n, c) with similarity 'gradients'."""
    if similarity == "features":
        return (pool.features,)
    return pool.features, pool.map(residuals, "probabilities")


def members(pool, name, similarity):
    """The same for the examples of a set, under their true labels."""
    features = pool.of(name, "features")  # (s, d)
    if similarity == "features":
        return (features,)
    labels = torch.from_numpy(pool.set_labels(name)).to(pool.device)  # (s,)
    return features, residuals(pool.of(name, "probabilities"), labels)
