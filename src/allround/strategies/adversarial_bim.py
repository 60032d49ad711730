"""Adversarial BIM: the examples that the basic iterative method moves to another class by the smallest perturbation.

x' = clip(x' + step_size / 255 * sign(grad of the loss of the predicted class)) until the prediction changes
                                                        Kurakin, Goodfellow & Bengio 2017 (arXiv 1607.02533)
As a query: Ducoffe & Precioso 2018 (arXiv 1802.09841). score = |x' - x| (L2, pixels as 0..1), smallest first, plus
step_size / 255 * margin of x, less than one step is long: it orders the many that take equally many steps. What has not
changed after `steps` comes last, by its margin, with scores above all others.
The loss is log(sum over other classes of exp z) - z_y, of which cross-entropy is an increasing function: the same
signs, also where the model is so sure that the gradient of cross-entropy rounds to 0.
Memory O(N) and one block of images through the model; time: two passes forward and one back a step, for those left.
"""

from typing import Annotated

import torch

from allround.kernels.adversarial import nearest_first, until_flipped

NEEDS = {"model", "images"}


def select(pool, budget, rng, *, step_size: Annotated[float, "> 0"] = 1.0, steps: Annotated[int, ">= 1"] = 100):
    def move(logits, ranking, gradient):  # (b, c), (b, 1) -> (b, channels, h, w)
        others = logits.scatter(1, ranking, -torch.inf).logsumexp(1)  # (b,)
        return step_size / 255 * gradient((others - logits.gather(1, ranking)[:, 0]).sum()).sign()

    def attack(images):  # (b, channels, h, w) -> (b, 2)
        return until_flipped(pool.model, images, pool.image_range(), move, steps=steps)

    found = pool.map(attack, "images")  # (n, 2) distance and margin
    found[:, 0] += step_size / 255 * found[:, 1]
    return pool.least(nearest_first(found), budget)
