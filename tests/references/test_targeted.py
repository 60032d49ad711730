"""smi, scg and scmi against submodlib 0.0.3 on identical kernels (cosines of features, or of whole gradients, float64).

The same picks, or, where gains tie (facility location: two examples that are each other's nearest), picks that all have
the largest gain by submodlib's own count, and its value of f.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from test_set_functions import assert_greedy, theirs, unit

from allround.errors import AllroundError
from allround.kernels import log_determinant as module
from allround.kernels.log_determinant import log_determinant
from allround.pool import Pool
from allround.strategies import run

submodlib = pytest.importorskip("submodlib")

BUDGET, TRADE_OFF = 20, 0.4


def data(n: int = 90, d: int = 8, c: int = 4, seed: int = 0) -> dict:
    """A pool of n, and six labelled examples each as a query set and as a private set."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n + 12, d)).astype(np.float32) + 0.3
    logits = (features @ rng.standard_normal((d, c))).astype(np.float32)
    labelled = rng.permutation(n + 12)[:12]
    labels = rng.integers(c, size=12)
    return {
        "features": features,
        "logits": logits,
        "labelled": labelled,
        "labels": labels,
        "sets": {"query": labelled[:6], "private": labelled[6:]},
        "set_labels": {"query": labels[:6], "private": labels[6:]},
    }


def dense(inputs: dict, similarity: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the pool, and unit vectors of pool, query and private in float64: features, or whole gradients."""
    h, z = inputs["features"].astype(np.float64), inputs["logits"].astype(np.float64)
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    label = p.argmax(1)
    for name, index in inputs["sets"].items():
        label[index] = inputs["set_labels"][name]
    gradients = ((p - np.eye(p.shape[1])[label])[:, :, None] * h[:, None, :]).reshape(len(h), -1)
    vectors = unit(h if similarity == "features" else gradients)
    pool = np.setdiff1d(np.arange(len(h)), inputs["labelled"])
    return pool, vectors[pool], vectors[inputs["sets"]["query"]], vectors[inputs["sets"]["private"]]


def reference(function: str, v, q, p, eta: float, nu: float, regularisation: float):
    """submodlib's function on plain cosines; COM's on cosines cut at 0, as log(1 + t) of sums needs them."""
    n, s = len(v), {"data_sijs": v @ v.T}
    query = {"query_sijs": v @ q.T}
    private = {"private_sijs": v @ p.T}
    squares = {"query_query_sijs": q @ q.T}
    others = {"private_private_sijs": p @ p.T}
    target, hard = {"magnificationEta": eta}, {"privacyHardness": nu}
    name = f"{NAMES[function]}Function"
    build = getattr(submodlib, name)
    if function == "com":
        return build(n, 6, query_sijs=np.maximum(v @ q.T, 0), queryDiversityEta=eta)
    return {
        "fl2mi": lambda: build(n, 6, **query, queryDiversityEta=eta),
        "gcmi": lambda: build(n, 6, **query),
        "fl1mi": lambda: build(n, 6, **s, **query, **target),
        "logdetmi": lambda: build(n, 6, regularisation, **s, **query, **squares, **target),
        "flcg": lambda: build(n, 6, **s, **private, **hard),
        "gccg": lambda: build(n, 6, TRADE_OFF, **s, **private, **hard),
        "logdetcg": lambda: build(n, 6, regularisation, **s, **private, **others, **hard),
        "flcmi": lambda: build(n, 6, 6, **s, **query, **private, **target, **hard),
        "logdetcmi": lambda: build(
            n, 6, 6, regularisation, **s, **query, **private, **squares, **others,
            query_private_sijs=q @ p.T, **target, **hard,
        ),
    }[function]()  # fmt: skip


NAMES = {
    "fl2mi": "FacilityLocationVariantMutualInformation",
    "fl1mi": "FacilityLocationMutualInformation",
    "gcmi": "GraphCutMutualInformation",
    "logdetmi": "LogDeterminantMutualInformation",
    "com": "ConcaveOverModular",
    "flcg": "FacilityLocationConditionalGain",
    "gccg": "GraphCutConditionalGain",
    "logdetcg": "LogDeterminantConditionalGain",
    "flcmi": "FacilityLocationConditionalMutualInformation",
    "logdetcmi": "LogDeterminantConditionalMutualInformation",
}
STRATEGY = {"flcg": "scg", "gccg": "scg", "logdetcg": "scg", "flcmi": "scmi", "logdetcmi": "scmi"}  # else smi


def settings(function: str, similarity: str, eta: float, nu: float, regularisation: float) -> dict:
    strategy = STRATEGY.get(function, "smi")
    given = {"function": function, "similarity": similarity, "regularisation": regularisation}
    given |= {"eta": eta} if strategy != "scg" else {}
    return given | ({"nu": nu} if strategy != "smi" else {})


@pytest.mark.parametrize(
    ("function", "similarity", "weights"),
    list(product(NAMES, ["features", "gradients"], [(1.0, 1.0, 1.0), (0.6, 0.6, 0.1)])),
)
def test_every_measure_is_greedily_what_submodlib_computes(function, similarity, weights):
    inputs = data()
    pool, v, q, p = dense(inputs, similarity)
    theirs_is = reference(function, v, q, p, *weights)
    name = STRATEGY.get(function, "smi")
    picks = run(
        name, Pool.from_arrays(**inputs), BUDGET, np.random.default_rng(0), **settings(function, similarity, *weights)
    )
    mine = [int(np.flatnonzero(pool == index)[0]) for index in picks.index]
    expected = theirs(theirs_is, BUDGET)
    if not function.startswith("fl") or function == "fl2mi":
        assert mine == expected
    assert_greedy(theirs_is, len(pool), mine, picks.score, tolerance=1e-4)
    assert theirs_is.evaluate(set(mine)) == pytest.approx(theirs_is.evaluate(set(expected)), rel=1e-3)
    assert picks.score.sum() == pytest.approx(theirs_is.evaluate(set(mine)), rel=1e-3)


@pytest.mark.parametrize("function", ["fl2mi", "fl1mi", "flcg", "flcmi", "com"])
@pytest.mark.parametrize(("eta", "nu"), [(3.0, 0.3), (0.5, 2.0)])
def test_weights_that_differ_are_those_of_submodlib(function, eta, nu):
    inputs = data(seed=1)
    pool, v, q, p = dense(inputs, "features")
    theirs_is = reference(function, v, q, p, eta, nu, 1.0)
    name = STRATEGY.get(function, "smi")
    given = settings(function, "features", eta, nu, 1.0)
    picks = run(name, Pool.from_arrays(**inputs), BUDGET, np.random.default_rng(0), **given)
    mine = [int(np.flatnonzero(pool == index)[0]) for index in picks.index]
    assert_greedy(theirs_is, len(pool), mine, picks.score, tolerance=1e-4)


@pytest.mark.parametrize("similarity", ["features", "gradients"])
@pytest.mark.parametrize(
    ("function", "eta", "nu"), [("logdetmi", 3.0, 1.0), ("logdetcg", 1.0, 3.0), ("logdetcmi", 1.0, 0.2)]
)
def test_log_determinants_stay_finite_where_scaling_makes_the_kernel_indefinite(function, eta, nu, similarity):
    """submodlib's Cholesky takes the root of a negative number there: f is NaN for some sets, and so are gains."""
    inputs = data()
    inputs["features"][inputs["labelled"][1:6]] = inputs["features"][inputs["labelled"][0]]  # a query set of copies
    inputs["features"][inputs["labelled"][6:]] = inputs["features"][inputs["labelled"][0]] * 1.01
    inputs["features"][:30] = inputs["features"][inputs["labelled"][0]]
    pool, v, q, p = dense(inputs, "features")
    theirs_is = reference(function, v, q, p, eta, nu, 0.01)
    assert np.isnan(theirs_is.evaluate(set(range(5))))

    given = settings(function, similarity, eta, nu, 0.01)
    name = STRATEGY.get(function, "smi")
    picks = run(name, Pool.from_arrays(**inputs), len(pool), np.random.default_rng(0), **given)
    assert np.isfinite(picks.score).all()
    assert sorted(picks.index) == pool.tolist()


@pytest.mark.parametrize("way", ["_matrix", "_rows"])
def test_log_determinants_of_vectors_and_of_factors_agree_on_sets(way, monkeypatch):
    """Three ways to the same numbers: a matrix for plain vectors, and for vectors kept as factors that or Cholesky
    rows, whichever is smaller."""
    sizes = [(0, 50), (1, 9), (2, 5)]
    v, a, b = (torch.from_numpy(unit(np.random.default_rng(seed).standard_normal((n, 6)))).float() for seed, n in sizes)

    def wide(vectors):
        return vectors, torch.ones(len(vectors), 1).repeat(1, 3)

    for given, against in [([(a, 0.7)], [(a, 0.7), (b, 0.7)]), ([(a, 0.5)], [(a, 0.5), (b, 0.9)]), ([], [(b, 2.0)])]:
        plain = {"given": tuple(((x,), w) for x, w in given), "against": tuple(((x,), w) for x, w in against)}
        split = {"given": tuple((wide(x), w) for x, w in given), "against": tuple((wide(x), w) for x, w in against)}
        rows, gains = log_determinant((v,), 50, regularisation=0.1, **plain)
        with monkeypatch.context() as patch:
            patch.setattr(module, "_matrix", getattr(module, way))
            same, equal = log_determinant(wide(v), 50, regularisation=0.1, **split)
        assert rows[:5].tolist() == same[:5].tolist()
        torch.testing.assert_close(gains, equal, rtol=1e-3, atol=1e-4)  # late picks tie within rounding


def test_log_determinants_of_gradients_keep_nothing_per_pick_where_classes_times_features_are_fewer(monkeypatch):
    """Rows of the Cholesky factor were 9 GB for 1,000 picks of a million examples with 10 classes and 64 features."""
    monkeypatch.setattr(module, "_rows", lambda *_: pytest.fail("kept a number for every example and pick"))
    inputs = data(d=3, c=4)
    for name, function in (("smi", "logdetmi"), ("scg", "logdetcg"), ("scmi", "logdetcmi")):
        picks = run(name, Pool.from_arrays(**inputs), BUDGET, np.random.default_rng(0), function=function)
        assert len(picks.index) == BUDGET


def rare() -> dict:
    """600 examples of class 0 and 20 of class 1, of which the model sees none: it predicts 0. Three are the query."""
    rng = np.random.default_rng(0)
    label = np.r_[np.zeros(600, dtype=np.int64), np.ones(20, dtype=np.int64)]
    features = rng.standard_normal((620, 16)).astype(np.float32)
    features[label == 0, 4:] += 2
    features[label == 1, :4] += 3
    logits = np.stack([2 + 0.1 * features[:, 5], 0.1 * features[:, 6], 0.2 * features[:, 7]], 1).astype(np.float32)
    query = np.array([617, 618, 619])
    return {"features": features, "logits": logits, "sets": {"query": query}, "set_labels": {"query": label[query]}}


@pytest.mark.parametrize(("function", "least"), [("fl2mi", 9), ("fl1mi", 9), ("gcmi", 9), ("logdetmi", 6), ("com", 9)])
def test_examples_of_a_rare_class_are_found_by_a_few_of_them(function, least):
    """By fl1mi too, which gains nothing from the fifth pick on (submodlib's are of any class then, by their index)."""
    inputs = rare()
    picks = run(
        "smi",
        Pool.from_arrays(**inputs).prepared(),
        10,
        np.random.default_rng(0),
        function=function,
        similarity="features",
    )
    assert (picks.index >= 600).sum() >= least
    assert not set(picks.index) & {617, 618, 619}


@pytest.mark.parametrize("function", ["flcg", "gccg", "logdetcg"])
def test_what_is_like_the_private_set_is_left_alone(function):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((120, 16)).astype(np.float32)
    features[60:, :8] += 2
    inputs = {"features": features, "logits": features[:, :3], "sets": {"private": np.arange(100, 120)}}
    pool = Pool.from_arrays(**inputs).prepared()
    given = {"similarity": "features", "trade_off": 2.0, "nu": 0.8}
    picks = run("scg", pool, 10, np.random.default_rng(0), function=function, **given)
    assert (picks.index < 60).sum() >= 8


def test_a_query_counts_by_its_true_label_and_needs_it():
    inputs = data()
    first = run("smi", Pool.from_arrays(**inputs), 10, np.random.default_rng(0)).index
    other = inputs | {"set_labels": {name: (labels + 1) % 4 for name, labels in inputs["set_labels"].items()}}
    assert first.tolist() != run("smi", Pool.from_arrays(**other), 10, np.random.default_rng(0)).index.tolist()
    beyond = inputs | {"set_labels": {"query": np.full(6, 4)}}
    with pytest.raises(AllroundError, match=r"set 'query': labels run from 4 to 4; allowed: 0 to 3"):
        run("smi", Pool.from_arrays(**beyond), 10, np.random.default_rng(0))


@pytest.mark.parametrize("gap", [30.0, 60, 80, 95, 200])
def test_cosines_of_gradients_stay_cosines_where_the_model_is_sure(gap):
    """exp(-60) squared is 0 in float32: a length computed so would make vectors of length 100,000."""
    inputs = data()
    inputs["logits"] = np.eye(4, dtype=np.float32)[inputs["logits"].argmax(1)] * gap
    inputs["set_labels"]["query"] = inputs["logits"][inputs["sets"]["query"]].argmax(1)
    picks = run("smi", Pool.from_arrays(**inputs), 10, np.random.default_rng(0), function="fl2mi")
    assert picks.score[0] <= 6 + 1 + 1e-5
    assert (picks.score[0] > 0) == (gap < 105)  # exp(-104) is the least float32
