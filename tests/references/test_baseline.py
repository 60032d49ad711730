"""random, uncertainty, core-set, FASS and GLISTER against brute force in float64, written from their papers."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from test_kernels import assert_greedy, cosines, dense_k_centre, kronecker
from test_strategies import arrays, dense

from allround.pool import Pool
from allround.strategies import run, select

UNCERTAINTY = {
    "entropy": lambda p: -(p * np.log(p)).sum(1),
    "margin": lambda p: np.sort(p, 1)[:, -2] - np.sort(p, 1)[:, -1],
    "least_confidence": lambda p: -p.max(1),
}


@pytest.mark.parametrize("name", UNCERTAINTY)
def test_uncertainty_takes_the_most_uncertain_by_its_formula(name):
    data = arrays(300)
    unlabelled, _, p, _ = dense(data)
    score = UNCERTAINTY[name](p)
    picks = run(name, Pool.from_arrays(**data), 40, np.random.default_rng(0))
    assert picks.index.tolist() == unlabelled[np.argsort(-score, kind="stable")[:40]].tolist()
    sign = 1 if name == "entropy" else -1
    np.testing.assert_allclose(sign * picks.score, np.sort(score)[::-1][:40], rtol=1e-4)


def test_entropy_of_a_certain_example_is_zero_and_not_nan():
    pool = Pool.from_arrays(logits=np.array([[400.0, -400, 0], [1, 1, 1], [0, 0, 300]], dtype=np.float32))
    picks = run("entropy", pool, 3, np.random.default_rng(0))
    assert picks.index.tolist() == [1, 0, 2]
    np.testing.assert_allclose(picks.score, [np.log(3), 0, 0], atol=1e-6)


def test_random_draws_every_example_equally_often():
    from scipy.stats import chisquare

    pool = Pool.from_arrays(size=30, labelled=np.arange(5))
    counts = np.bincount(np.concatenate([select("random", pool, budget=6, seed=s) for s in range(2000)]), minlength=30)
    assert (counts[:5] == 0).all()
    assert chisquare(counts[5:]).pvalue > 1e-4


def test_coreset_picks_what_the_dense_form_picks():
    data = arrays(300)
    unlabelled, h, *_ = dense(data)
    expected = unlabelled[dense_k_centre(h, data["features"][data["labelled"]].astype(np.float64), 30)]
    assert select("coreset", Pool.from_arrays(**data), budget=30).tolist() == expected.tolist()


def test_coreset_leaves_out_what_the_labelled_set_covers():
    features = np.array([[0.0], [0.1], [5], [9], [9.1]], dtype=np.float32)
    logits = np.zeros((5, 2), dtype=np.float32)
    assert select("coreset", Pool.from_arrays(features, logits, labelled=[0, 3]), budget=1).tolist() == [2]
    assert select("coreset", Pool.from_arrays(features, logits), budget=2).tolist() == [2, 0]  # nearest to the mean


@pytest.mark.parametrize(("uncertainty", "similarity"), list(product(UNCERTAINTY, ["features", "gradients"])))
def test_fass_is_greedy_facility_location_over_the_most_uncertain(uncertainty, similarity):
    data = arrays(300)
    unlabelled, h, p, q = dense(data)
    filtered = np.argsort(-UNCERTAINTY[uncertainty](p), kind="stable")[: 4 * 20]
    pool = Pool.from_arrays(**data)
    picks = run(
        "fass", pool, 20, np.random.default_rng(0), beta=4, uncertainty=uncertainty, similarity=similarity
    )  # fmt: skip
    vectors = h[filtered] if similarity == "features" else kronecker([q[filtered], h[filtered]])
    places = [unlabelled[filtered].tolist().index(index) for index in picks.index]  # ValueError: not of the filtered
    assert_greedy(cosines(vectors), places, picks.score.tolist())


class Glister:
    """GLISTER on the whole last layer with autograd: W (c, d + 1), validation loss = mean cross-entropy."""

    def __init__(self, data: dict, step_size: float):
        self.step_size = step_size
        one = np.ones((len(data["features"]), 1))
        h = torch.from_numpy(np.concatenate([data["features"].astype(np.float64), one], 1))
        logits = torch.from_numpy(data["logits"].astype(np.float64))
        self.weights = torch.linalg.lstsq(h, logits).solution.T  # the logits are a linear layer over the features
        torch.testing.assert_close(h @ self.weights.T, logits, rtol=1e-4, atol=1e-4)
        unlabelled = np.setdiff1d(np.arange(len(h)), data["labelled"])
        self.h, self.held_out, self.truth = h[unlabelled], h[data["labelled"]], torch.from_numpy(data["labels"])
        self.gradients = torch.stack([self.gradient(self.weights, x[None]) for x in self.h])  # (n, c, d + 1)

    def gradient(self, weights, h, truth=None):
        weights = weights.clone().requires_grad_()
        logits = h @ weights.T
        torch.nn.functional.cross_entropy(logits, logits.argmax(1) if truth is None else truth).backward()
        return weights.grad

    def validation_loss(self, weights):
        return torch.nn.functional.cross_entropy(self.held_out @ weights.T, self.truth)

    def gains(self, weights):
        """Minus the directional derivative of the validation loss along each example's step."""
        direction = self.step_size * self.gradients
        along = [torch.func.jvp(self.validation_loss, (weights,), (-step,))[1] for step in direction]
        return -torch.stack(along)


def glister_data() -> dict:
    return arrays(120, d=6, c=4, seed=5)


@pytest.mark.parametrize("step_size", [0.01, 0.5])
def test_glister_gain_is_how_much_a_step_lowers_the_validation_loss(step_size):
    """Picks and gains against steps of the real last layer with autograd; late picks see the steps of all before."""
    data = glister_data()
    reference = Glister(data, step_size)
    unlabelled = np.setdiff1d(np.arange(120), data["labelled"])
    weights, expected, gains = reference.weights, [], []
    for _ in range(25):
        gain = reference.gains(weights)
        gain[expected] = -torch.inf
        expected.append(int(gain.argmax()))
        gains.append(float(gain[expected[-1]]))
        weights = weights - step_size * reference.gradients[expected[-1]]
    picks = run("glister", Pool.from_arrays(**data), 25, np.random.default_rng(0), step_size=step_size)
    assert picks.index.tolist() == unlabelled[expected].tolist()
    np.testing.assert_allclose(picks.score, gains, rtol=1e-3, atol=1e-6)


def test_glister_regulariser_runs_and_is_the_facility_location_it_says():
    """The regulariser of the authors' code never ran. With all weight on it, picks are greedy facility location over
    the ground set, here the whole pool; with no weight, those of plain glister."""
    data = glister_data()
    _, h, *_ = dense(data)
    pool, unlabelled = Pool.from_arrays(**data), np.setdiff1d(np.arange(120), data["labelled"])
    regularised = {"regulariser": "facility_location", "ground": 1000}
    covering = select("glister", pool, budget=8, weight=1e9, **regularised)
    places = [unlabelled.tolist().index(index) for index in covering]
    similarity, best, gains = cosines(h), np.zeros(len(h)), []
    for place in places:
        gains.append(float(np.maximum(similarity[place] - best, 0).sum()))
        best = np.maximum(best, similarity[place])
    assert_greedy(similarity, places, gains)
    plain = select("glister", pool, budget=8)
    assert select("glister", pool, budget=8, weight=0.0, **regularised).tolist() == plain.tolist()
    assert covering.tolist() != plain.tolist()
