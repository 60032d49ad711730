"""DropQuery: representatives of the examples whose prediction does not survive dropout in the features.

candidates = {x: argmax head(drop(h(x))) differs from argmax head(h(x)) in more than half of `masks` dropouts};
k-means of their features with `budget` centres mu; x_b = argmin over candidates not picked of |h(x) - mu_b|, largest
cluster first                                           Gupte et al. 2024 (TMLR, arXiv 2401.14555)
Too few candidates are filled up with the next most often changed ones. Draws masks and seeds.
Memory O(N D); time O(masks N D C), then O(U B D) an iteration for U candidates. score: the share of dropouts that
change the prediction.
"""

from typing import Annotated

import numpy as np
import torch

from allround.kernels.clusters import k_means
from allround.kernels.neighbours import nearest_distinct

NEEDS = {"outputs", "model"}


def select(
    pool,
    budget,
    rng,
    *,
    masks: Annotated[int, ">= 1"] = 3,
    rate: Annotated[float, "> 0 and < 1"] = 0.75,
    iterations: Annotated[int, ">= 1"] = 10,
):
    head = pool.model.head

    def changes(features):  # (b, d) -> (b,) number of dropouts that change the prediction
        features = features.float()
        label, count = head(features).argmax(1), torch.zeros(len(features), device=features.device)
        scaled = features / (1 - rate)
        for _ in range(masks):
            keep = torch.from_numpy(rng.random(features.shape, dtype=np.float32) >= rate).to(features.device)
            count += head(torch.where(keep, scaled, 0.0)).argmax(1) != label
        return count

    changed = pool.map(changes, "features")  # (n,)
    enough = max(budget, int((changed > masks / 2).sum()))
    candidates = changed.sort(stable=True, descending=True).indices[:enough].sort().values  # (u,) rows
    features = pool.take("features", candidates)
    centres, cluster = k_means(features, budget, rng, iterations=iterations)
    order = torch.bincount(cluster, minlength=budget).sort(stable=True, descending=True).indices
    rows = candidates[nearest_distinct(centres[order], features)[0]]
    return pool.picks(rows, changed[rows] / masks)
