"""GradMatch: the batch whose gradient is that of the whole pool, or of a validation set.

omp:   minimise |sum over i in S of w_i g_i - T|^2 + ridge |w|^2, w >= 0, |S| = B, by orthogonal matching pursuit: next
       the largest <g, R>, R = T - sum w_i g_i with all weights fitted anew
fixed: minimise |sum over i in S of g_i - B T|^2 greedily
                                                        Killamsetty et al. 2021 (ICML, arXiv 2103.00123)
g(x) = q [h, 1]^T, q = softmax(z) - onehot(argmax z): the gradient in the last layer, were the predicted class the
label. T: the mean g of the pool, or of the validation set under its labels. g is kept as its factors, R as a matrix.
Once nothing points along R (at most as many picks as T has dimensions), omp takes what points along T most.
Memory O(N (D + C) + C D), and B^2 for omp; time a pick: omp N C D + B C D + B^2, fixed N (C + D).
score: omp <g, R>, fixed the fall of the squared distance.
"""

from typing import Annotated, Literal

import torch

from allround.kernels.matching_pursuit import fixed_weights, mean_gradient, orthogonal
from allround.kernels.products import residuals

NEEDS = {"outputs": None, "validation": {"target": ["validation"]}}


def select(
    pool,
    budget,
    rng,
    *,
    weights: Literal["omp", "fixed"] = "omp",
    target: Literal["pool", "validation"] = "pool",
    ridge: Annotated[float, ">= 0"] = 0.0,
):
    q, h = pool.map(residuals, "probabilities"), pool.features  # (n, c), (n, d)
    if target == "pool":
        aim = mean_gradient(q, h)  # (c, d + 1)
    else:
        truth = torch.from_numpy(pool.set_labels("validation")).to(pool.device)
        aim = mean_gradient(residuals(pool.of("validation", "probabilities"), truth), pool.of("validation", "features"))
    if weights == "fixed":
        rows, scores = fixed_weights(q, h, budget * aim, budget)
    else:
        rows, scores = orthogonal(q, h, aim, budget, ridge)
    return pool.picks(rows, scores)
