"""CAL (contrastive active learning): examples that the model sees unlike their labelled neighbours.

score(x) = mean over the k labelled l nearest to x in features of KL(p(. | l) || p(. | x)), largest first
                                                        Margatina et al. 2021 (EMNLP, arXiv 2109.03764)
log p comes from the logits, so that no probability has to be clipped. With nothing labelled, all scores are 0.
Memory O(N (D + C + k)); time O(N M D + N k C).
"""

from typing import Annotated

import torch

from allround.kernels.neighbours import mean_of_nearest
from allround.strategies.entropy import entropy

NEEDS = {"outputs"}


def select(pool, budget, rng, *, neighbours: Annotated[int, ">= 1"] = 10):
    scores = torch.zeros(len(pool), device=pool.device)
    if len(pool.labelled):
        there = pool.labelled_probabilities  # (m, c)
        values = torch.cat([there, -entropy(there)[:, None]], 1)  # KL(p || p_x) = -H(p) - p . log p_x
        mean = mean_of_nearest(pool.features, pool.labelled_features, neighbours, values)  # (n, c + 1)
        scores = mean[:, -1] - (mean[:, :-1] * pool.logits.log_softmax(1)).sum(1)
    return pool.greatest(scores, budget)
