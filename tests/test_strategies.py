"""Every file in strategies/: one contract for all; each formula against a brute force in float64 from its paper.

A new file is under the contract as soon as it is there. What it needs beyond the tests here is a reference of its own.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from test_kernels import assert_greedy, cosines, dense_k_centre, kronecker
from test_pool import identity, write_view

from allround import device, strategies
from allround.artifacts import Labels, write_labels
from allround.errors import AllroundError
from allround.learners.model import Classifier
from allround.pool import Pool
from allround.strategies import _settings, describe, names, options, run, select, settings


def parameters(name: str) -> dict:
    """A strategy's hyperparameters and what the door adds to them."""
    return describe(name).parameters | options(describe(name).needs)


# Every strategy with its defaults, and with every allowed value of each hyperparameter that names its values.
VARIANTS = [(name, {}) for name in names()] + [
    (name, {key: value})
    for name in names()
    for key, parameter in parameters(name).items()
    for value in parameter.choices
    if value != parameter.default
]
EVERY = pytest.mark.parametrize(
    ("name", "hyperparameters"), VARIANTS, ids=["-".join([n, *map(str, h.values())]) for n, h in VARIANTS]
)


def arrays(n: int = 60, d: int = 8, c: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
    """What the contract gives to every strategy: features, logits of a linear layer over them, and 10 labels; the layer
    as a model, whose features are the pixels; half of the labelled examples as a query set, half as a private set."""
    rng = np.random.default_rng(seed)
    features = np.maximum(rng.standard_normal((n, d)), 0).astype(np.float32)
    zero = ~features.any(1)  # several of these no method could tell apart
    features[zero] = np.random.default_rng(seed + 1).random((zero.sum(), d))
    layer = linear(rng.standard_normal((d, c)), rng.standard_normal(c))
    logits = (features @ layer.head.weight.numpy().T + layer.head.bias.numpy()).astype(np.float32)
    labelled = rng.permutation(n)[: max(2, n // 6)]
    labels = rng.integers(c, size=len(labelled))
    half = len(labelled) // 2
    return {
        "features": features,
        "logits": logits,
        "mc_logits": logits + rng.standard_normal((4, n, c)).astype(np.float32),
        "images": features.reshape(n, 1, 1, d),
        "model": layer,
        "labelled": labelled,
        "labels": labels,
        "sets": {"query": labelled[:half], "private": labelled[half:]},
        "set_labels": {"query": labels[:half], "private": labels[half:]},
    }


def linear(weights: np.ndarray, bias: np.ndarray) -> Classifier:
    """A classifier whose features are the pixels; weights: (d, c)."""
    head = torch.nn.Linear(*weights.shape)
    head.load_state_dict({"weight": torch.from_numpy(weights.T.copy()), "bias": torch.from_numpy(bias)})
    return Classifier(torch.nn.Flatten(), head).eval().requires_grad_(False)


def duplicates() -> dict:
    a = arrays()
    return a | {key: np.repeat(a[key][:6], 10, axis=0) for key in ("features", "logits", "images")}


def zero_vectors() -> dict:
    a = arrays()
    return a | {key: np.zeros_like(a[key]) for key in ("features", "logits", "mc_logits", "images")}


def certain() -> dict:
    a = arrays()
    sure = np.where(a["logits"] == a["logits"].max(1, keepdims=True), 200, -200).astype(np.float32)
    return a | {"logits": sure, "mc_logits": np.repeat(sure[None], 4, axis=0)}


def one_class() -> dict:
    a = arrays()
    return a | {
        "logits": a["logits"][:, :1],
        "mc_logits": a["mc_logits"][..., :1],
        "model": linear(a["model"].head.weight.numpy().T[:, :1], a["model"].head.bias.numpy()[:1]),
        "labels": np.zeros_like(a["labels"]),
        "set_labels": {key: np.zeros_like(labels) for key, labels in a["set_labels"].items()},
    }


def one_label() -> dict:
    a = arrays()
    return a | {"labels": np.zeros_like(a["labels"])}


def half() -> dict:
    a = arrays()
    return a | {"features": a["features"].astype(np.float16)}


# situation -> (arrays, budget)
SITUATIONS = {
    "a usual pool": (arrays, 12),
    "one example": (arrays, 1),
    "everything left": (arrays, 50),
    "everything left of duplicates": (duplicates, 50),
    "duplicates": (duplicates, 12),
    "zero vectors": (zero_vectors, 12),
    "logits of 200 and -200": (certain, 12),
    "a single class": (one_class, 12),
    "labels of one class": (one_label, 12),
    "features in 16 bits": (half, 12),
}


@EVERY
@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_query_is_as_many_distinct_unlabelled_examples_as_asked(name, hyperparameters, situation):
    make, budget = SITUATIONS[situation]
    data = make()
    before = {key: array.copy() for key, array in data.items() if isinstance(array, np.ndarray)}
    picks = run(name, Pool.from_arrays(**data), budget, np.random.default_rng(0), **hyperparameters)
    assert picks.index.dtype == np.int64
    assert picks.index.shape == (budget,)
    assert len(set(picks.index.tolist())) == budget
    assert not set(picks.index.tolist()) & set(data["labelled"].tolist())
    assert set(picks.index.tolist()) <= set(range(60))
    assert picks.score is None or (picks.score.shape == (budget,) and np.isfinite(picks.score).all())
    for key, array in before.items():
        np.testing.assert_array_equal(data[key], array, err_msg=f"{name} changed its input '{key}'")


@EVERY
def test_the_same_seed_gives_the_same_answer_and_another_seed_another_where_it_draws(name, hyperparameters):
    data = arrays(1500)
    answers, drew = [], []
    for seed in (0, 0, 1, 2, 3, 4, 5, 6):
        rng = np.random.default_rng(seed)
        start = rng.bit_generator.state
        answers.append(run(name, Pool.from_arrays(**data), 10, rng, **hyperparameters).index.tolist())
        drew.append(rng.bit_generator.state != start)
    assert answers[0] == answers[1]
    assert len(set(drew)) == 1
    assert (len({tuple(answer) for answer in answers}) > 1) == drew[0]


@EVERY
def test_files_and_arrays_give_the_same_picks(name, hyperparameters, tmp_path):
    data = arrays(200)
    fields = {"outputs": {key: data[key] for key in ("features", "logits")}}
    fields |= {view: {"mc_logits": data["mc_logits"]} for view in ("mc_dropout10", "ensemble10")}
    needs = set(settings(name, hyperparameters, sets=data["sets"])["needs"]) & set(fields)
    views = {view: write_view(tmp_path / f"{view}.h5", view, fields[view]) for view in needs}
    more = {key: data[key] for key in ("images", "model", "sets", "set_labels")}
    labels = Labels(data["labelled"], data["labels"], np.zeros(len(data["labels"]), dtype=np.int64))
    write_labels(tmp_path / "labels.csv", labels, identity=identity("label"), digest="d1")
    pool = Pool.open(views, tmp_path / "labels.csv", size=200, **more)
    expected = select(name, Pool.from_arrays(**data), budget=20, seed=3, **hyperparameters)
    assert select(name, pool, budget=20, seed=3, **hyperparameters).tolist() == expected.tolist()


@EVERY
def test_picks_do_not_depend_on_the_order_of_the_pool(name, hyperparameters):
    data, order = arrays(200), np.random.default_rng(9).permutation(200)
    rng = np.random.default_rng(0)
    start = rng.bit_generator.state
    picks = run(name, Pool.from_arrays(**data), 10, rng, **hyperparameters)
    if rng.bit_generator.state != start:
        pytest.skip("draws examples by their place in the pool")
    place = np.argsort(order)
    moved = {key: data[key][order] for key in ("features", "logits", "images")}
    moved |= {"mc_logits": data["mc_logits"][:, order], "labelled": place[data["labelled"]]}
    moved |= {"sets": {key: place[index] for key, index in data["sets"].items()}}
    there = select(name, Pool.from_arrays(**{**data, **moved}), budget=10, **hyperparameters)
    assert order[there].tolist() == picks.index.tolist()


def test_memory_is_bound_by_the_inputs_and_not_by_n_times_n_or_n_times_gradients():
    """In a process of its own, whose peak nothing else has raised: 10,000 x (100 x 256), where the gradients would take
    1 GB, all pairs 400 MB, and the inputs take 14 MB (4 draws of the logits 16 MB more)."""
    code = """
import resource, sys
import numpy as np
from test_strategies import linear
from allround.pool import Pool
from allround.strategies import names, select

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)  # MB

def pool(n):
    rng = np.random.default_rng(0)
    h, z = rng.standard_normal((n, 256), dtype=np.float32), rng.standard_normal((n, 100), dtype=np.float32)
    labelled = np.arange(0, n, 25)
    sets, labels = {"query": labelled[::2], "private": labelled[1::2]}, {}
    more = {"images": h.reshape(n, 1, 16, 16), "model": linear(rng.standard_normal((256, 100)), np.zeros(100))}
    more |= {"mc_logits": np.stack([z, -z, z + 1, z * 2]), "sets": sets}
    more |= {"set_labels": {key: index % 100 for key, index in sets.items()}}
    return Pool.from_arrays(h, z, labelled=labelled, labels=labelled % 100, **more)

for name in names():
    select(name, pool(500), budget=5)  # libraries set themselves up
large = pool(10_000)
start = peak()
for name in names():
    select(name, large, budget=10)
    print(name, round(peak() - start), "MB")
"""
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path(__file__).parent
    ).stdout
    grown = {line.split()[0]: int(line.split()[1]) for line in out.splitlines()}
    assert set(grown) == set(names())
    assert max(grown.values()) < 168, grown


# --- formulas ---------------------------------------------------------------------------------------------------------


def dense(data: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of the unlabelled examples, in float64: indices, features, probabilities, softmax - onehot(argmax)."""
    unlabelled = np.setdiff1d(np.arange(len(data["features"])), data["labelled"])
    logits = data["logits"][unlabelled].astype(np.float64)
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    p = exponentials / exponentials.sum(1, keepdims=True)
    return unlabelled, data["features"][unlabelled].astype(np.float64), p, p - np.eye(p.shape[1])[p.argmax(1)]


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


# --- the door ---------------------------------------------------------------------------------------------------------


def choose(name: str, pool: Pool | None = None, budget: object = 3, **hyperparameters: object):
    return lambda: select(name, pool or Pool.from_arrays(**arrays()), budget=budget, **hyperparameters)


def without(*keys: str) -> Pool:
    return Pool.from_arrays(**{key: value for key, value in arrays().items() if key not in keys})


def draws(t: int) -> Pool:
    data = arrays()
    return Pool.from_arrays(**{**data, "mc_logits": data["mc_logits"][:t]})


def nan_features() -> Pool:
    data = arrays()
    data["features"][int(np.setdiff1d(np.arange(60), data["labelled"])[4])] = np.inf
    return Pool.from_arrays(**data)


FAULTS = {
    "unknown strategy": (choose("bagde"), "unknown strategy 'bagde'. Did you mean 'badge'"),
    "unknown hyperparameter": (choose("fass", betta=3), "unknown hyperparameter 'betta'. Did you mean 'beta'"),
    "a value of the wrong type": (choose("fass", beta="5"), "'beta' must be of type int .*not '5'"),
    "true for a number": (choose("fass", beta=True), "'beta' must be of type int .*not True"),
    "a number that is not finite": (choose("glister", step_size=float("nan")), "'step_size' must be of type float"),
    "an unknown value": (choose("fass", uncertainty="margn"), "unknown value 'margn'. Did you mean 'margin'"),
    "a value out of range": (choose("fass", beta=0), "'beta' must be >= 1|beta must be 1 or more"),
    "a step backwards": (choose("glister", step_size=-1.0), "'step_size' must be > 0"),
    "a budget larger than the pool": (choose("margin", budget=51), "budget 51 is larger than the pool: 50 unlabelled"),
    "no budget": (choose("margin", budget=0), "budget must be a whole number of 1 or more, not 0"),
    "half a budget": (choose("margin", budget=2.5), "budget must be a whole number of 1 or more, not 2.5"),
    "a view that is missing": (choose("margin", Pool.from_arrays(size=9)), "needs 'outputs', .*it has: none"),
    "features that are missing": (choose("coreset", without("features")), "the pool has no features"),
    "no validation set": (choose("glister", without("labelled", "labels")), "labelled set, which is empty"),
    "features that are not finite": (choose("badge", nan_features()), "features of example .* are not finite"),
    "a single draw": (choose("bald", draws(1)), "'bald' needs 2 draws or more, and mc_logits"),
    "a seed below 0": (choose("random", seed=-1), "seed must be a whole number of 0 or more, not -1"),
    "more parts than picks": (
        choose("margin", partitions=4),
        "partitions 4 is more than the budget 3; allowed: 1 to 3",
    ),
    "a value of the wrong type beside an option that follows from it": (
        choose("power", score="margn", posterior="mc_dropout"),
        "unknown value 'margn'. Did you mean 'margin'",
    ),
    "labels that are not known": (choose("glister", without("labels")), "whose labels are not known; give labels="),
    "a diverged step": (choose("glister", step_size=1e38, budget=40), "score that is not finite"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_one_line_that_says_what_is_wrong(fault):
    act, message = FAULTS[fault]
    with pytest.raises(AllroundError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)


def test_bad_input_is_found_before_any_row_is_read(monkeypatch):
    monkeypatch.setattr(Pool, "_block", lambda *_: pytest.fail("read a row"))
    for fault in (
        "unknown hyperparameter",
        "a value of the wrong type",
        "a budget larger than the pool",
        "half a budget",
    ):
        with pytest.raises(AllroundError):
            FAULTS[fault][0]()


def test_settings_are_complete_and_one_setting_has_one_form():
    """They are part of a query's identity: 1 and 1.0 must not make two."""
    assert settings("random", {}) == {"hyperparameters": {}, "needs": []}
    assert settings("random", {"partitions": 1}) == settings("random", {})
    whole = settings("fass", {})
    assert whole["needs"] == ["outputs"]
    assert repr(settings("glister", {"step_size": 1})) == repr(settings("glister", {"step_size": 1.0}))
    assert whole["hyperparameters"]["beta"] == 5


def test_a_fault_in_the_configuration_names_its_place():
    with pytest.raises(AllroundError, match=r"^strategies\.yaml entry 'mine': strategy 'fass': unknown hyperparameter"):
        settings("fass", {"gamma": 1}, "strategies.yaml entry 'mine'")
    with pytest.raises(AllroundError, match=r"^strategies\.yaml entry 'mine': unknown strategy 'fas'"):
        settings("fas", {}, "strategies.yaml entry 'mine'")


@pytest.fixture
def new_file(tmp_path, monkeypatch):
    """Drop a file into strategies/."""
    for path in _settings.FOLDER.glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(_settings, "FOLDER", tmp_path)
    monkeypatch.setattr(strategies, "__path__", [str(tmp_path), *strategies.__path__])
    describe.cache_clear()
    written = []

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        written.append(f"allround.strategies.{name}")

    yield write
    describe.cache_clear()
    for module in written:
        sys.modules.pop(module, None)


def worked_example() -> str:
    """The file that docs/strategies.md tells an author to write."""
    text = (Path(__file__).parents[1] / "docs/strategies.md").read_text()
    return text.split("```python\n# src/allround/strategies/rare_margin.py\n")[1].split("```")[0]


def test_the_worked_example_of_the_documentation_is_a_strategy(new_file):
    new_file("rare_margin", worked_example())
    assert "rare_margin" in names()
    assert set(describe("rare_margin").needs) == {"outputs"}
    assert settings("rare_margin", {"strength": 2})["hyperparameters"] == {"strength": 2.0}
    assert len(select("rare_margin", Pool.from_arrays(**arrays()), budget=7)) == 7


AIM = "def select(pool, budget, rng, *, aim: Literal['far', 'near'] = 'far'): pass"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def select(pool, budget, rng): pass", "not a strategy; needed: NEEDS"),
        ("NEEDS = {'outputs'}", "not a strategy; needed: NEEDS"),
        ("NEEDS = {'outputs'}\ndef select(pool, budget, rng, *, beta): pass", "literal defaults"),
        ("NEEDS = {'outputs'}\ndef select(pool, budget): pass", r"select\(pool, budget, rng"),
        ("NEEDS = {'outptus'}\ndef select(pool, budget, rng): pass", "unknown need 'outptus'. Did you mean 'outputs'"),
        (
            "NEEDS = {'outputs'}\ndef select(pool, budget, rng, *, samples=3): pass",
            "'samples' is an option of every entry that needs it; rename",
        ),
        ("NEEDS = 'outputs'\ndef select(pool, budget, rng): pass", "not a strategy; needed: NEEDS"),
        (
            f"NEEDS = {{'query': {{'aims': ['near']}}}}\n{AIM}",
            "NEEDS 'query': unknown hyperparameter 'aims'. Did you mean",
        ),
        (f"NEEDS = {{'query': {{'aim': ['neer']}}}}\n{AIM}", "'aim': unknown value 'neer'. Did you mean 'near'"),
        (
            f"NEEDS = {{'query': {{'aim': 'near'}}}}\n{AIM}",
            r"must be None or {hyperparameter: \[values\]}, not {'aim': 'near'}",
        ),
        (f"NEEDS = {{'query': True}}\n{AIM}", r"must be None or {hyperparameter: \[values\]}, not True"),
        (
            "NEEDS = set()\ndef select(pool, budget, rng, *, a: Annotated[int, '=> 1'] = 5): pass",
            "'a': range '=> 1' cannot",
        ),
        (
            "NEEDS = set()\ndef select(pool, budget, rng, *, a: Annotated[str, '>= 1'] = 'x'): pass",
            "'a': range '>= 1' can",
        ),
        (
            "NEEDS = set()\ndef select(pool, budget, rng, *, a: Annotated[int, '>= 9'] = 5): pass",
            "its default must be >= 9",
        ),
        ("NEEDS = {", "broken.py line 1: not valid Python"),
        (
            "NEEDS = set()\ndef select(pool, budget, rng): return [0] * budget",
            "'broken' returned 1 distinct unlabelled",
        ),
        (
            "NEEDS = set()\ndef select(pool, budget, rng): return pool.labelled[:budget]",
            "returned 0 distinct unlabelled",
        ),
    ],
)
def test_a_strategy_that_breaks_the_contract_is_told_so(new_file, text, message):
    new_file("broken", text)
    with pytest.raises(AllroundError, match=message) as caught:
        select("broken", Pool.from_arrays(size=20, labelled=np.arange(5, 10)), budget=3)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@EVERY
def test_the_gpu_picks_what_the_cpu_picks(name, hyperparameters):
    data = arrays(2000, d=32, c=10)
    here = select(name, Pool.from_arrays(**data), budget=100, **hyperparameters)
    pool = Pool.from_arrays(**data, device=str(device.choose("cuda", exact=True)))
    there = select(name, pool, budget=100, **hyperparameters)
    assert there.tolist() == select(name, pool, budget=100, **hyperparameters).tolist()
    assert there[:20].tolist() == here[:20].tolist()  # later, rounding may decide between equals


# --- what the door adds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["random", "margin", "coreset"])
@pytest.mark.parametrize("budget", [4, 7, 50])
def test_partitions_split_the_budget_over_random_parts_of_the_pool(name, budget, monkeypatch):
    parts = []
    original = Pool.part
    monkeypatch.setattr(Pool, "part", lambda pool, rows: parts.append(rows) or original(pool, rows))
    pool = Pool.from_arrays(**arrays())
    picks = run(name, pool, budget, np.random.default_rng(3), partitions=4)
    assert len(set(picks.index.tolist())) == budget
    assert np.isin(picks.index, pool.unlabelled).all()
    shares = [int(np.isin(picks.index, pool.unlabelled[rows]).sum()) for rows in parts]
    assert sum(shares) == budget
    assert max(shares) - min(shares) <= 1
    if budget == 50:
        assert sorted(np.concatenate(parts).tolist()) == list(range(50))  # every example is in one part
        assert all((np.diff(rows) != 1).any() for rows in parts)  # and no part is a stretch of the pool
    assert run(name, pool, budget, np.random.default_rng(3), partitions=4).index.tolist() == picks.index.tolist()


def test_a_fault_in_a_partition_leaves_the_threads_as_they_were():
    before = torch.get_num_threads()
    with pytest.raises(AllroundError, match="are not finite"):
        select("badge", nan_features(), budget=12, partitions=4)
    assert torch.get_num_threads() == before


def test_numbers_of_numpy_are_numbers():
    pool, plain = Pool.from_arrays(**arrays()), {"step_size": 0.25, "ground": 20}
    expected = select("glister", pool, budget=5, **plain).tolist()
    found = select("glister", pool, budget=np.int64(5), step_size=np.float32(0.25), ground=np.int64(20)).tolist()
    assert found == expected


def test_a_pool_of_arrays_goes_to_another_process():
    pool = Pool.from_arrays(**arrays())
    there = pickle.loads(pickle.dumps(pool))
    assert select("badge", there, budget=5).tolist() == select("badge", pool, budget=5).tolist()


def pixels(**changes: object) -> dict:
    return {"images": np.zeros((60, 2, 4, 3), np.uint8), "scale": ((0.5,) * 3, (0.2,) * 3), **changes}


POOL_FAULTS = {
    "bytes without a scale": (pixels(scale=None), r"uint8 images need scale=\(mean, std\): 3 numbers"),
    "a scale of other channels": (pixels(scale=((0.5,), (0.2,))), "3 numbers on the scale 0..1 each"),
    "one number for all channels": (pixels(scale=(0.5, 0.2)), "3 numbers on the scale 0..1 each"),
    "a scale for images that have one": (
        pixels(images=np.zeros((60, 3, 2, 4))),
        "taken as normalised; leave scale out",
    ),
    "a model in training": ({"model": Classifier(torch.nn.Flatten(), torch.nn.Linear(8, 5))}, "in training mode"),
    "a model that is none": ({"model": torch.nn.Linear(8, 5)}, "must be an allround.learners.model.Classifier"),
    "a mask of labelled ones": (
        {"labelled": np.arange(60) < 10},
        "labelled: must be whole numbers, .*not of type bool",
    ),
    "an unknown set": ({"sets": {"qurey": [1]}, "set_labels": None}, "unknown set 'qurey'. Did you mean 'query'"),
    "labels of no set": ({"set_labels": {"qurey": [1]}}, "unknown set 'qurey'"),
    "a set that is a mask": ({"sets": {"query": np.arange(60) < 3}}, "set 'query': must be whole numbers"),
}


@pytest.mark.parametrize("fault", POOL_FAULTS)
def test_a_pool_that_is_wrong_is_one_line_and_not_a_wrong_answer(fault):
    changes, message = POOL_FAULTS[fault]
    with pytest.raises(AllroundError, match=message) as caught:
        Pool.from_arrays(**{**arrays(), **changes})
    assert "\n" not in str(caught.value)


def test_the_best_of_every_partition_come_first():
    pool = Pool.from_arrays(**arrays())
    picks = run("margin", pool, 20, np.random.default_rng(0), partitions=4)
    groups = picks.score.reshape(5, 4)  # (rank in its part, part)
    assert (np.diff(groups, axis=0) >= 0).all()


def test_a_posterior_changes_whose_probabilities_a_score_sees():
    data = arrays(300)
    unlabelled = np.setdiff1d(np.arange(300), data["labelled"])
    z = data["mc_logits"][:, unlabelled].astype(np.float64)
    p = np.exp(z - z.max(2, keepdims=True))
    mean = (p / p.sum(2, keepdims=True)).mean(0)
    for posterior in ("mc_dropout", "ensemble"):
        picks = run("entropy", Pool.from_arrays(**data), 30, np.random.default_rng(0), posterior=posterior)
        score = -(mean * np.log(mean)).sum(1)
        assert picks.index.tolist() == unlabelled[np.argsort(-score, kind="stable")[:30]].tolist()
        np.testing.assert_allclose(picks.score, np.sort(score)[::-1][:30], rtol=1e-4)


def test_what_an_entry_needs_follows_from_its_settings():
    """The planner embeds what is named here and nothing else."""
    assert settings("margin", {})["needs"] == ["outputs"]
    assert settings("margin", {"posterior": "mc_dropout"})["needs"] == ["mc_dropout10"]
    assert settings("margin", {"posterior": "ensemble", "samples": 5})["needs"] == ["ensemble5"]
    same = [settings("margin", {"samples": samples}) for samples in (5, 10)]
    assert same[0] == same[1]  # draws of no posterior change nothing


@pytest.fixture
def needy(new_file):
    """A strategy that needs more with one value of a hyperparameter, and whose numbers have ranges."""
    new_file(
        "needy",
        "from typing import Annotated, Literal\n"
        "NEEDS = {'outputs': None, 'query': {'aim': ['near']}}\n"
        "def select(pool, budget, rng, *, aim: Literal['far', 'near'] = 'far',\n"
        "           share: Annotated[float, '> 0 and <= 1'] = 0.5, most: Annotated[int | None, '>= 1'] = None):\n"
        "    if aim == 'far':\n"
        "        return pool.unlabelled[:budget]\n"
        "    assert pool.of('query', 'features').shape == (len(pool.sets['query']), 8)\n"
        "    assert len(pool.set_labels('query')) == len(pool.sets['query'])\n"
        "    return pool.unlabelled[-budget:]\n",
    )


def csv_of(path: Path, text: str) -> dict:
    path.write_text(text)
    return {"file": str(path)}


def test_a_set_of_examples_is_named_by_the_entry(needy, tmp_path):
    data = {key: value for key, value in arrays().items() if key not in ("sets", "set_labels")}
    pool = Pool.from_arrays(**data, classes=["a", "b", "c", "d", "e"], truth=np.arange(60) % 5)
    last = int(pool.unlabelled[-1])
    assert select("needy", pool, budget=1).tolist() == [int(pool.unlabelled[0])]
    assert select("needy", pool, budget=1, aim="near", query="labelled").tolist() == [last]
    assert select("needy", pool, budget=1, aim="near", query={"classes": ["a", "b", "c", 3, 4]}).tolist() == [last]
    known = csv_of(tmp_path / "known.csv", f"index\n{last}\n{data['labelled'][0]}\n")
    assert select("needy", pool, budget=1, aim="near", query=known).tolist() == [int(pool.unlabelled[-2])]
    entry = settings("needy", {"aim": "near", "query": known})["hyperparameters"]["query"]
    resolved = pool.prepared(sets={"query": entry})
    assert resolved.set_labels("query").tolist() == [last % 5, data["labelled"][0] % 5]
    labelled = csv_of(tmp_path / "labelled.csv", f"index,label\n{last},4\n")
    entry = settings("needy", {"aim": "near", "query": labelled})["hyperparameters"]["query"]
    assert pool.prepared(sets={"query": entry}).set_labels("query").tolist() == [4]
    excel = csv_of(tmp_path / "excel.csv", f"\ufeffindex, label\r\n{last}, 4\r\n")  # byte-order mark, Windows line ends
    entry = settings("needy", {"aim": "near", "query": excel})["hyperparameters"]["query"]
    assert pool.prepared(sets={"query": entry}).set_labels("query").tolist() == [4]


def test_another_content_of_a_set_file_is_another_setting(needy, tmp_path):
    """Else the queries that it changes would not run again."""
    entries = [
        settings("needy", {"aim": "near", "query": csv_of(tmp_path / "set.csv", f"index\n{index}\n")})
        for index in (3, 4)
    ]
    assert entries[0] != entries[1]
    pool = Pool.from_arrays(**{**arrays(), "sets": None, "set_labels": None})
    with pytest.raises(AllroundError, match=r"set\.csv has changed since the run was planned"):
        select("needy", pool, budget=1, **entries[0]["hyperparameters"])


SETTING_FAULTS = {
    "a set without a name": ({"aim": "near"}, "hyperparameter 'query' has no default; name the set: labelled, "),
    "a set that is no set": ({"aim": "near", "query": 3}, "'query' must be labelled, {classes: .*not 3"),
    "no classes": ({"aim": "near", "query": {"classes": []}}, "classes must be a list of class names or numbers"),
    "a file that is missing": ({"aim": "near", "query": {"file": "no.csv"}}, "cannot read file 'no.csv' .No such file"),
    "a set that is not needed": ({"query": "labelled"}, "unknown hyperparameter 'query'"),
    "out of range": ({"share": 1.5}, "'share' must be > 0 and <= 1, not 1.5"),
    "at the open end": ({"share": 0}, "'share' must be > 0 and <= 1, not 0.0"),
    "an optional number out of range": ({"most": 0}, "'most' must be >= 1, not 0"),
    "an optional number of the wrong type": ({"most": 1.5}, "'most' must be of type int or null"),
    "no partition": ({"partitions": 0}, "'partitions' must be >= 1, not 0"),
    "a posterior that it has not": ({"posterior": "point"}, "unknown hyperparameter 'posterior'"),
}


@pytest.mark.parametrize("fault", SETTING_FAULTS)
def test_a_wrong_setting_is_one_line_before_anything_runs(needy, fault):
    entry, message = SETTING_FAULTS[fault]
    with pytest.raises(AllroundError, match=message) as caught:
        settings("needy", entry, "strategies.yaml entry 'mine'")
    assert str(caught.value).startswith("strategies.yaml entry 'mine': strategy 'needy'")
    assert "\n" not in str(caught.value)


SET_FAULTS = {
    "a class that is missing": ({"classes": ["cat"]}, "unknown class 'cat'"),
    "a class number that is missing": ({"classes": [7]}, "there is no class 7; allowed: 0 to 4"),
    "a class without labels": ({"classes": ["f"]}, "no labelled example has a class of .'f'"),
    "a file without indices": ("label\n3\n", "not a csv with a column index"),
    "an index outside the pool": ("index\n60\n", "lists index 60; allowed: 0 to 59"),
    "an index below 0": ("index\n-1\n", "distinct indices from 0 on"),
    "an index twice": ("index\n3\n3\n", "distinct indices from 0 on"),
    "an index beyond all integers": (f"index\n{10**30}\n", "not a csv with a column index of whole numbers"),
    "a file without rows": ("index\n", "distinct indices from 0 on, at least one"),
    "another separator": ("index;label\n3;1\n", "its first line is 'index;label'"),
    "a label that is no class": ("index,label\n3,77\n", "has label 77; allowed: 0 to 4"),
    "a label below 0": ("index,label\n3,-1\n", "has label -1"),
    "a label by name": ("index,label\n3,cat\n", "not a csv with a column index of whole numbers"),
}


@pytest.mark.parametrize("fault", SET_FAULTS)
def test_a_wrong_set_is_one_line(needy, fault, tmp_path):
    spec, message = SET_FAULTS[fault]
    spec = spec if isinstance(spec, dict) else csv_of(tmp_path / "set.csv", spec)
    classes = ["a", "b", "c", "d", "e"] if fault != "a class without labels" else ["a", "b", "c", "d", "e", "f"]
    pool = Pool.from_arrays(**{**arrays(), "sets": None, "set_labels": None}, classes=classes)
    with pytest.raises(AllroundError, match=message) as caught:
        select("needy", pool, budget=1, aim="near", query=spec)
    assert "\n" not in str(caught.value)


def test_images_are_normalised_as_in_training():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 4, 5, 3), dtype=np.uint8)
    scale = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.1))
    pool = Pool.from_arrays(images=images, scale=scale, labelled=[2])
    expected = ((images / 255 - scale[0]) / scale[1]).transpose(0, 3, 1, 2)[pool.unlabelled]
    found = pool.map(lambda block: block, "images")
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
    low, high = pool.image_range()
    np.testing.assert_allclose(low[:, 0, 0], -np.array(scale[0]) / scale[1], rtol=1e-5)
    np.testing.assert_allclose(high[:, 0, 0], (1 - np.array(scale[0])) / scale[1], rtol=1e-5)
