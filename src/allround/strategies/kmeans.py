"""k-means sampling: one representative of each of `budget` clusters of the pool.

x_b = argmin over x not picked of |h(x) - mu_b|, b = 1 .. budget, mu the centres of k-means of the features h, largest
cluster first                                           Bodó, Minier & Csató 2011 (JMLR W&CP 16); Zhdanov 2019 (arXiv
1901.05954), without its weights
Draws its seeds. Memory O(N D); time O(N B D) an iteration. score: minus the distance to the centre.
"""

from typing import Annotated

import torch

from allround.kernels.clusters import k_means
from allround.kernels.neighbours import nearest_distinct

NEEDS = {"outputs"}


def select(pool, budget, rng, *, iterations: Annotated[int, ">= 1"] = 10):
    centres, cluster = k_means(pool.features, budget, rng, iterations=iterations)
    sizes = torch.bincount(cluster, minlength=budget)
    order = sizes.sort(stable=True, descending=True).indices
    rows, distances = nearest_distinct(centres[order], pool.features)
    return pool.picks(rows, -distances.sqrt())
