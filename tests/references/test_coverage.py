"""Coverage: the engine against submodlib 0.0.3, max_herding and probcover against scikit-activeml 1.0, uherding
against a brute force in float64; all on identical inputs.

Where gains tie (two examples that are each other's nearest) rounding decides, so that picks are held against the value
of the objective, or every pick against the largest gain.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from test_strategies import arrays, dense

from allround.kernels import facility_location as module
from allround.kernels.clusters import k_means
from allround.kernels.facility_location import best_similarity, facility_location, sample_draws
from allround.kernels.similarities import RBF, Ball, least_distance, points, similarities
from allround.pool import Pool
from allround.strategies import probcover, run, uherding

SIMILARITIES = {"cosine": "cosine", "rbf": RBF(0.7), "ball": Ball(0.8)}


def vectors(n: int, d: int = 6, seed: int = 0) -> np.ndarray:
    """Points of a few clusters, of different lengths."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, d)) + 2 * rng.standard_normal((5, d))[rng.integers(5, size=n)]).astype(np.float32)


def unit(x: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, length, out=np.zeros(x.shape), where=length > 0)


def similar(x: np.ndarray, y: np.ndarray, similarity: object) -> np.ndarray:
    """(len(x), len(y)) float64."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    if similarity == "cosine":
        return np.maximum(unit(x) @ unit(y).T, 0)
    squared = ((x[:, None] - y) ** 2).sum(2)
    if isinstance(similarity, RBF):
        return np.exp(-squared / similarity.width**2)
    return (squared <= similarity.radius**2).astype(np.float64)


def assert_greedy(s: np.ndarray, rows: list[int], gains: list[float], lower=0.0, upper=np.inf, weights=1.0, rel=1e-5):
    """Every pick has the largest of all gains, each computed anew, and that gain is what was reported. s: (n, g)"""
    level = np.zeros(s.shape[1]) + lower
    for i, (row, gain) in enumerate(zip(rows, gains, strict=True)):
        all_gains = (weights * np.maximum(np.minimum(s, upper) - level, 0)).sum(1)
        all_gains[rows[:i]] = -1
        assert all_gains[row] == pytest.approx(all_gains.max(), rel=rel, abs=1e-5)
        assert gain == pytest.approx(all_gains[row], rel=rel, abs=1e-5)
        level = np.maximum(level, np.minimum(s[row], upper))


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(x, dtype=np.float32))


# --- the engine -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarities_are_those_of_their_formulas(name):
    x, y = vectors(40), vectors(30, seed=1)
    kind = SIMILARITIES[name]
    whole = similarities(points((tensor(x),), kind), points((tensor(y),), kind), kind).clamp(min=0)
    np.testing.assert_allclose(whole, similar(x, y, kind), atol=1e-5)
    np.testing.assert_allclose(best_similarity((tensor(x),), (tensor(y),), kind), whole.amax(1))
    assert (best_similarity((tensor(x),), (tensor(y[:0]),), kind) == 0).all()
    itself = similarities(points((tensor(x),), kind), points((tensor(x),), kind), kind)
    np.testing.assert_allclose(itself.diagonal(), 1, atol=1e-5)


@pytest.mark.parametrize("width", [0.0015, 0.01, 0.1])
def test_an_example_covers_itself_under_any_width(width):
    """The width of uherding is the least distance between labelled examples; what rounding leaves between equal vectors
    was a fifth of one of 0.0015, and noise in what an example adds by covering itself."""
    x = points((tensor(unit(vectors(200, d=64))),), RBF(width))
    assert (similarities(x, x, RBF(width)).diagonal() > 1 - 2e-4).all()


@pytest.mark.parametrize(("block", "looks"), [(3, True), (9, False)])
@pytest.mark.parametrize("name", SIMILARITIES)
def test_every_pick_has_the_largest_gain_whatever_is_covered_and_however_it_is_computed(
    name, block, looks, monkeypatch
):
    """Bounds on both sides, weights (some of them 0), another ground set and few candidates, all at once; by masks
    alone, as on a GPU, and not."""
    monkeypatch.setattr(module, "CACHE", 1 << block)
    monkeypatch.setattr(module, "looks_are_free", lambda device: looks)
    x, y, rng = vectors(120), vectors(90, seed=1), np.random.default_rng(2)
    lower, upper, weights = rng.random((3, 90)).astype(np.float32) * [[0.4], [1.2], [2]]
    weights[:20] = 0
    candidates = rng.permutation(120)[:50]
    rows, gains = facility_location(
        (tensor(x),),
        20,
        similarity=SIMILARITIES[name],
        lower=tensor(lower),
        upper=tensor(upper),
        weights=tensor(weights),
        ground=(tensor(y),),
        candidates=torch.from_numpy(candidates),
    )
    assert len(set(rows.tolist())) == 20
    assert set(rows.tolist()) <= set(candidates.tolist())
    s = similar(x, y, SIMILARITIES[name])[candidates]
    places = [candidates.tolist().index(row) for row in rows.tolist()]
    assert_greedy(s, places, gains.tolist(), lower, upper, weights)


def submodular(function: str, x: np.ndarray, query: np.ndarray, private: np.ndarray, eta: float, nu: float):
    """submodlib's function, and the bounds that make ours the same."""
    submodlib = pytest.importorskip("submodlib")
    n, s, q, p = len(x), *(similar(x, y, "cosine") for y in (x, query, private))
    upper, lower = eta * q.max(1), nu * p.max(1)
    sets = {"num_queries": len(query), "query_sijs": q, "magnificationEta": eta}
    avoid = {"num_privates": len(private), "private_sijs": p, "privacyHardness": nu}
    if function == "fl":
        return submodlib.FacilityLocationFunction(n=n, mode="dense", separate_rep=False, sijs=s), None, None
    if function == "fl1mi":
        return submodlib.FacilityLocationMutualInformationFunction(n=n, data_sijs=s, **sets), None, upper
    if function == "flcg":
        return submodlib.FacilityLocationConditionalGainFunction(n=n, data_sijs=s, **avoid), lower, None
    both = submodlib.FacilityLocationConditionalMutualInformationFunction(n=n, data_sijs=s, **sets, **avoid)
    return both, lower, upper


@pytest.mark.parametrize("function", ["fl", "fl1mi", "flcg", "flcmi"])
def test_bounds_make_the_functions_of_submodlib_and_the_same_value(function):
    x, query, private = vectors(150), vectors(5, seed=3), vectors(4, seed=4)
    theirs, lower, upper = submodular(function, x, query, private, eta=0.9, nu=0.8)
    rows, gains = facility_location(
        (tensor(x),),
        25,
        lower=None if lower is None else tensor(lower),
        upper=None if upper is None else tensor(upper),
    )
    greedy = theirs.maximize(25, "NaiveGreedy", stopIfZeroGain=False, stopIfNegativeGain=False, show_progress=False)
    value = theirs.evaluate({row for row, _ in greedy})
    ours = theirs.evaluate(set(rows.tolist()))
    assert ours == pytest.approx(value, rel=1e-3)
    assert gains.sum().item() == pytest.approx(ours, rel=1e-4)
    bounds = (0.0 if lower is None else lower, np.inf if upper is None else upper)
    assert_greedy(similar(x, x, "cosine"), rows.tolist(), gains.tolist(), *bounds)


def test_a_stochastic_pick_is_the_best_of_its_sample():
    x, k = vectors(80), 80
    draws = np.random.default_rng(0).random((k, 6), dtype=np.float32)
    rows, gains = facility_location((tensor(x),), k, optimiser="stochastic", draws=draws)
    assert sorted(rows.tolist()) == list(range(80))
    s, left, level = similar(x, x, "cosine"), list(range(80)), np.zeros(80)
    for t in range(k):
        sample = [left[int(np.float64(u) * len(left))] for u in draws[t]]
        gain = np.maximum(s - level, 0).sum(1)
        assert rows[t].item() in sample
        assert gain[rows[t]] == pytest.approx(gain[sample].max(), rel=1e-4, abs=1e-4)
        assert gains[t].item() == pytest.approx(gain[rows[t]], rel=1e-4, abs=1e-4)
        place = left.index(rows[t].item())
        left[place] = left[-1]
        left.pop()
        level = np.maximum(level, s[rows[t]])


def test_samples_of_one_are_uniform_picks():
    x, rng = tensor(vectors(10)), np.random.default_rng(1)
    third = [facility_location((x,), 3, optimiser="stochastic", draws=rng.random((3, 1)))[0][2] for _ in range(2000)]
    assert chisquare(np.bincount(third, minlength=10)).pvalue > 1e-4


def test_a_pick_that_raises_more_members_than_a_step_works_in_waits_for_them(monkeypatch):
    """By masks alone: 600 members in steps of 32, of which the first pick raises every one."""
    monkeypatch.setattr(module, "looks_are_free", lambda device: False)
    x = np.abs(vectors(600))
    rows, gains = facility_location((tensor(x),), 150)
    assert_greedy(similar(x, x, "cosine"), rows.tolist(), gains.tolist())


def test_stochastic_greedy_keeps_its_promise():
    x, rng = tensor(vectors(500)), np.random.default_rng(2)
    exact = facility_location((x,), 25)[1].sum()
    draws = sample_draws(500, 25, 0.1, rng)
    assert draws.shape == (25, 47)  # 500 / 25 * ln 10
    assert facility_location((x,), 25, optimiser="stochastic", draws=draws)[1].sum() > 0.95 * exact


@pytest.mark.parametrize(("n", "k", "shape"), [(7, 7, (7, 3)), (5, 1, (1, 5)), (1, 1, (1, 1))])
def test_samples_are_never_empty_nor_larger_than_the_pool(n, k, shape):
    assert sample_draws(n, k, 0.1, np.random.default_rng(0)).shape == shape


# --- facility_location ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["labelled", "nothing"])
def test_representatives_are_beside_those_that_the_labelled_set_has(given):
    data = arrays(300)
    unlabelled, h, *_ = dense(data)
    lower = similar(h, data["features"][data["labelled"]], "cosine").max(1) if given == "labelled" else 0.0
    picks = run("facility_location", Pool.from_arrays(**data), 30, np.random.default_rng(0), given=given)
    places = np.searchsorted(unlabelled, picks.index).tolist()
    assert_greedy(similar(h, h, "cosine"), places, picks.score.tolist(), lower)


def test_a_sampled_ground_set_and_stochastic_picks_cover_nearly_as_well():
    data = arrays(1500)
    unlabelled, h, *_ = dense(data)
    s = similar(h, h, "cosine")

    def covered(**settings):
        settings["given"] = "nothing"
        picks = run("facility_location", Pool.from_arrays(**data), 20, np.random.default_rng(0), **settings)
        return s[np.searchsorted(unlabelled, picks.index)].max(0).sum()

    exact = covered()
    assert covered(ground=400) > 0.95 * exact
    assert covered(optimiser="stochastic") > 0.95 * exact


# --- max_herding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_max_herding_picks_what_scikit_activeml_picks(seed):
    """Until two gains tie, which they draw from. With their gamma set to 1, the paper's width: their default is
    scikit-learn's gamma = 1 / D, a width of sqrt(D): of features of length 1 with D = 512 no kernel value is below
    0.992, so that one example covers all others."""
    pool = pytest.importorskip("skactiveml.pool")
    data = {key: value for key, value in arrays(200, d=12, seed=seed).items() if "set" not in key}
    data["labelled"], data["labels"] = data["labelled"][:10], data["labels"][:10]
    labels = np.full(200, np.nan)
    labels[data["labelled"]] = data["labels"]
    theirs = pool.MaxHerding(metric_dict={"gamma": 1.0}, random_state=0)
    query = theirs.query(data["features"].astype(np.float64), labels, batch_size=25, return_utilities=True)
    expected, utilities = query[0].tolist(), query[1]  # (25,), (25, 200)
    picks = run("max_herding", Pool.from_arrays(**data), 25, np.random.default_rng(0))
    assert picks.score.sum() == pytest.approx(190 * np.nanmax(utilities, 1).sum(), rel=1e-3)
    parts = next((i for i, pair in enumerate(zip(picks.index, expected, strict=True)) if len(set(pair)) > 1), 24)
    assert parts >= 10
    assert utilities[parts, picks.index[parts]] == pytest.approx(np.nanmax(utilities[parts]), rel=1e-5)


# --- probcover --------------------------------------------------------------------------------------------------------


def clusters(x: np.ndarray, k: int) -> np.ndarray:
    return k_means(tensor(unit(x)), k, np.random.default_rng(0))[1].numpy()


@pytest.mark.parametrize("seed", range(3))
def test_probcover_picks_what_scikit_activeml_picks(seed, monkeypatch):
    """At the same radius, with their ties (which they break at random) going to the lower index as ours do, and up to
    full coverage, after which they draw too."""
    module = pytest.importorskip("skactiveml.pool._prob_cover")
    monkeypatch.setattr(module, "rand_argmax", lambda utilities, random_state: [np.nanargmax(utilities)])
    data = arrays(300, seed=seed)
    labels = np.full(300, np.nan)
    labels[data["labelled"]] = data["labels"]
    theirs = module.ProbCover(deltas=[0.45], random_state=0)
    expected = theirs.query(unit(data["features"]), labels, batch_size=40)
    picks = run("probcover", Pool.from_arrays(**data), 40, np.random.default_rng(0), delta=0.45)
    covering = int((picks.score > 0).sum())
    assert covering >= 20
    assert picks.index[:covering].tolist() == expected[:covering].tolist()


def test_the_radius_is_the_largest_with_enough_pure_balls(monkeypatch):
    """On the same clusters, between the two deltas of scikit-activeml's grid that it must lie between."""
    pool = pytest.importorskip("skactiveml.pool")
    data = arrays(300)
    h = dense(data)[1]
    x, labels = unit(h), clusters(h, 5)
    monkeypatch.setattr(probcover, "k_means", lambda *_: (None, torch.from_numpy(labels)))
    delta = probcover.largest_pure(tensor(x), 5, 0.95, np.random.default_rng(0))

    class Fixed:
        def __init__(self, n_clusters=5):
            pass

        def fit_predict(self, x):
            return labels

    grid = np.arange(0.001, 1, 0.001)
    theirs = pool.ProbCover(n_classes=5, deltas=grid, cluster_algo=Fixed, random_state=0)
    theirs.query(x, np.concatenate([[0.0], np.full(len(x) - 1, np.nan)]), batch_size=1)
    assert theirs.delta_max_ <= delta + 1e-5 < theirs.delta_max_ + 0.0011
    apart = np.sqrt(((x[:, None] - x) ** 2).sum(2))

    def pure(radius):
        return (~((apart <= radius) & (labels[:, None] != labels)).any(1)).mean()

    assert pure(delta) >= 0.95 > pure(delta * 1.001)


def test_what_probcover_takes_once_all_is_covered_is_random_and_gains_nothing():
    data = {key: arrays(200)[key] for key in ("features", "logits")}
    answers = [
        run("probcover", Pool.from_arrays(**data), 60, np.random.default_rng(seed), delta=0.7) for seed in range(2)
    ]
    covering = int((answers[0].score > 0).sum())
    assert 0 < covering < 40
    assert answers[0].index[:covering].tolist() == answers[1].index[:covering].tolist()
    assert answers[0].index[covering:].tolist() != answers[1].index[covering:].tolist()


# --- uherding ---------------------------------------------------------------------------------------------------------


def softmax(z: np.ndarray) -> np.ndarray:
    exponentials = np.exp(z - z.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


UNSURE = {
    "margin": lambda p: 1 - (np.sort(p, 1)[:, -1] - np.sort(p, 1)[:, -2]),
    "entropy": lambda p: -(p * np.log(p)).sum(1),
    "least_confidence": lambda p: 1 - p.max(1),
}


@pytest.mark.parametrize("uncertainty", UNSURE)
def test_uherding_is_greedy_uncertainty_coverage_with_the_width_of_the_labelled_set(uncertainty):
    data = arrays(300, d=12)
    unlabelled, h, *_ = dense(data)
    x, known = unit(h), unit(data["features"][data["labelled"]])
    apart = np.sqrt(((known[:, None] - known) ** 2).sum(2))
    width = apart[np.triu_indices(len(known), 1)].min()
    kernel = RBF(width)
    weights = UNSURE[uncertainty](softmax(data["logits"][unlabelled].astype(np.float64)))
    chosen = {"uncertainty": uncertainty, "calibration": "none"}
    picks = run("uherding", Pool.from_arrays(**data), 30, np.random.default_rng(0), **chosen)
    lower = similar(x, known, kernel).max(1)
    places = np.searchsorted(unlabelled, picks.index).tolist()
    assert_greedy(similar(x, x, kernel), places, picks.score.tolist(), lower, weights=weights, rel=1e-4)


def test_without_labels_or_doubt_uherding_is_max_herding():
    data = arrays(200)
    cold = {key: data[key] for key in ("features", "logits")}
    herding = run("max_herding", Pool.from_arrays(**cold), 20, np.random.default_rng(0))
    assert run("uherding", Pool.from_arrays(**cold), 20, np.random.default_rng(0)).index.tolist() == (
        herding.index.tolist()
    )
    sure = data | {"logits": np.where(data["logits"] == data["logits"].max(1, keepdims=True), 300, -300)}
    herding = run("max_herding", Pool.from_arrays(**data), 20, np.random.default_rng(0))
    picks = run("uherding", Pool.from_arrays(**sure), 20, np.random.default_rng(0), width=1.0)
    assert picks.index.tolist() == herding.index.tolist()


@pytest.mark.parametrize("heat", [0.4, 1.0, 3.0])
def test_temperature_undoes_a_wrong_scale_of_the_logits(heat):
    """Labels drawn by the softmax of the logits are calibrated at temperature 1."""
    rng = np.random.default_rng(0)
    z = 2 * rng.standard_normal((20_000, 5))
    labels = (softmax(z).cumsum(1) < rng.random((20_000, 1))).sum(1)
    t = uherding.temperature(tensor(heat * z), labels, uherding.TEMPERATURES)
    assert t == pytest.approx(heat, rel=0.12)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    confidences, correct = torch.tensor([0.9, 0.92, 0.3, 0.31]), torch.tensor([True, False, False, False])
    # bins (0.867, 0.933] and (0.267, 0.333]
    expected = (abs(0.5 - 0.91) * 2 + abs(0 - 0.305) * 2) / 4
    assert uherding.calibration_error(confidences, correct).item() == pytest.approx(expected, rel=1e-5)


def test_a_network_is_not_sharpened_by_what_it_was_trained_on():
    """All labels are fitted, with probability 0.7: the least calibration error is at a temperature below 1, which says
    nothing of other examples."""
    data = arrays(200)
    data["logits"][data["labelled"]] = 0
    data["logits"][data["labelled"], data["labels"]] = 2
    pool = Pool.from_arrays(**data)
    assert uherding.temperature(pool.labelled_logits, data["labels"], uherding.TEMPERATURES) < 1
    plain = run("uherding", pool, 20, np.random.default_rng(0), calibration="none")
    assert run("uherding", pool, 20, np.random.default_rng(0)).index.tolist() == plain.index.tolist()


def test_the_least_distance_is_between_two_examples_that_differ():
    x = vectors(50)
    twice = np.concatenate([x, x[:10]])
    apart = np.sqrt(((x[:, None].astype(np.float64) - x) ** 2).sum(2))
    assert least_distance((tensor(twice),)) == pytest.approx(apart[np.triu_indices(50, 1)].min(), rel=1e-3)
    assert least_distance((tensor(x[:1]),)) == least_distance((tensor(x[:0]),)) == 0
