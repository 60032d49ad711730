"""FASS (filtered active submodular selection): representatives of the most uncertain examples.

U = the beta * budget most uncertain examples; greedily maximise f(S) = sum over i in U of max over j in S of s(i, j)
                                                        Wei, Iyer & Bilmes 2015 (ICML)
s = max(0, cosine) of the features, or of the last layer's gradients under hypothesised labels, (softmax(z) -
onehot(argmax z)) h^T, which sets predicted classes apart as the paper's f does; kept as factors.
Memory O(N + U (D + C)); time O(N C + U^2 (D + C) log B), U = beta * budget.
score: the gain in f.
"""

from typing import Annotated, Literal

from allround.kernels.facility_location import facility_location
from allround.kernels.products import residuals
from allround.strategies.entropy import entropy
from allround.strategies.least_confidence import confidence
from allround.strategies.margin import margin

NEEDS = {"outputs"}


def select(
    pool,
    budget,
    rng,
    *,
    beta: Annotated[int, ">= 1"] = 5,
    uncertainty: Literal["entropy", "margin", "least_confidence"] = "entropy",
    similarity: Literal["features", "gradients"] = "features",
):
    score = {"entropy": lambda p: -entropy(p), "margin": margin, "least_confidence": confidence}[uncertainty]
    certainty = pool.map(score, "probabilities")  # (n,)
    candidates = certainty.sort(stable=True).indices[: beta * budget]  # (u,) rows, ties to the lower
    factors = [pool.take("features", candidates)]  # (u, d)
    if similarity == "gradients":
        factors.append(residuals(pool.take("probabilities", candidates)))  # (u, c)
    rows, gains = facility_location(tuple(factors), budget)
    return pool.picks(candidates[rows], gains)
