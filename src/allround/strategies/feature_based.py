"""Feature-based coverage: every feature is strong somewhere in the batch, with diminishing returns.

f(S) = sum over features f of psi(sum over j in S of x_jf), psi = log(1 + t), sqrt(t) or 1 - 1 / (1 + t), greedily
                                                        Kirchhoff & Bilmes 2014 (EMNLP); Wei et al. 2014 (ICASSP)
x is each feature scaled to 0..1 over the pool; a feature that is the same everywhere counts 0.
Memory O(N D); time O(N D), again whenever the list of the 16th with the best bounds is renewed, and a 16th of that for
a pick (lazy greedy, exact). score: the gain in f.
"""

from typing import Literal

import torch

from allround.kernels.set_functions import concave_coverage

NEEDS = {"outputs"}


def select(pool, budget, rng, *, concave: Literal["log", "sqrt", "inverse"] = "log"):
    low, high = pool.features.amin(0).float(), pool.features.amax(0).float()  # (d,)
    scaled = (pool.features - low).div_(torch.where(high > low, high - low, 1.0))  # (n, d) float32
    rows, gains = concave_coverage(scaled, budget, concave)
    return pool.picks(rows, gains)
