"""Uncertainty herding: MaxHerding of the examples that the model is unsure of.

C(S) = sum over x in G of U(x) max over c in S, or labelled, of k(x, c), maximised greedily; U = 1 - (p(y1) - p(y2)) of
p = softmax(z / T), or the entropy, or 1 - p(y1); k(x, c) = exp(-|x - c|^2 / width^2) of features of length 1
                              Bae, Oliveira & Sutherland 2025 (ICLR, arXiv 2412.20644)
width = null is the paper's rule: the least distance above 0 between two labelled examples (1 where there is none), so
that more labels lead from coverage to uncertainty. T has the least calibration error (15 bins) of 49 temperatures from
0.1 to 10, with calibration = validation on that set. The paper trains one more network on a part of the labelled set
for this; a network has fitted all that it was trained on, so that calibration = labelled looks at temperatures of 1 or
more only, and calibration = none leaves T = 1. Without labels, or where the model is sure of all, U is 1.
G, optimiser, epsilon: as in max_herding.
Memory O(N (D + C) + M D); time O((N + M) M D + N G log(B) D), and then O((N + G) D) a pick. score: the gain in C.
"""

from typing import Annotated, Literal

import torch
from torch.nn.functional import one_hot

from allround.kernels.products import unit
from allround.kernels.similarities import RBF, least_distance
from allround.strategies.entropy import entropy
from allround.strategies.facility_location import cover
from allround.strategies.least_confidence import confidence
from allround.strategies.margin import margin

NEEDS = {"outputs": None, "validation": {"calibration": ["validation"]}}
TEMPERATURES = torch.logspace(-1, 1, 49, dtype=torch.float64)
BINS = 15


def select(
    pool,
    budget,
    rng,
    *,
    uncertainty: Literal["margin", "entropy", "least_confidence"] = "margin",
    calibration: Literal["labelled", "validation", "none"] = "labelled",
    width: Annotated[float | None, "> 0"] = None,
    optimiser: Literal["lazy", "stochastic"] = "lazy",
    epsilon: Annotated[float, "> 0 and < 1"] = 0.1,
    ground: Annotated[int, ">= 0"] = 0,
):
    unsure = {"margin": lambda p: 1 - margin(p), "entropy": entropy, "least_confidence": lambda p: 1 - confidence(p)}
    features, labelled = unit(pool.features), unit(pool.labelled_features)  # (n, d), (m, d)
    weights = None
    if len(pool.labelled):
        t = 1.0
        if calibration == "validation":
            t = temperature(pool.of("validation", "logits"), pool.set_labels("validation"), TEMPERATURES)
        elif calibration == "labelled" and pool.labels is not None:
            t = temperature(pool.labelled_logits, pool.labels, TEMPERATURES[TEMPERATURES > 1 - 1e-9])
        weights = pool.map(lambda z: unsure[uncertainty]((z / t).softmax(1)), "logits").clamp(min=0)  # (n,)
        weights = weights if bool((weights > 0).any()) else None
    kernel = RBF(width or least_distance(labelled) or 1.0)
    return pool.picks(*cover(pool, budget, rng, features, labelled, kernel, optimiser, epsilon, ground, weights))


def temperature(logits, labels, temperatures):
    """The temperature with the least expected calibration error; of equals, the one nearest to 1."""
    correct = logits.argmax(1) == torch.from_numpy(labels).to(logits.device)  # (s,)
    order = temperatures.log().abs().sort(stable=True).indices
    errors = [calibration_error((logits / t).softmax(1).amax(1), correct) for t in temperatures[order].tolist()]
    return float(temperatures[order][int(torch.stack(errors).argmin())])


def calibration_error(confidences, correct):  # (s,), (s,) -> ()
    """sum over bins of the confidence of |what is correct - what was expected to be| / s (Naeini et al. 2015)"""
    place = (confidences * BINS).ceil().long().clamp(1, BINS) - 1  # bins are closed on the right
    gap = correct.double() - confidences.double()
    return (gap @ one_hot(place, BINS).double()).abs().sum() / len(gap)
