"""EPIG: the examples whose label says most about the predictions for the inputs that matter.

score(x) = E over x* of I(y; y* | x, x*) = H(y | x) - E over (x*, y*) of H(y | x, x*, y*), largest first
                                                        Bickford Smith et al. 2023 (AISTATS, arXiv 2304.08151)
x* are `targets` examples drawn from the whole training set, labelled or not, or from the query set. An outcome y* gives
the draws t of the posterior the weights w_t ~ p_t(y* | x*), and the prediction for x becomes sum_t w_t p_t(y | x): no
joint distribution is formed. All pairs (x*, y*) are used if they are not more than `outcomes`; else so many are drawn
~ p(y* | x*), evenly over x* (systematically, which keeps the estimate unbiased). score in nats.
Memory O(N + targets T C + outcomes T); time O(N outcomes T C).
"""

from typing import Annotated, Literal

import numpy as np
import torch

from allround.kernels.mixtures import expected_entropy
from allround.kernels.products import TINY

NEEDS = {"samples": None, "query": {"target": ["query"]}}


def select(
    pool,
    budget,
    rng,
    *,
    target: Literal["pool", "query"] = "pool",
    targets: Annotated[int, ">= 1"] = 100,
    outcomes: Annotated[int, ">= 1"] = 1000,
):
    weights, mass = _posteriors(_targets(pool, rng, target, targets).softmax(2), outcomes, rng.random())

    def score(logits):  # (t, b, c) -> (b,)
        p = logits.softmax(2)
        return torch.special.entr(p.mean(0)).sum(1) - expected_entropy(weights, mass, p)

    return pool.greatest(pool.map(score, "mc_logits"), budget)


def _targets(pool, rng, target, count):  # -> (t, m, c) logits of the target inputs
    if target == "query":
        logits = pool.of("query", "mc_logits")
        chosen = rng.choice(logits.shape[1], min(count, logits.shape[1]), replace=False)
        return logits[:, torch.from_numpy(np.sort(chosen)).to(logits.device)]
    n, m = len(pool), len(pool.labelled)
    chosen = np.sort(rng.choice(n + m, min(count, n + m), replace=False))
    rows, labelled = (torch.from_numpy(part).to(pool.device) for part in (chosen[chosen < n], chosen[chosen >= n] - n))
    if not len(labelled):
        return pool.take("mc_logits", rows)
    return torch.cat([pool.take("mc_logits", rows), pool.labelled_mc_logits[:, labelled]], 1)


def _posteriors(p, outcomes, u):
    """Weights (s, t) of the draws after each outcome (x*, y*), and the outcomes' mass (s,); p: (t, m, c)."""
    weights = p.flatten(1).T  # (m c, t)
    mass = weights.mean(1) / p.shape[1]
    if len(mass) > outcomes:
        upto = mass.double().cpu().cumsum(0)
        u = (torch.arange(outcomes, dtype=torch.float64) + u) / outcomes
        places = torch.searchsorted(upto / upto[-1], u, right=True).clamp_(max=len(mass) - 1)
        counts = torch.bincount(places, minlength=len(mass))
        drawn = counts.nonzero()[:, 0]
        mass = (counts[drawn] / outcomes).float().to(p.device)
        weights = weights[drawn.to(p.device)]
    return (weights / weights.sum(1, keepdim=True).clamp(min=TINY)).contiguous(), mass
