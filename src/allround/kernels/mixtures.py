"""Mixtures of the draws of a posterior: what an outcome seen elsewhere says about the labels of many examples.

An outcome s (labels of other examples) re-weights the draws: w_st = p(t | s). The prediction for example i is then
sum_t w_st p_t(y | i), and its expected entropy over outcomes H(y_i | s) is what BatchBALD and EPIG are made of.
batchbald_redux and baal compute joint entropies instead, from products of probabilities, which underflow in large
batches, and whose differences lose digits; conditional entropies do neither.
"""

from __future__ import annotations

import torch
from torch import Tensor

from allround.kernels.products import TINY

SPACE = {"cpu": 1 << 18, "cuda": 1 << 24}  # numbers in a temporary: on a CPU, what its cache holds


def expected_entropy(weights: Tensor, mass: Tensor, draws: Tensor) -> Tensor:
    """sum over s of mass_s H(sum over t of weights_st draws_t), (b,) in nats.

    weights: (s, t), rows sum to 1; mass: (s,) sums to 1; draws: (t, b, c) class probabilities of every draw
    Memory of a temporary SPACE; time O(b s t c), and b s c logarithms.
    """
    t, b, c = draws.shape
    space = SPACE[draws.device.type]
    height = min(len(weights), max(1, space // min(space, 64 * c)))  # outcomes at once
    width = max(1, space // (height * c))  # examples at once
    one, two = torch.empty(2, height * min(width, b) * c, device=draws.device)
    out = torch.zeros(b, device=draws.device)
    for first in range(0, b, width):
        some = draws[:, first : first + width].reshape(t, -1)  # (t, w c)
        for start in range(0, len(weights), height):
            rows = weights[start : start + height]  # (h, t)
            shape = len(rows), some.shape[1]
            mixed, logs = (memory[: shape[0] * shape[1]].view(shape) for memory in (one, two))
            torch.mm(rows, some, out=mixed)
            torch.clamp(mixed, min=TINY, out=logs).log_().mul_(mixed)  # 0 log 0 = 0
            out[first : first + width] -= (mass[start : start + height] @ logs).view(-1, c).sum(1)
    return out
