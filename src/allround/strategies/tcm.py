"""TCM: TypiClust while there are few labels, margin sampling from then on.

typiclust while M < per_class * C, else margin          Doucet et al. 2024 (ICLR workshop, arXiv 2403.03728)
`per_class` is to be set early for features that were pre-trained without labels, later for those trained from scratch.
Memory and time: of the one that runs. score: its score.
"""

from typing import Annotated

from allround.strategies import margin, typiclust

NEEDS = {"outputs"}


def select(
    pool,
    budget,
    rng,
    *,
    per_class: Annotated[float, ">= 0"] = 20.0,
    max_clusters: Annotated[int, ">= 1"] = 500,
    neighbours: Annotated[int, ">= 1"] = 20,
    min_size: Annotated[int, ">= 0"] = 5,
):
    if len(pool.labelled) >= per_class * pool.n_classes:
        return margin.select(pool, budget, rng)
    return typiclust.select(pool, budget, rng, max_clusters=max_clusters, neighbours=neighbours, min_size=min_size)
