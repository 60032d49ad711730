"""Cluster-Margin: the least certain examples, spread over clusters, small clusters first.

U = the `candidates` * budget examples with the smallest p(y1) - p(y2); average-linkage clusters of their features,
about `cluster_size` in each; round robin: a random example of every cluster that has one left, smallest cluster first
                                                        Citovsky et al. 2021 (NeurIPS, arXiv 2107.14263)
Linkage needs all pairs: more than `exact` candidates are first put into that many k-means clusters, whose centres are
then linked. Memory O(U D + exact^2); time O(N C + U exact D + exact^2). score: minus p(y1) - p(y2).
"""

import math
from typing import Annotated

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from allround.kernels.clusters import k_means
from allround.kernels.neighbours import squared
from allround.strategies.margin import margin

NEEDS = {"outputs"}


def select(
    pool,
    budget,
    rng,
    *,
    candidates: Annotated[int, ">= 1"] = 10,
    cluster_size: Annotated[float, ">= 1"] = 10.0,
    exact: Annotated[int, ">= 2"] = 4096,
):
    margins = pool.map(margin, "probabilities")  # (n,)
    rows = margins.sort(stable=True).indices[: candidates * budget]  # (u,)
    clusters = math.ceil(len(rows) / cluster_size)
    if len(rows) <= exact:
        cluster = average_linkage(pool.take("features", rows), clusters)  # (u,)
    else:
        centres, cell = k_means(pool.take("features", rows), exact, rng)
        cluster = average_linkage(centres, min(clusters, exact // 2))[cell.cpu().numpy()]
    turn = round_robin(cluster, rng.random(len(rows)))[:budget]
    rows = rows[torch.from_numpy(turn).to(rows.device)]
    return pool.picks(rows, -margins[rows])


def average_linkage(vectors: torch.Tensor, clusters: int) -> np.ndarray:
    """At most so many clusters of the vectors (n, d), by the mean distance between all pairs: (n,) numbers from 0."""
    if len(vectors) == 1:
        return np.zeros(1, dtype=np.int64)
    vectors = vectors - vectors.mean(0, dtype=torch.float32)
    distances = squared(vectors, vectors)
    condensed = squareform(distances.sqrt_().fill_diagonal_(0).cpu().numpy(), checks=False)
    return fcluster(linkage(condensed, "average"), clusters, "maxclust") - 1


def round_robin(cluster: np.ndarray, order: np.ndarray) -> np.ndarray:
    """All places, (u,): the first of every cluster by `order`, smallest cluster first, then the second of every, ..."""
    sizes = np.bincount(cluster)
    inside = np.lexsort((order, cluster))  # cluster by cluster
    visit = np.empty(len(cluster), dtype=np.int64)
    visit[inside] = np.arange(len(cluster)) - (np.cumsum(sizes) - sizes)[cluster[inside]]
    return np.lexsort((cluster, sizes[cluster], visit))
