"""GradMatch, GLISTER and BAIT against brute force in float64 over whole gradients, written from their papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from test_baseline import Glister
from test_kernels import assert_greedy, cosines
from test_strategies import arrays, dense

from allround.errors import AllroundError
from allround.kernels.fisher import exchange, inverses
from allround.kernels.matching_pursuit import orthogonal
from allround.pool import Pool
from allround.strategies import run, select


def whole_gradients(h: np.ndarray, q: np.ndarray) -> np.ndarray:
    """q_i [h_i, 1]^T of every example, (n, c (d + 1))."""
    one = np.concatenate([h, np.ones((len(h), 1))], 1)
    return (q[:, :, None] * one[:, None, :]).reshape(len(h), -1)


def matching(data: dict, target: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices, whole gradients under hypothesised labels, and the gradient to match."""
    unlabelled, h, _, q = dense(data)
    gradients = whole_gradients(h, q)
    if target == "pool":
        return unlabelled, gradients, gradients.mean(0)
    rows, labels = data["labelled"], data["labels"]
    p = torch.from_numpy(data["logits"][rows].astype(np.float64)).softmax(1).numpy()
    truth = p - np.eye(p.shape[1])[labels]
    return unlabelled, gradients, whole_gradients(data["features"][rows].astype(np.float64), truth).mean(0)


def dense_pursuit(g: np.ndarray, target: np.ndarray, k: int, ridge: float) -> tuple[list[int], int]:
    """Rows of orthogonal matching pursuit with weights >= 0, and how many the pursuit itself gave."""
    rows, weights = [], np.zeros(0)
    for _ in range(k):
        left = target - g[rows].T @ weights
        along = g @ left
        along[rows] = -np.inf
        best, size = int(along.argmax()), np.linalg.norm(left)
        if size <= 1e-6 * np.linalg.norm(target) or along[best] <= 1e-6 * size * np.linalg.norm(g[best]):
            break
        rows.append(best)
        system = np.concatenate([g[rows].T, np.sqrt(ridge) * np.eye(len(rows))])
        weights = nnls(system, np.concatenate([target, np.zeros(len(rows))]), maxiter=10_000)[0]
    pursued = len(rows)
    rest = [row for row in np.argsort(-(g @ target), kind="stable") if row not in rows]
    return rows + rest[: k - pursued], pursued


# --- GradMatch --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [0.0, 0.5])
@pytest.mark.parametrize("target", ["pool", "validation"])
@pytest.mark.parametrize("seed", range(3))
def test_gradmatch_picks_what_omp_with_nnls_over_whole_gradients_picks(seed, target, ridge):
    """Against scipy's NNLS in float64, through the end: with no ridge nothing is left to match (pool), or nothing can
    come nearer with weights >= 0 (validation), before the budget is spent."""
    data = arrays(150, d=7, c=4, seed=seed)
    unlabelled, gradients, aim = matching(data, target)
    rows, pursued = dense_pursuit(gradients, aim, 60, ridge)
    assert pursued < 60 or ridge
    picks = run("gradmatch", Pool.from_arrays(**data), 60, np.random.default_rng(0), target=target, ridge=ridge)
    assert picks.index.tolist() == unlabelled[rows].tolist()
    assert (picks.score[:pursued] > 0).all()
    assert (picks.score[pursued:] == 0).all()


def fitted(gap: float) -> tuple[dict, np.ndarray, np.ndarray]:
    """A labelled set that the model is sure of, the pool's indices, and <g, mean gradient of that set> in float64."""
    data = arrays(150, d=7, c=4)
    data["labels"] = data["logits"][data["labelled"]].argmax(1)
    data["logits"][data["labelled"]] += gap * np.eye(4, dtype=np.float32)[data["labels"]]
    unlabelled, h, _, q = dense(data)
    z = torch.from_numpy(data["logits"][data["labelled"]].astype(np.float64))
    others = z.softmax(1).numpy() * (1 - np.eye(4)[data["labels"]])
    truth = others - others.sum(1, keepdims=True) * np.eye(4)[data["labels"]]
    aim = whole_gradients(data["features"][data["labelled"]].astype(np.float64), truth).mean(0)
    along = whole_gradients(h, q) @ aim
    return data, unlabelled, along


@pytest.mark.parametrize("gap", [10.0, 30, 60])
def test_gradmatch_matches_the_gradient_of_a_validation_set_that_the_model_has_fitted(gap):
    """As the labelled set soon is: p - 1 is rounding by then, and from a gap of 17 on 0 in float32, so that half of
    the gradient would be missing."""
    data, unlabelled, along = fitted(gap)
    picks = run("gradmatch", Pool.from_arrays(**data), 5, np.random.default_rng(0), target="validation")
    assert picks.index[0] == unlabelled[along.argmax()]
    np.testing.assert_allclose(picks.score[0], along.max(), rtol=1e-4)


@pytest.mark.parametrize("target", ["pool", "validation"])
def test_gradmatch_with_fixed_weights_takes_the_steepest_fall_of_the_distance_to_the_target(target):
    data = arrays(150, d=7, c=4)
    unlabelled, gradients, aim = matching(data, target)
    left, rows, falls = 30 * aim, [], []
    for _ in range(30):
        fall = (left**2).sum() - ((left - gradients) ** 2).sum(1)
        fall[rows] = -np.inf
        rows.append(int(fall.argmax()))
        falls.append(fall[rows[-1]])
        left = left - gradients[rows[-1]]
    picks = run("gradmatch", Pool.from_arrays(**data), 30, np.random.default_rng(0), target=target, weights="fixed")
    assert picks.index.tolist() == unlabelled[rows].tolist()
    np.testing.assert_allclose(picks.score, falls, rtol=1e-4, atol=1e-4)


def test_gradmatch_with_fixed_weights_has_the_pools_mean_gradient():
    """DISTIL scales the target by n / |V| where its own formula says k / N: a batch of 30 cannot sum to the gradient of
    the whole pool, so that it takes the longest gradients along it. Ours comes ten times nearer to the mean."""
    data = arrays(150, d=7, c=4)
    unlabelled, gradients, aim = matching(data, "pool")
    theirs, left = [], len(gradients) * aim
    for _ in range(30):
        length = np.linalg.norm(left - gradients, axis=1)
        length[theirs] = np.inf
        theirs.append(int(length.argmin()))
        left = left - gradients[theirs[-1]]
    picks = select("gradmatch", Pool.from_arrays(**data), budget=30, weights="fixed")
    ours = [unlabelled.tolist().index(index) for index in picks]
    missed = [np.linalg.norm(gradients[rows].mean(0) - aim) for rows in (ours, theirs)]
    assert missed[0] < missed[1] / 10


def test_matching_pursuit_takes_copies_after_all_that_differ():
    """A copy of a gradient that has its weight adds nothing: no step of the active set may take it in."""
    rng = np.random.default_rng(0)
    q, h = rng.standard_normal((12, 3)), rng.standard_normal((12, 4)) + 2
    q, h = (torch.from_numpy(np.tile(one, (3, 1)).astype(np.float32)) for one in (q, h))
    target = torch.from_numpy(rng.random(12) @ whole_gradients(h[:12].double().numpy(), q[:12].double().numpy()))
    rows, _ = orthogonal(q, h, target.view(3, 5), 36)
    assert sorted(rows.tolist()) == list(range(36))
    pursued, count = dense_pursuit(whole_gradients(h.double().numpy(), q.double().numpy()), target.numpy(), 36, 0.0)
    assert rows[:count].tolist() == pursued[:count]
    assert set(rows[:count].tolist()) <= set(range(12))


# --- GLISTER ----------------------------------------------------------------------------------------------------------


def glister_data() -> dict:
    return arrays(120, d=6, c=4, seed=5)


def test_glister_validates_on_the_set_that_it_is_given(tmp_path):
    """Picks and gains follow the validation set's loss; its members are no candidates."""
    data = glister_data()
    keep = {key: data[key] for key in ("features", "logits")}
    rows = "".join(f"{index},{label}\n" for index, label in zip(data["labelled"], data["labels"], strict=True))
    (tmp_path / "held_out.csv").write_text("index,label\n" + rows)
    held_out = {"file": str(tmp_path / "held_out.csv")}
    picks = run("glister", Pool.from_arrays(**keep), 10, np.random.default_rng(0), validation=held_out)
    same = run("glister", Pool.from_arrays(**data), 10, np.random.default_rng(0))  # validates on the labelled set
    assert picks.index.tolist() == same.index.tolist()
    np.testing.assert_allclose(picks.score, same.score)
    others = np.setdiff1d(np.arange(120), [*data["labelled"], *same.index])[:2]
    seed_set = {"labelled": others, "labels": [2, 2]}  # is no candidate, and makes no other difference
    picks = run("glister", Pool.from_arrays(**keep, **seed_set), 10, np.random.default_rng(0), validation=held_out)
    assert picks.index.tolist() == same.index.tolist()


@pytest.mark.parametrize("gap", [10.0, 30, 60])
def test_glister_validates_on_labels_that_the_model_has_fitted(gap):
    """The default validation set soon is: see the same of gradmatch."""
    data, unlabelled, along = fitted(gap)
    picks = run("glister", Pool.from_arrays(**data), 1, np.random.default_rng(0))
    assert picks.index[0] == unlabelled[along.argmax()]
    np.testing.assert_allclose(picks.score[0], 0.01 * along.max(), rtol=1e-4)


def test_glister_diversity_keeps_away_from_what_was_picked():
    """DISTIL compares with 'Diversity' what it was configured as 'diversity': its regularisers never ran."""
    data, weight = glister_data(), 0.3
    reference, (unlabelled, h, *_) = Glister(data, 0.01), dense(data)
    similarity, weights, rows, gains = cosines(h), reference.weights, [], []
    scale = float(reference.gains(weights).abs().max())
    for _ in range(8):
        gain = reference.gains(weights).numpy() / scale - weight * similarity[:, rows].sum(1)
        gain[rows] = -np.inf
        rows.append(int(gain.argmax()))
        gains.append(gain[rows[-1]])
        weights = weights - 0.01 * reference.gradients[rows[-1]]
    options = {"regulariser": "diversity", "weight": weight}
    picks = run("glister", Pool.from_arrays(**data), 8, np.random.default_rng(0), **options)
    assert picks.index.tolist() == unlabelled[rows].tolist()
    np.testing.assert_allclose(picks.score, gains, rtol=1e-3, atol=1e-4)


def test_glister_facility_location_covers_the_ground_set():
    data = glister_data()
    unlabelled, h, *_ = dense(data)
    options = {"regulariser": "facility_location", "weight": 1e9, "ground": 1000}
    rows = [
        unlabelled.tolist().index(index) for index in select("glister", Pool.from_arrays(**data), budget=8, **options)
    ]
    similarity, best, gains = cosines(h), np.zeros(len(h)), []
    for row in rows:
        gains.append(float(np.maximum(similarity[row] - best, 0).sum()))
        best = np.maximum(best, similarity[row])
    assert_greedy(similarity, rows, gains)


def test_glister_random_draws_its_share_uniformly_and_the_rest_is_glister():
    """DISTIL picks ceil((1 - share) B) and draws B - floor((1 - share) B): one too many wherever these differ."""
    from scipy.stats import chisquare

    pool = Pool.from_arrays(**glister_data())
    plain = select("glister", pool, budget=6).tolist()
    drawn = []
    for seed in range(200):
        picks = select("glister", pool, budget=9, seed=seed, regulariser="random", weight=0.5)
        assert picks[:6].tolist() == plain
        drawn += picks[6:].tolist()
    rest = np.setdiff1d(pool.unlabelled, plain)
    assert chisquare(np.bincount(drawn, minlength=120)[rest]).pvalue > 1e-4
    assert not set(drawn) & set(plain)


# --- BAIT -------------------------------------------------------------------------------------------------------------


def embeddings(data: dict, likelihood: str, classes: int | None) -> list[np.ndarray]:
    """V of every example, (parameters, outcomes): V V^T is the expected outer product of the gradient, over both
    outcomes of the binary task, or over the most likely classes, with the parameters of all classes."""
    logits = torch.from_numpy(data["logits"].astype(np.float64))
    out = []
    for p, h in zip(logits.softmax(1).numpy(), data["features"].astype(np.float64), strict=True):
        if likelihood == "binary":
            top = p.max()
            out.append(np.stack([np.sqrt(top) * (1 - top) * h, np.sqrt(1 - top) * -top * h], 1))
            continue
        most = np.argsort(-p, kind="stable")[:classes]
        share = p[most] / p[most].sum()
        out.append(
            np.stack([np.sqrt(s) * np.kron(np.eye(len(p))[y] - p, h) for s, y in zip(share, most, strict=True)], 1)
        )
    return out


def dense_bait(data: dict, k: int, ridge: float, likelihood: str, classes: int | None) -> tuple[list[int], list[float]]:
    v, labelled = embeddings(data, likelihood, classes), data["labelled"]
    needed = sum(one @ one.T for one in v) / len(v)
    matrix = ridge * np.eye(len(needed)) + sum(v[i] @ v[i].T for i in labelled) / (len(labelled) + k)
    share, unlabelled = k / (len(labelled) + k), np.setdiff1d(np.arange(len(v)), labelled)

    def trace(i: int, sign: int) -> float:
        return float(np.trace(np.linalg.solve(matrix + sign * share * v[i] @ v[i].T, needed)))

    picked, falls = [], {}
    for _ in range(min(2 * k, len(unlabelled))):
        now = float(np.trace(np.linalg.solve(matrix, needed)))
        traces = {i: trace(i, 1) for i in unlabelled if i not in picked}
        picked.append(min(traces, key=traces.get))
        falls[picked[-1]] = now - traces[picked[-1]]
        matrix = matrix + share * v[picked[-1]] @ v[picked[-1]].T
    while len(picked) > k:
        gone = min(picked, key=lambda i: trace(i, -1))
        picked.remove(gone)
        matrix = matrix - share * v[gone] @ v[gone].T
    return picked, [falls[i] for i in picked]


@pytest.mark.parametrize(
    ("likelihood", "classes", "ridge"),
    [("binary", None, 1.0), ("binary", None, 0.01), ("categorical", None, 1.0), ("categorical", 2, 0.1)],
)
def test_bait_adds_and_takes_away_what_lowers_the_trace_most(likelihood, classes, ridge):
    """Picks and scores against traces of whole inverses, with the weights of the authors' code (labelled: 1 / (m + B)
    each, picks: B / (m + B) each). The binary form is that of dal-toolbox with both outcomes. dal-toolbox itself
    divides the labelled set's information by the size of each block of 32 and sums over blocks: it doubles from 32
    examples to 64."""
    for seed, k in ((0, 8), (1, 30)):
        data = arrays(50, d=4, c=3, seed=seed)
        expected, falls = dense_bait(data, k, ridge, likelihood, classes)
        how = {"likelihood": likelihood, "classes": classes, "ridge": ridge}
        picks = run("bait", Pool.from_arrays(**data), k, np.random.default_rng(0), **how)
        assert picks.index.tolist() == [int(i) for i in expected]
        np.testing.assert_allclose(picks.score, falls, rtol=1e-5)


def test_bait_works_without_labels():
    data = arrays(40, d=4, c=3)
    pool = Pool.from_arrays(data["features"], data["logits"])
    nothing = {**data, "labelled": np.zeros(0, int)}
    for likelihood in ("binary", "categorical"):
        picks = select("bait", pool, budget=5, likelihood=likelihood)
        assert picks.tolist() == [int(i) for i in dense_bait(nothing, 5, 1.0, likelihood, None)[0]]


def test_bait_says_in_one_line_that_a_matrix_of_all_classes_does_not_fit(monkeypatch):
    pool = Pool.from_arrays(np.zeros((9, 256), np.float32), np.zeros((9, 100), np.float32))
    assert len(select("bait", pool, budget=2)) == 2
    monkeypatch.setattr("allround.strategies.bait.information", lambda *_: pytest.fail("began to work"))
    with pytest.raises(
        AllroundError, match=r"25600 rows; allowed: 16384. Use likelihood: binary \(256 rows\)"
    ) as caught:
        select("bait", pool, budget=2, likelihood="categorical")
    assert "\n" not in str(caught.value)


def test_bait_says_in_one_line_that_its_ridge_is_lost_beside_the_features():
    data = arrays(40, d=20, c=3)
    pool = Pool.from_arrays(1e6 * data["features"], data["logits"], data["labelled"], data["labels"])
    with pytest.raises(AllroundError, match=r"^bait: ridge 1e-12 is lost beside features of this size; raise ridge\.$"):
        select("bait", pool, budget=5, ridge=1e-12)


def test_exchange_keeps_the_inverse_over_hundreds_of_moves_even_with_a_small_ridge():
    """A and B are only ever updated; they must stay M^-1 and M^-1 F M^-1."""
    rng = torch.Generator().manual_seed(0)
    h, s = torch.randn(400, 12, generator=rng), torch.rand(400, 1, generator=rng)
    a = torch.eye(12, dtype=torch.float64) * 1e2
    b = a @ a
    rows, _ = exchange((lambda s: s[:, :, None], s, h), a, b, 300, 1)
    v = (s * h).double()[rows]
    expected = torch.linalg.inv(1e-2 * torch.eye(12, dtype=torch.float64) + v.T @ v)
    torch.testing.assert_close(a, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(b, expected @ expected, rtol=1e-6, atol=1e-9)


def test_gauss_jordan_inverts_definite_matrices():
    root = torch.randn(7, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    definite = root @ root.mT + torch.eye(5)
    torch.testing.assert_close(inverses(definite), torch.linalg.inv(definite))
    torch.testing.assert_close(inverses(-definite), -torch.linalg.inv(definite))
