"""Adversarial DeepFool: the examples nearest to the decision boundary, as DeepFool finds it.

Until the prediction y changes: r += |f_k| / |w_k|^2 w_k, f_k = z_k - z_y and w_k its gradient at x' = x + (1 +
overshoot) r, for the k with the least |f_k| / |w_k|: the way to the nearest boundary, were the model linear
                                                        Moosavi-Dezfooli et al. 2016 (CVPR, arXiv 1511.04599)
As a query: Ducoffe & Precioso 2018 (arXiv 1802.09841). k: the `classes` most likely at x (null: all), as the authors of
DeepFool do. Pixels stay within 0..255, and those at an end that w leads out of have no share in w. score = |x' - x|
(L2, pixels as 0..1), smallest first; what has not changed after `steps` comes last, by its margin, with scores above
all others. Memory O(N) and one block of images through the model; time: two passes forward and `classes` back a step,
for those left.
"""

from typing import Annotated

import torch

from allround.kernels.adversarial import nearest_first, until_flipped

NEEDS = {"model", "images"}
TINY = 1e-30  # a gradient of 0 leads nowhere, not to infinity


def select(
    pool,
    budget,
    rng,
    *,
    steps: Annotated[int, ">= 1"] = 50,
    overshoot: Annotated[float, ">= 0"] = 0.02,
    classes: Annotated[int | None, ">= 2"] = 10,
):
    def move(logits, ranking, gradient):  # (b, c), (b, k) -> (b, channels, h, w)
        top = logits.gather(1, ranking)  # (b, k)
        best = step = None
        for other in range(1, top.shape[1]):
            gap = top[:, other] - top[:, 0]  # (b,)
            w = gradient(gap.sum())  # (b, channels, h, w)
            square = w.flatten(1).square().sum(1).clamp(min=TINY)  # (b,)
            distance = gap.detach().abs() / square.sqrt()
            way = (distance / square.sqrt())[:, None, None, None] * w
            nearer = torch.ones_like(distance, dtype=torch.bool) if best is None else distance < best
            best = distance if best is None else torch.where(nearer, distance, best)
            step = way if step is None else torch.where(nearer[:, None, None, None], way, step)
        return step

    def attack(images):  # (b, channels, h, w) -> (b, 2)
        how = {"steps": steps, "overshoot": overshoot, "classes": classes or pool.model.head.out_features}
        return until_flipped(pool.model, images, pool.image_range(), move, **how)

    return pool.least(nearest_first(pool.map(attack, "images")), budget)
