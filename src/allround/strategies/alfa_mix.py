"""ALFA-Mix: examples whose prediction flips when a little of a class's typical features is mixed in, one per cluster.

mixed = (1 - a) h + a anchor_y elementwise, anchor_y = mean features of the labelled examples of y (of all, where y has
none); a = eps |anchor_y - h| g / (|g| (anchor_y - h)), which raises the loss most, g = its gradient in h, were the
predicted class the label                                Parvaneh et al. 2022 (CVPR, arXiv 2203.07034)
Hence mixed = h + eps |anchor_y - h| g / |g|: one direction for all y, in which a linear head's logits are linear, so
that x flips for the farthest anchor first and from one eps(x) on: a division instead of a search over classes and eps.
Candidates: eps(x) <= t cap / sqrt(D), t = 1, 2, .. 1 / cap: the first t that gives more than B. k-means with B clusters
of h / |h|, of each the candidate nearest to the centre. Where these are fewer than B, the rest in order of eps(x).
Memory O(N (D + C)); time O(N C (D + C)) and k-means of the candidates. score: 1 / (1 + eps(x)), 0 if x never flips.
"""

import math
from typing import Annotated

import torch

from allround.errors import AllroundError
from allround.kernels.clusters import k_means
from allround.kernels.products import residuals, unit

NEEDS = {"outputs", "model"}


def select(pool, budget, rng, *, cap: Annotated[float, "> 0 and <= 1"] = 0.03125):
    weight, known = pool.model.head.weight.detach().float(), pool.labels  # (c, d), (m,)
    if not len(pool.labelled):
        raise AllroundError("alfa_mix mixes with the labelled set, which is empty here; label a seed set first.")
    if known is None or not 0 <= known.min() <= known.max() < len(weight):
        raise AllroundError(f"alfa_mix: every labelled example needs a label in 0..{len(weight) - 1}; give labels=.")
    products = weight @ weight.T  # (c, c)
    anchors = class_means(pool.labelled_features.float(), torch.from_numpy(known).to(pool.device), len(weight))

    def flips_at(logits, features):  # (b, c), (b, d) -> (b,) the least eps that changes the prediction
        q = residuals(logits.softmax(1))
        q /= q.abs().amax(1, keepdim=True).clamp(min=torch.finfo(q.dtype).tiny)  # g / |g| is not changed by it
        slopes = q @ products  # (b, c) of the logits along g
        length = (slopes * q).sum(1).clamp(min=0).sqrt()  # (b,) |g|
        top = logits.argmax(1, keepdim=True)
        rise = slopes - slopes.gather(1, top)  # (b, c) of every logit over that of the prediction
        gap = logits.gather(1, top) - logits
        far = torch.cdist(features.float(), anchors).amax(1)  # (b,)
        step = torch.where(rise > 0, gap * length[:, None] / rise, torch.inf).amin(1)
        return torch.where(far > 0, step / far, torch.inf).double()

    eps = pool.map(flips_at, "logits", "features")  # (n,)
    order = eps.sort(stable=True).indices
    caps = cap * torch.arange(1, math.ceil(1 / cap) + 1, device=pool.device) / weight.shape[1] ** 0.5
    within = torch.searchsorted(eps[order], caps.double(), right=True)  # (t,) candidates at every cap
    enough = within[within > budget]
    candidates = order[: int(enough[0] if len(enough) else within[-1])].sort().values
    if len(candidates) > budget:
        vectors = unit(pool.take("features", candidates))[0]
        candidates = candidates[nearest(vectors, *k_means(vectors, budget, rng))]
    first = torch.isin(order, candidates)
    rows = torch.cat([order[first], order[~first]])[:budget]
    return pool.picks(rows, 1 / (1 + eps[rows]))


def class_means(features, labels, c):  # (m, d), (m,) -> (c, d)
    sums = torch.nn.functional.one_hot(labels, c).float().T @ features
    count = torch.bincount(labels, minlength=c)[:, None]
    return torch.where(count > 0, sums / count.clamp(min=1), features.mean(0))


def nearest(vectors, centres, assignment):  # (n, d), (k, d), (n,) -> the row of every cluster nearest to its centre
    # In steps of 1e-5: the two of a pair are equally near to their mean, whatever rounding says.
    distance = (vectors - centres[assignment]).norm(dim=1).mul(1e5).round()  # (n,)
    by_distance = distance.sort(stable=True).indices
    order = by_distance[assignment[by_distance].sort(stable=True).indices]  # cluster by cluster, the nearest first
    starts = torch.ones_like(order, dtype=torch.bool)
    starts[1:] = assignment[order][1:] != assignment[order][:-1]
    return order[starts]
