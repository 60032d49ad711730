"""BAIT: the batch after which the last layer's weights are known best where the pool needs them.

minimise tr(M^-1 F), M = ridge I + (sum over labelled I(x) + B sum over the batch I(x)) / (m + B), F = the mean of I(x)
over the pool and the m labelled; greedily 2 B are added, then B taken away
                                                        Ash et al. 2021 (NeurIPS, arXiv 2106.09675)
I(x) = J (x) h h^T: the Fisher information of the last layer's weights, with p = softmax(z),
categorical  J = sum over the `classes` most likely y of p_y (e_y - p) (e_y - p)^T, these p_y made to sum to 1; with all
             classes (null) exactly the paper's. M has C D rows
binary       J = p_y1 (1 - p_y1), of the question "is it y1?". M has D rows
                                                        both: Huseljic et al. 2024 (ECML PKDD, arXiv 2404.08981)
Memory O(N (D + C + r^2) + R^2) with R = D, r = 1 (binary) or R = C D, r = `classes`; time O(N R^2 + R^3), then for each
of 3 B moves O(N r R + r R^2). score: by how much the example lowered the trace when it was added.
"""

from typing import Annotated, Literal

import torch

from allround.errors import AllroundError
from allround.kernels.fisher import exchange, information

NEEDS = {"outputs"}
LARGEST = 1 << 14  # rows of M, of which four copies in float64 take 9 GB


def select(
    pool,
    budget,
    rng,
    *,
    likelihood: Literal["binary", "categorical"] = "binary",
    classes: Annotated[int | None, ">= 1"] = None,
    ridge: Annotated[float, "> 0"] = 1.0,
):
    c, d = pool.n_classes, pool.take("features", torch.zeros(1, dtype=torch.int64)).shape[1]
    if likelihood == "categorical" and c * d > LARGEST:
        raise AllroundError(
            f"bait: likelihood categorical needs a matrix of {c} classes x {d} features = {c * d} rows; allowed: "
            f"{LARGEST}. Use likelihood: binary ({d} rows)."
        )
    make, field = (deviation, binary) if likelihood == "binary" else (categorical(min(classes or c, c)), torch.clone)
    sources, h, m = pool.map(field, "probabilities"), pool.features, len(pool.labelled)  # (n, 1) or (n, c), (n, d)
    known = information((make, field(pool.labelled_probabilities), pool.labelled_features))  # (R, R)
    needed = (known + information((make, sources, h))) / (m + len(pool))
    ridges = ridge * torch.eye(len(known), dtype=known.dtype, device=known.device)
    factor, failed = torch.linalg.cholesky_ex(known / (m + budget) + ridges)
    if failed:
        raise AllroundError(f"bait: ridge {ridge} is lost beside features of this size; raise ridge.")
    a = torch.cholesky_inverse(factor)
    b = a @ needed @ a

    def scaled(sources):
        return make(sources) * (budget / (m + budget)) ** 0.5

    rows, scores = exchange((scaled, sources, h), a, b, min(2 * budget, len(pool)), 1)
    out, _ = exchange((scaled, sources[rows], h[rows]), a, b, len(rows) - budget, -1)
    kept = torch.ones(len(rows), dtype=torch.bool, device=rows.device).index_fill(0, out, False)
    return pool.picks(rows[kept], scores[kept])


def binary(p):  # (b, c) -> (b, 1)
    others = p.scatter(1, p.argmax(1, keepdim=True), 0.0).sum(1)  # 1 - p would round to 0
    return (p.amax(1) * others)[:, None]


def deviation(variance):  # (b, 1) -> (b, 1, 1)
    return variance.sqrt()[:, :, None]


def categorical(k):  # k: classes in the expectation
    def make(p):  # (b, c) -> (b, c, k)
        top, y = p.topk(k, 1)  # (b, k)
        first = y[:, :1]  # (b, 1)
        u = torch.nn.functional.one_hot(y, p.shape[1]).mT - p[:, :, None]  # (b, c, k)
        others = p.scatter(1, first, 0.0).sum(1, keepdim=True)
        u[:, :, 0] = u[:, :, 0].scatter(1, first, others)  # 1 - p would round to 0
        return u * (top / top.sum(1, keepdim=True)).sqrt()[:, None, :]

    return make
