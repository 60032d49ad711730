"""TypiClust: the most typical example of each cluster that has the fewest labels; made for the first few labels.

k-means of all features, labelled ones included, into min(M + budget, max_clusters) clusters; again and again the
cluster with the fewest labelled and picked examples, of those the largest, and in it
    argmax over x of typicality(x) = 1 / (mean distance to its nearest neighbours among what is left of its cluster)
Clusters under min_size come after all others.          Hacohen, Dekel & Weinshall 2022 (ICML, arXiv 2202.02794)
Draws its seeds. Memory O(N (D + neighbours)); time O(N K D) an iteration for K clusters, then O(D) times the sum of
their squared sizes. score: the typicality.
"""

from typing import Annotated

import numpy as np
import torch

from allround.kernels.clusters import k_means
from allround.kernels.neighbours import nearest_within

NEEDS = {"outputs"}
SPARE = 32  # neighbours kept beyond those asked for: so many picks of a cluster before they are searched anew


def select(
    pool,
    budget,
    rng,
    *,
    max_clusters: Annotated[int, ">= 1"] = 500,
    neighbours: Annotated[int, ">= 1"] = 20,
    min_size: Annotated[int, ">= 0"] = 5,
):
    features = torch.cat([pool.features, pool.labelled_features])  # (N, d)
    k = min(max_clusters, budget + len(pool.labelled))
    cluster = k_means(features, k, rng)[1]
    cluster, labelled = cluster[: len(pool)], cluster[len(pool) :]
    counts = [torch.bincount(part, minlength=k).cpu().numpy() for part in (cluster, labelled)]
    turns, visits = schedule(*counts, budget, min_size)
    chosen, typicality = most_typical(pool.features, cluster, np.bincount(turns, minlength=k), neighbours)
    turns, visits = (torch.from_numpy(part).to(cluster.device) for part in (turns, visits))
    return pool.picks(chosen[visits, turns], typicality[visits, turns])


def schedule(members: np.ndarray, labelled: np.ndarray, budget: int, min_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which cluster every pick comes from, (budget,), and how many picks came from it before, (budget,)."""
    turn = np.repeat(np.arange(len(members)), members)  # one for every unlabelled example
    visit = np.arange(len(turn)) - (np.cumsum(members) - members)[turn]
    size = (members + labelled)[turn]
    order = np.lexsort((turn, -size, labelled[turn] + visit, size < min_size))[:budget]
    return turn[order], visit[order]


def most_typical(
    vectors: torch.Tensor, cluster: torch.Tensor, picks: np.ndarray, neighbours: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The most typical rows of every cluster, one after the other, each judged among those not picked before.

    picks: (k,) how many of each. Returns rows and typicalities, (largest of picks, k); ties to the lower row.
    """
    n, k, device = len(vectors), len(picks), vectors.device
    rows = torch.zeros(int(picks.max()), k, dtype=torch.int64, device=device)
    scores = torch.zeros(rows.shape, device=device)
    wanted, left = torch.from_numpy(picks).to(device), torch.ones(n + 1, dtype=torch.bool, device=device)
    left[n] = False  # row n stands for nobody
    position = torch.arange(n, device=device)
    for visit in range(len(rows)):
        if visit % SPARE == 0:
            asked = left[:n] & (wanted > visit)[cluster]
            width = neighbours + min(SPARE, len(rows) - visit) - 1
            distances, near = nearest_within(vectors, torch.where(asked, cluster, -1), width)
            near.masked_fill_(distances.sqrt_() == torch.inf, n)
        there = left[near]  # (n, width)
        there &= there.cumsum(1, dtype=torch.int32) <= neighbours  # the nearest of those that are left
        mean = torch.where(there, distances, 0.0).sum(1) / there.sum(1)  # NaN where nobody is left
        typicality = torch.where(left[:n] & asked, (1 / (mean + 1e-5)).nan_to_num(0.0), -1.0)
        best = torch.full((k,), -1.0, device=device).scatter_reduce_(0, cluster, typicality, "amax")
        candidates = torch.where(typicality == best[cluster], position, n)
        row = torch.full((k,), n, device=device).scatter_reduce_(0, cluster, candidates, "amin")
        rows[visit], scores[visit] = row.where(wanted > visit, 0), best
        left[row[wanted > visit]] = False
    return rows, scores
