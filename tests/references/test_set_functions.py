"""Diversity functions against submodlib 0.0.3 on identical kernels, and against brute force in float64.

submodlib's metric "cosine" is the plain cosine, not cut at 0, and 0 for zero vectors; the kernels here are made so. Its
functions are the reference for values and gains; where greedy picks may tie (all gains of a first pick are equal),
every pick is held to have the largest gain, by submodlib's own count.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from allround.kernels.log_determinant import log_determinant
from allround.kernels.set_functions import CONCAVE, concave_coverage, total_similarity
from allround.pool import Pool
from allround.strategies import run

submodlib = pytest.importorskip("submodlib")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:submodlib")


def features(n: int = 90, d: int = 10, seed: int = 0, centred: bool = False) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((n, d)) + (0 if centred else 0.3)
    return (values if centred else np.maximum(values, 0.01)).astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float64)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def kernel(vectors: np.ndarray) -> np.ndarray:
    return unit(vectors) @ unit(vectors).T


def chosen(name: str, vectors: np.ndarray, budget: int, **hyperparameters) -> tuple[list[int], np.ndarray]:
    pool = Pool.from_arrays(features=vectors, logits=vectors[:, :2])
    picks = run(name, pool, budget, np.random.default_rng(0), **hyperparameters)
    return picks.index.tolist(), picks.score


def theirs(function, budget: int) -> list[int]:
    return [row for row, _ in function.maximize(budget, show_progress=False)]


def assert_greedy(function, n: int, picks: list[int], gains: np.ndarray | None, tolerance: float = 1e-5) -> None:
    """By submodlib's count, every pick has the largest gain, and it is the score."""
    for t, row in enumerate(picks):
        before = set(picks[:t])
        function.setMemoization(before)
        all_gains = [function.marginalGainWithMemoization(before, i) for i in range(n) if i not in before]
        mine = function.marginalGainWithMemoization(before, row)
        assert mine == pytest.approx(max(all_gains), rel=tolerance, abs=tolerance), (t, row)
        assert gains is None or gains[t] == pytest.approx(mine, rel=tolerance, abs=tolerance), (t, row)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("trade_off", [0.0, 0.4, 2.0, 30.0])
def test_graph_cut_picks_what_submodlib_picks_also_where_gains_are_negative(trade_off, centred):
    vectors = features(centred=centred)
    function = submodlib.GraphCutFunction(90, "dense", trade_off, mgsijs=kernel(vectors))
    picks, gains = chosen("graph_cut", vectors, 25, trade_off=trade_off)
    assert picks == theirs(function, 25)
    assert gains.sum() == pytest.approx(function.evaluate(set(picks)), rel=1e-5)
    assert (gains.min() < 0) == (trade_off > 1)


def test_similarity_to_a_large_pool_keeps_the_digits_that_single_examples_are_told_apart_by():
    """Sums of 300,000 cosines, held against a cosine; in float32 they are 0.03 apart."""
    x = torch.from_numpy(unit(features(300_000, 4))).float()
    exact = x[:1000].double() @ x.double().sum(0)
    assert (total_similarity((x,), (x,))[:1000] - exact).abs().max() < 1e-6
    ones = torch.ones(len(x), 1)
    assert (total_similarity((x, ones), (x, ones))[:1000] - exact).abs().max() < 1e-6


@pytest.mark.parametrize("regularisation", [1.0, 0.01])
def test_log_determinant_picks_have_the_largest_gain_by_submodlib(regularisation):
    """The first pick ties (submodlib's is the last row of a hash table); all after it have the largest gain."""
    vectors = features()
    function = submodlib.LogDeterminantFunction(90, "dense", regularisation, sijs=kernel(vectors))
    picks, gains = chosen("log_determinant", vectors, 40, regularisation=regularisation)
    assert picks[0] == kernel(vectors).sum(0).argmin()
    assert_greedy(function, 90, picks, gains, tolerance=1e-4)
    assert gains.sum() == pytest.approx(function.evaluate(set(picks)), rel=1e-4)


def test_log_determinant_stays_exact_far_beyond_the_rank():
    """10 dimensions, 90 picks, regularisation 1e-4: gains fall to log(1e-4) and stay finite."""
    vectors = features(centred=True)
    picks, gains = chosen("log_determinant", vectors, 90, regularisation=1e-4)
    assert sorted(picks) == list(range(90))
    for t in (1, 5, 10, 11, 50, 90):
        expected = np.linalg.slogdet(kernel(vectors[picks[:t]]) + 1e-4 * np.eye(t))[1]
        assert gains[:t].sum() == pytest.approx(expected, rel=1e-3, abs=1e-2)


def test_log_determinant_of_factors_is_that_of_the_vectors_they_stand_for():
    a, b = features(60, 4, seed=1, centred=True), features(60, 5, seed=2, centred=True)
    whole = (a[:, :, None] * b[:, None, :]).reshape(60, -1)
    rows, gains = log_determinant((torch.from_numpy(a), torch.from_numpy(b)), 30, regularisation=0.1)
    expected, same = log_determinant((torch.from_numpy(whole),), 30, regularisation=0.1)
    assert rows.tolist() == expected.tolist()
    torch.testing.assert_close(gains, same, rtol=1e-4, atol=1e-4)


def test_disparity_sum_picks_have_the_largest_gain_by_submodlib():
    """submodlib documents the sum over ordered pairs and computes half of it, the sum over pairs: as here."""
    vectors = features(centred=True)
    function = submodlib.DisparitySumFunction(90, "dense", sijs=kernel(vectors))
    picks, gains = chosen("disparity_sum", vectors, 25)
    assert picks[0] == kernel(vectors).sum(0).argmin()
    assert_greedy(function, 90, picks, gains)
    pairs = 1 - kernel(vectors[picks])
    assert function.evaluate(set(picks)) == pytest.approx(np.triu(pairs, 1).sum(), rel=1e-5)
    assert gains.sum() == pytest.approx(np.triu(pairs, 1).sum(), rel=1e-5)


@pytest.mark.parametrize("centred", [False, True])
def test_disparity_min_takes_the_farthest_of_those_that_submodlib_holds_equal(centred):
    """submodlib's gain of j is min(f(S), distance of j) - f(S): all candidates farther off than f(S) tie, and it takes
    the first in its hash table. The farthest is one of them. And it caps f at 1: of two opposite vectors, 2 apart, it
    says 1."""
    opposite = submodlib.DisparityMinFunction(2, "dense", sijs=np.array([[1.0, -1.0], [-1.0, 1.0]]))
    assert opposite.evaluate({0, 1}) == 1

    vectors = features(centred=centred)
    distance = 1 - kernel(vectors)
    expected = [int(kernel(vectors).sum(0).argmin())]
    while len(expected) < 25:
        nearest = distance[expected].min(0)
        nearest[expected] = -1
        expected.append(int(nearest.argmax()))
    picks, scores = chosen("disparity_min", vectors, 25)
    assert picks == expected
    function = submodlib.DisparityMinFunction(90, "dense", sijs=kernel(vectors))
    assert_greedy(function, 90, picks, gains=None)
    assert scores[1:].min() == pytest.approx(function.evaluate(set(picks)), rel=1e-5)


@pytest.mark.parametrize("concave", ["log", "sqrt", "inverse"])
def test_feature_based_picks_what_submodlib_picks(concave):
    from submodlib_cpp import FeatureBased

    mode = {"log": FeatureBased.logarithmic, "sqrt": FeatureBased.squareRoot, "inverse": FeatureBased.inverse}[concave]
    vectors = features(150, 12, centred=True)
    function = submodlib.FeatureBasedFunction(150, vectors.tolist(), 12, False, mode=mode)
    picks, gains = chosen("feature_based", vectors, 40, concave=concave)
    assert picks == theirs(function, 40)
    assert gains.sum() == pytest.approx(function.evaluate(set(picks)), rel=1e-5)


@pytest.mark.parametrize("concave", CONCAVE)
def test_concave_gains_keep_their_digits_where_the_sums_are_large(concave):
    psi = {"log": np.log1p, "sqrt": np.sqrt, "inverse": lambda t: 1 - 1 / (1 + t)}[concave]
    t, x = np.array([0.0, 0, 1, 1e5, 1e6]), np.array([0.0, 2, 1e-3, 1e-2, 1.0])
    rise = CONCAVE[concave](torch.tensor(t).float(), torch.tensor(x).float())
    np.testing.assert_allclose(rise, psi((t + x).astype(np.longdouble)) - psi(t.astype(np.longdouble)), rtol=1e-4)


def test_lazy_greedy_is_the_greedy_algorithm():
    values = np.random.default_rng(0).random((500, 6)) ** 4  # far more rows than a step renews
    rows, gains = concave_coverage(torch.from_numpy(values).float(), 60, "sqrt")
    total, expected = np.zeros(6), []
    for _ in range(60):
        gain = (np.sqrt(total + values) - np.sqrt(total)).sum(1)
        gain[expected] = -1
        expected.append(int(gain.argmax()))
        total += values[expected[-1]]
    assert rows.tolist() == expected
    assert float(gains.sum()) == pytest.approx(np.sqrt(total).sum(), rel=1e-5)


@pytest.mark.parametrize("concave", CONCAVE)
def test_lazy_greedy_gives_ties_to_the_lower_row_however_many_tie(concave):
    """Copies, far more than the list of the best bounds holds; and rows of which every pick leaves the same gain."""
    distinct = np.random.default_rng(1).random((5, 6)).astype(np.float32)
    copies = torch.from_numpy(np.tile(distinct, (200, 1)))  # row i is a copy of row i % 5
    rows = concave_coverage(copies, 40, concave)[0].numpy()
    for kind in range(5):
        mine = rows[rows % 5 == kind]
        assert mine.tolist() == [kind + 5 * i for i in range(len(mine))]
    assert concave_coverage(torch.zeros(900, 4), 50, concave)[0].tolist() == list(range(50))


@pytest.mark.parametrize("name", ["graph_cut", "log_determinant", "disparity_min", "disparity_sum", "feature_based"])
def test_copies_come_last_where_diversity_is_asked(name):
    """Three directions, three copies each, unless the function rewards repetition (graph cut that only represents)."""
    vectors = np.repeat(np.eye(3, dtype=np.float32), 3, axis=0)
    hyperparameters = {"trade_off": 10.0} if name == "graph_cut" else {}
    picks, _ = chosen(name, vectors, 9, **hyperparameters)
    assert {row // 3 for row in picks[:3]} == {0, 1, 2}
    assert sorted(picks) == list(range(9))
