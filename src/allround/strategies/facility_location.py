"""Facility location: representatives of the pool, beside those that the labelled set has already.

f(S) = sum over x in G of max over c in S, or labelled, of s(x, c), maximised greedily; s = max(0, cosine) of the
features, or of the last layer's gradients under hypothesised labels, (softmax(z) - onehot(argmax z)) h^T
                              Mirchandani & Francis 1990; Wei, Iyer & Bilmes 2015 (ICML); greedy: Nemhauser et al. 1978
G is the pool, or a uniform sample of `ground` examples. given = labelled is the conditional gain of SIMILAR (Kothawade
et al. 2021, arXiv 2107.00717), given = nothing what DISTIL does: the labelled set is not looked at.
optimiser = stochastic: each pick is the best of a random sample of (N / B) ln(1 / epsilon) examples (Mirzasoleiman et
al. 2015, AAAI): for pools of a million.
Memory O((N + M) (D + C)); time O(N (M + G log B) (D + C)), stochastic O(N (M + G log(1 / epsilon)) (D + C)), and then
O((N + G) D) a pick. score: the gain in f.
"""

from typing import Annotated, Literal

import torch

from allround.kernels import facility_location as kernel
from allround.kernels.products import residuals

NEEDS = {"outputs"}


def select(
    pool,
    budget,
    rng,
    *,
    similarity: Literal["features", "gradients"] = "features",
    given: Literal["labelled", "nothing"] = "labelled",
    optimiser: Literal["lazy", "stochastic"] = "lazy",
    epsilon: Annotated[float, "> 0 and < 1"] = 0.1,
    ground: Annotated[int, ">= 0"] = 0,
):
    factors, labelled = (pool.features,), (pool.labelled_features,)  # (n, d), (m, d)
    if similarity == "gradients":
        factors += (pool.map(residuals, "probabilities"),)  # (n, c)
        labelled += (residuals(pool.labelled_probabilities),)  # (m, c)
    labelled = labelled if given == "labelled" else ()
    return pool.picks(*cover(pool, budget, rng, factors, labelled, "cosine", optimiser, epsilon, ground))


def cover(pool, budget, rng, factors, labelled, similarity, optimiser, epsilon, ground, weights=None):
    """Greedy coverage of the pool or of a sample of it, beyond what the labelled set covers; weights: (n,) or None.

    Returns rows (b,) and gains (b,).
    """
    over, order = factors, None
    if weights is not None:  # of examples with equal features, which cover the same, the one with the largest weight
        order = weights.sort(descending=True, stable=True).indices
    if 0 < ground < len(pool):
        sample = torch.from_numpy(rng.choice(len(pool), ground, replace=False)).to(pool.device)
        over = tuple(factor[sample] for factor in factors)
        weights = None if weights is None else weights[sample]
    return kernel.facility_location(
        factors,
        budget,
        similarity=similarity,
        lower=kernel.best_similarity(over, labelled, similarity) if labelled else None,
        weights=weights,
        ground=over,
        candidates=order,
        optimiser=optimiser,
        draws=kernel.sample_draws(len(pool), budget, epsilon, rng) if optimiser == "stochastic" else None,
    )
