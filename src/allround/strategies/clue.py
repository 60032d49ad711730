"""CLUE (clustering uncertainty-weighted embeddings): representatives of regions where the model is uncertain.

k-means with `budget` centres mu, minimising sum over x of H(x) |h(x) - mu|^2, h the features, H the entropy of
softmax(z / temperature); x_b = argmin over x not picked of |h(x) - mu_b|, the heaviest cluster first
                                                        Prabhu et al. 2021 (ICCV, arXiv 2010.08666)
Where all entropies are 0, all weights are 1. Draws its seeds.
Memory O(N D); time O(N B D) an iteration. score: minus the distance to the centre.
"""

from typing import Annotated

import torch

from allround.kernels.clusters import k_means, totals
from allround.kernels.neighbours import nearest_distinct
from allround.strategies.entropy import entropy

NEEDS = {"outputs"}


def select(
    pool,
    budget,
    rng,
    *,
    temperature: Annotated[float, "> 0"] = 1.0,
    iterations: Annotated[int, ">= 1"] = 10,
):
    weights = pool.map(lambda logits: entropy((logits / temperature).softmax(1)), "logits").clamp(min=0)  # (n,)
    if not bool(weights.any()):
        weights = torch.ones_like(weights)
    centres, cluster = k_means(pool.features, budget, rng, weights=weights, iterations=iterations)
    order = totals(weights[:, None], cluster, budget)[:, 0].sort(stable=True, descending=True).indices
    rows, distances = nearest_distinct(centres[order], pool.features)
    return pool.picks(rows, -distances.sqrt())
