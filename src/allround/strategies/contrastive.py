"""CAL (contrastive active learning): examples that the model sees unlike their labelled neighbours.

score(x) = mean over the k labelled l nearest to x in features of KL(p(. | l) || p(. | x)), largest first
                                                        Margatina et al. 2021 (EMNLP, arXiv 2109.03764)
log p comes from the logits, so that no probability has to be clipped. With nothing labelled, all scores are 0.
Memory O(N (D + C + k)); time O(N M D + N k C).
"""

from typing import Annotated

import torch
from torch.nn.functional import embedding_bag

from allround.kernels.neighbours import blocks, nearest
from allround.strategies.entropy import entropy

NEEDS = {"outputs"}


def select(pool, budget, rng, *, neighbours: Annotated[int, ">= 1"] = 10):
    scores = torch.zeros(len(pool), device=pool.device)
    if len(pool.labelled):
        rows = nearest(pool.features, pool.labelled_features, neighbours)[1]  # (n, k)
        there = pool.labelled_probabilities  # (m, c)
        certainty = -entropy(there)  # (m,)
        for here in blocks(len(pool), pool.n_classes, rows.device):
            mean = embedding_bag(rows[here], there, mode="mean")  # (b, c)
            cross = (mean * pool.logits[here].log_softmax(1)).sum(1)
            scores[here] = certainty[rows[here]].mean(1) - cross
    return pool.greatest(scores, budget)
