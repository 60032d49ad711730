"""Stochastic batches: examples are drawn ~ a power of their score, because the top ones resemble each other.

p(next = x) ~ w(x) among those left; with r = 1 for the largest score, 2 for the next, ...
power: w = score^beta    softmax: w = exp(beta score)    softrank: w = r^-beta
                                                        Kirsch et al. 2023 (TMLR, arXiv 2106.12059)
Drawn at once as the largest log w + Gumbel noise. Scores are larger for the more uncertain: entropy, 1 - margin, 1 -
largest probability, or BALD. An example with a score of 0 has its turn after all others (power).
Memory O(N); time O(N C), or O(N T C) for bald. score: log w + noise.
"""

from typing import Annotated, Literal

import torch

from allround.strategies.bald import information
from allround.strategies.entropy import entropy
from allround.strategies.least_confidence import confidence
from allround.strategies.margin import margin

NEEDS = {"predictions": {"score": ["entropy", "margin", "least_confidence"]}, "samples": {"score": ["bald"]}}
SCORES = {
    "entropy": (entropy, "probabilities"),
    "margin": (lambda p: 1 - margin(p), "probabilities"),
    "least_confidence": (lambda p: 1 - confidence(p), "probabilities"),
    "bald": (information, "mc_logits"),
}
LEAST = 1e-300  # stands for a score of 0, or below it by rounding: of finite logarithm, after all others


def select(
    pool,
    budget,
    rng,
    *,
    score: Literal["entropy", "margin", "least_confidence", "bald"] = "bald",
    beta: Annotated[float, ">= 0"] = 1.0,
    form: Literal["power", "softmax", "softrank"] = "power",
):
    scores = pool.map(*SCORES[score]).double()  # (n,)
    if form == "power":
        weights = scores.clamp(min=LEAST).log()
    elif form == "softmax":
        weights = scores
    else:
        ranks = torch.arange(1, len(scores) + 1, dtype=torch.float64, device=scores.device)
        weights = torch.empty_like(scores).index_copy_(
            0, scores.sort(descending=True, stable=True).indices, -ranks.log()
        )
    noise = torch.from_numpy(rng.gumbel(size=len(scores))).to(scores.device)
    return pool.greatest(beta * weights + noise, budget)
