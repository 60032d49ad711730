"""Strategies over draws of a posterior against baal 2.1, batchbald_redux 2.0.5, scikit-activeml 1.0 and float64."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax, xlogy
from scipy.stats import chisquare, rankdata

from allround.kernels import joint_information as kernel
from allround.kernels.mixtures import expected_entropy
from allround.pool import Pool
from allround.strategies import power, run, select


def posterior(n: int = 200, t: int = 10, c: int = 4, own: float = 1.0, seed: int = 0) -> np.ndarray:
    """mc_logits (t, n, c): what the draws share, and what is each one's own."""
    rng = np.random.default_rng(seed)
    return (1.5 * rng.standard_normal((1, n, c)) + own * rng.standard_normal((t, n, c))).astype(np.float32)


def probabilities(logits: np.ndarray) -> np.ndarray:
    return softmax(logits.astype(np.float64), axis=2)


def entropy(p: np.ndarray, axis: int = -1) -> np.ndarray:
    return -xlogy(p, p).sum(axis)


def joint(p: np.ndarray) -> float:
    """I(y_1..y_m; t) in float64 from all c^m labels; p: (t, m, c)."""
    together = np.ones((len(p), 1))
    for place in range(p.shape[1]):
        together = (together[:, :, None] * p[:, place, None]).reshape(len(p), -1)
    return float(entropy(together.mean(0)) - entropy(p).sum(1).mean())


def picks(name: str, logits: np.ndarray, budget: int, seed: int = 0, labelled=(), **hyperparameters):
    pool = Pool.from_arrays(mc_logits=logits, labelled=labelled, labels=[0] * len(labelled))
    return run(name, pool, budget, np.random.default_rng(seed), **hyperparameters)


# --- posterior predictive ---------------------------------------------------------------------------------------------

UNCERTAINTY = {
    "entropy": lambda p: -entropy(p),
    "margin": lambda p: np.sort(p, 1)[:, -1] - np.sort(p, 1)[:, -2],
    "least_confidence": lambda p: p.max(1),
}


@pytest.mark.parametrize("posterior_of", ["mc_dropout", "ensemble"])
@pytest.mark.parametrize("name", UNCERTAINTY)
def test_uncertainty_under_a_posterior_is_that_of_the_mean_prediction(name, posterior_of):
    """Of the mean of the probabilities: not of the mean logits, and not the mean of the scores."""
    logits = posterior(300, own=2.0)
    expected = np.argsort(UNCERTAINTY[name](probabilities(logits).mean(0)), kind="stable")[:40]
    assert picks(name, logits, 40, posterior=posterior_of).index.tolist() == expected.tolist()
    others = [softmax(logits.mean(0), 1), probabilities(logits)[0]]
    assert all(np.argsort(UNCERTAINTY[name](p), kind="stable")[:40].tolist() != expected.tolist() for p in others)


# --- bald -------------------------------------------------------------------------------------------------------------


def test_bald_is_baals_bald():
    heuristics = pytest.importorskip("baal.active.heuristics")
    logits = posterior(300)
    score = heuristics.BALD().compute_score(probabilities(logits).transpose(1, 2, 0))
    ours = picks("bald", logits, 300)
    np.testing.assert_allclose(ours.score, np.sort(score)[::-1], atol=1e-6)
    assert ours.index[:100].tolist() == np.argsort(-score)[:100].tolist()


def test_bald_of_draws_that_agree_or_are_certain_is_zero_and_of_sure_draws_that_disagree_the_entropy_of_the_vote():
    logits = np.full((4, 3, 3), -200, np.float32)
    logits[:, 0] = [3, 1, 0]
    logits[:, 1, 0] = 200
    logits[range(4), 2, [0, 0, 1, 2]] = 200
    ours = picks("bald", logits, 3)
    assert ours.index[0] == 2
    np.testing.assert_allclose(ours.score, [entropy(np.array([0.5, 0.25, 0.25])), 0, 0], atol=1e-6)


# --- batch_bald -------------------------------------------------------------------------------------------------------


@pytest.fixture
def redux(monkeypatch):
    monkeypatch.setattr("gc.collect", lambda *_: 0)  # its library of blocks collects garbage with every call: 0.2 s
    return pytest.importorskip("batchbald_redux.batchbald")


def test_batch_bald_is_that_of_batchbald_redux(redux):
    for seed in range(5):
        logits = posterior(150, seed=seed)
        draws = torch.from_numpy(log_softmax(logits.astype(np.float64), 2)).movedim(1, 0)
        theirs = redux.get_batchbald_batch(draws, 6, 10**5, dtype=torch.double)
        ours = picks("batch_bald", logits, 6, configurations=10**5, candidates=None)
        assert ours.index.tolist() == theirs.indices
        np.testing.assert_allclose(ours.score.cumsum(), theirs.scores, atol=2e-6)


def test_batch_bald_is_that_of_scikit_activeml():
    pool = pytest.importorskip("skactiveml.pool._bald")
    logits = posterior(100, seed=3)
    utilities = pool.batch_bald(probabilities(logits), 5, n_MC_samples=10**5)
    ours = picks("batch_bald", logits, 5, configurations=10**5)
    assert ours.index.tolist() == np.nanargmax(utilities, 1).tolist()
    np.testing.assert_allclose(ours.score.cumsum(), np.nanmax(utilities, 1), atol=1e-5)


def test_batch_bald_outlives_certainty_where_the_peer_gives_nan(redux):
    """batchbald_redux takes 0 log 0 of an example that all draws are sure of: NaN, which torch's max takes for the
    largest score, so that the most useless example is picked first; then all scores are NaN and rows come in order."""
    logits = posterior(40, c=3)
    logits[:, 5] = [200, -200, -200]
    theirs = redux.get_batchbald_batch(torch.from_numpy(log_softmax(logits, 2)).movedim(1, 0), 3, 1000)
    assert np.isnan(theirs.scores).all()
    assert theirs.indices == [5, 0, 1]
    ours = picks("batch_bald", logits, 40)
    assert sorted(ours.index.tolist()) == list(range(40))
    assert np.isfinite(ours.score).all()
    assert ours.index.tolist().index(5) > 30


def test_batch_bald_outlives_large_batches_where_the_peer_underflows(redux):
    """batchbald_redux multiplies the probabilities of a whole batch's labels; ours are re-weighted draws."""
    logits = posterior(200, t=40, c=5, own=0.5)
    draws = torch.from_numpy(log_softmax(logits, 2)).movedim(1, 0)
    labels = redux.joint_entropy.SampledJointEntropy.sample(draws[:150].exp(), 400)
    assert not np.isfinite(labels.compute_batch(draws).numpy()).any()
    ours = picks("batch_bald", logits, 150, configurations=2000)
    assert np.isfinite(ours.score).all()
    assert ours.score.sum() == pytest.approx(np.log(40), rel=0.1)  # a little too much: the best by few outcomes


def test_drawn_configurations_lose_nothing_that_matters():
    """With a tenth of the 3^8 joint labels: the exact value of the batch, and what the scores say of it."""
    logits = posterior(60, c=3, t=12)
    p = probabilities(logits)
    exact = picks("batch_bald", logits, 8, configurations=10**5, candidates=None)
    best = joint(p[:, exact.index])
    assert exact.score.sum() == pytest.approx(best, abs=1e-5)
    told, true = [], []
    for seed in range(10):
        ours = picks("batch_bald", logits, 8, seed=seed, configurations=2000)
        true.append(joint(p[:, ours.index]))
        told.append(ours.score.sum())
    assert min(true) > 0.999 * best
    assert np.mean(told) == pytest.approx(np.mean(true), rel=0.005)


def test_drawn_labels_follow_the_model():
    """The outcomes (t, y_1, y_2) of lines instead of independent numbers: the exact joint distribution, by chi-square
    over generators; and as much scatter as independent outcomes have, no more."""
    p = torch.from_numpy(probabilities(posterior(2, t=3, c=3))).float()
    size, rounds = 90, 2000
    owner, place = torch.arange(size) % 3, torch.arange(size)
    counts = np.zeros((rounds, 3, 3, 3))
    for seed in range(rounds):
        lines = torch.from_numpy(np.random.default_rng(seed).random((2, 2)))
        labels = [kernel._labels(p[:, j], owner, (lines[0, j] * place + lines[1, j]).frac()) for j in range(2)]
        np.add.at(counts[seed], (owner, *labels), 1)
    expected = torch.einsum("ty,tz->tyz", p[:, 0], p[:, 1]).numpy() * size / 3
    np.testing.assert_allclose(counts.mean(0), expected, atol=5 * np.sqrt(expected.max() / rounds))
    scatter = counts.var(0) / (expected * (1 - 3 * expected / size))  # of independent outcomes: 1
    assert scatter.mean() == pytest.approx(1, abs=0.15)


def test_batch_bald_avoids_what_a_pick_has_told_already():
    """Where BALD takes ten copies of one example, BatchBALD takes one copy of each of ten."""
    few = posterior(10, t=30, own=2.0)
    logits = np.repeat(few, 10, axis=1)  # example i is copied to 10 i .. 10 i + 9
    assert len(set(picks("bald", logits, 10).index // 10)) == 1
    assert len(set(picks("batch_bald", logits, 5).index // 10)) == 5


def test_once_all_is_told_the_rest_are_the_largest_by_bald():
    logits = posterior(100, t=2, own=6.0)
    ours = picks("batch_bald", logits, 60)
    told = int((ours.score > 0).sum())
    assert told < 30
    assert ours.score.sum() == pytest.approx(np.log(2), abs=1e-3)
    left = [index for index in picks("bald", logits, 100).index.tolist() if index not in ours.index[:told]]
    assert ours.index[told:].tolist() == left[: 60 - told]


def test_candidates_are_the_largest_by_bald():
    logits = posterior(100)
    best = set(picks("bald", logits, 20).index.tolist())
    assert set(picks("batch_bald", logits, 10, candidates=20).index.tolist()) <= best
    assert not set(picks("batch_bald", logits, 10, candidates=None).index.tolist()) <= best
    assert len(picks("batch_bald", logits, 30, candidates=5).index) == 30


def test_steps_that_a_gpu_takes_after_the_last_change_nothing(monkeypatch):
    logits = posterior(80, t=20, c=3)
    expected = picks("batch_bald", logits, 12, configurations=300)

    def chunks(step, state, *, done):
        while not done():
            for _ in range(64):
                step()

    monkeypatch.setattr(kernel, "repeat", chunks)
    ours = picks("batch_bald", logits, 12, configurations=300)
    assert ours.index.tolist() == expected.index.tolist()
    np.testing.assert_allclose(ours.score, expected.score, atol=1e-6)


@pytest.mark.parametrize(("s", "b", "c"), [(1, 7, 3), (700, 50, 10), (900, 3, 300), (2, 600, 1000)])
def test_expected_entropy_of_mixtures_in_blocks_is_the_whole_one(s, b, c):
    rng = np.random.default_rng(0)
    weights, mass, p = rng.dirichlet(np.ones(4), s), rng.dirichlet(np.ones(s)), rng.dirichlet(np.ones(c), (4, b))
    weights[0], p[0, 0] = np.eye(4)[0], np.eye(c)[0]  # zeros
    ours = expected_entropy(*(torch.from_numpy(array).float() for array in (weights, mass, p)))
    expected = [mass @ entropy(weights @ p[:, i]) for i in range(b)]
    np.testing.assert_allclose(ours.numpy(), expected, rtol=2e-6)


# --- epig -------------------------------------------------------------------------------------------------------------


def epig(p: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """EPIG from its definition, mean over x* of the mutual information of p(y, y*), in float64."""
    together = np.einsum("tic,tjd->ijcd", p, targets) / len(p)  # (n, m, c, c)
    apart = together.sum(3, keepdims=True) * together.sum(2, keepdims=True)
    return (xlogy(together, together) - xlogy(together, apart)).sum((2, 3)).mean(1)


def test_epig_is_baals_epig_and_its_definition():
    heuristics = pytest.importorskip("baal.active.heuristics.heuristics")
    logits = posterior(120)
    p = probabilities(logits)
    theirs = heuristics.EPIG().compute_score(p.transpose(1, 2, 0), p.transpose(1, 2, 0))
    ours = picks("epig", logits, 120, targets=120, outcomes=10**6)
    expected = epig(p, p)
    np.testing.assert_allclose(ours.score, np.sort(expected)[::-1], atol=1e-6)
    np.testing.assert_allclose(theirs, expected, atol=2e-6)
    assert ours.index[:30].tolist() == np.argsort(-expected)[:30].tolist()


def test_epig_draws_its_targets_from_labelled_and_unlabelled_examples():
    logits, labelled = posterior(50), np.array([3, 40, 7])
    left = np.setdiff1d(np.arange(50), labelled)
    ours = picks("epig", logits, 47, labelled=labelled, targets=50, outcomes=10**6)
    expected = epig(probabilities(logits[:, left]), probabilities(logits))
    assert ours.index.tolist() == left[np.argsort(-expected)].tolist()


def test_epig_towards_a_query_set_looks_at_nothing_else():
    logits = posterior(50)
    query = np.array([30, 2, 11])
    pool = Pool.from_arrays(mc_logits=logits, sets={"query": query})
    left = np.setdiff1d(np.arange(50), query)
    expected = epig(probabilities(logits[:, left]), probabilities(logits[:, query]))
    ours = select("epig", pool, budget=47, target="query", outcomes=10**6)
    assert ours.tolist() == left[np.argsort(-expected)].tolist()


def test_drawn_outcomes_estimate_epig_without_bias():
    logits = posterior(80, c=6)
    expected = epig(probabilities(logits), probabilities(logits))
    scores = np.zeros((100, 80))
    for seed in range(100):
        ours = picks("epig", logits, 80, seed=seed, targets=80, outcomes=240)
        scores[seed, ours.index] = ours.score
    spread = scores.std(0)
    assert (np.abs(scores.mean(0) - expected) < 5 * spread / 10 + 1e-6).all()
    assert spread.mean() < 0.25 * expected.mean()
    assert np.mean([np.corrcoef(one, expected)[0, 1] for one in scores]) > 0.8


# --- power ------------------------------------------------------------------------------------------------------------

FORMS = {
    "power": lambda score, beta: score**beta,
    "softmax": lambda score, beta: np.exp(beta * score),
    "softrank": lambda score, beta: rankdata(-score) ** -beta,
}


def drawn(pool: Pool, budget: int, times: int, **hyperparameters) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([power.select(pool, budget, rng, **hyperparameters).index for _ in range(times)])


@pytest.mark.parametrize(("form", "beta"), [("power", 1.0), ("power", 4.0), ("softmax", 4.0), ("softrank", 1.0)])
def test_power_draws_by_plackett_luce(form, beta):
    """Ordered pairs, as often as sequential draws without replacement ~ weight make them."""
    logits = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [2, 2, 0], [3, 0, 0]], np.float32)
    weight = FORMS[form](entropy(softmax(logits.astype(np.float64), 1)), beta)
    pairs = drawn(Pool.from_arrays(logits=logits), 2, 3000, score="entropy", form=form, beta=beta)
    total = weight.sum()
    expected = {(a, b): weight[a] / total * weight[b] / (total - weight[a]) for a, b in permutations(range(5), 2)}
    observed = dict.fromkeys(expected, 0)
    for a, b in pairs.tolist():
        observed[a, b] += 1
    often = [pair for pair, share in expected.items() if 3000 * share >= 5]
    rest = 3000 - sum(observed[pair] for pair in often), 3000 * (1 - sum(expected[pair] for pair in often))
    counts, shares = [observed[pair] for pair in often], [3000 * expected[pair] for pair in often]
    if rest[1] > 1e-6:
        counts, shares = [*counts, rest[0]], [*shares, rest[1]]
    assert chisquare(counts, shares).pvalue > 1e-4


def test_power_of_bald_has_the_distribution_of_baals_power_sampling():
    stochastics = pytest.importorskip("baal.active.heuristics.stochastics")
    heuristics = pytest.importorskip("baal.active.heuristics")
    logits = posterior(12)
    theirs = stochastics.PowerSampling(heuristics.BALD(), 1, temperature=0.5)  # 1 / beta
    share = theirs._make_distribution(heuristics.BALD().compute_score(probabilities(logits).transpose(1, 2, 0)))
    first = drawn(Pool.from_arrays(mc_logits=logits), 1, 3000, score="bald", beta=2.0)[:, 0]
    assert chisquare(np.bincount(first, minlength=12), 3000 * share).pvalue > 1e-4


@pytest.mark.parametrize("score", ["entropy", "margin", "least_confidence"])
def test_examples_without_a_score_come_after_all_others_in_any_order(score):
    """baal falls back to uniform draws over everything as soon as fewer have a score than are asked for."""
    logits = np.full((6, 3), -300, np.float32)
    logits[:, 0] = 300  # certain
    logits[[1, 4]] = [1, 0, 0]
    orders = drawn(Pool.from_arrays(logits=logits), 6, 600, score=score)
    assert (np.sort(orders[:, :2], 1) == [1, 4]).all()
    assert chisquare(np.bincount(orders[:, 2], minlength=6)[[0, 2, 3, 5]]).pvalue > 1e-4


def test_beta_of_zero_draws_uniformly_and_a_large_one_takes_the_top():
    data = {"logits": np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)}
    assert (
        chisquare(np.bincount(drawn(Pool.from_arrays(**data), 1, 2000, score="margin", beta=0.0)[:, 0])).pvalue > 1e-4
    )
    top = select("margin", Pool.from_arrays(**data), budget=5)
    for form in FORMS:
        ours = select("power", Pool.from_arrays(**data), budget=5, score="margin", beta=1e6, form=form)
        assert ours.tolist() == top.tolist()
