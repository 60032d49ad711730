"""Strategies that weigh uncertainty and diversity, against scikit-activeml and brute force from the papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from test_clusters import peer, softmax, targets
from test_strategies import arrays, linear

from allround.errors import AllroundError
from allround.pool import Pool
from allround.strategies import run, select
from allround.strategies.falcun import falcun
from allround.strategies.galaxy import bisect


def data_with_labels_last(n: int, m: int, d: int = 6, c: int = 4, seed: int = 0) -> dict:
    """n unlabelled rows and then m labelled ones, with the layer that made the logits."""
    rng = np.random.default_rng(seed)
    features = np.maximum(rng.standard_normal((n + m, d)) + 0.5, 0).astype(np.float32)
    layer = linear(rng.standard_normal((d, c)), rng.standard_normal(c))
    logits = (features @ layer.head.weight.numpy().T + layer.head.bias.numpy()).astype(np.float32)
    labelled = np.arange(n, n + m)
    return {
        "features": features,
        "logits": logits,
        "model": layer,
        "labelled": labelled,
        "labels": logits.argmax(1)[n:],
    }


# --- dropquery --------------------------------------------------------------------------------------------------------


class OurKMeans:
    """What scikit-activeml runs in place of scikit-learn's k-means: ours, with the candidates in the pool's order."""

    def __init__(self, n_clusters, pool, rng):
        self.n_clusters, self.pool, self.rng = n_clusters, pool, rng

    def fit_transform(self, features, y=None):
        from allround.kernels.clusters import k_means

        place = {row.tobytes(): i for i, row in enumerate(self.pool)}
        order = np.argsort([place[row.tobytes()] for row in features.astype(np.float32)])
        vectors = torch.from_numpy(features[order].astype(np.float32))
        centres, cluster = k_means(vectors, self.n_clusters, self.rng)
        centres = centres.numpy()[np.argsort(-np.bincount(cluster, minlength=self.n_clusters), kind="stable")]
        return np.sqrt(((features[:, None].astype(np.float64) - centres) ** 2).sum(2))


@pytest.mark.parametrize("seed", range(3))
def test_dropquery_picks_what_scikit_activeml_picks(seed):
    """It leaves the features that survive dropout as they are; the authors (torch's dropout) and ours scale them by
    1 / (1 - rate), which matters as soon as the layer has a bias. It is given the predictions of ours. (Few
    clusters: two members of a cluster are equally near to its centre, and it breaks ties at random.)"""
    data, rng = data_with_labels_last(250, 10, seed=seed), np.random.default_rng(0)
    there, head = data["features"][:250], data["model"].head
    predict = lambda h: head(torch.from_numpy(h)).argmax(1).numpy()  # noqa: E731
    answers = [predict(there)]
    answers += [predict(there * (rng.random(there.shape, dtype=np.float32) >= 0.75) * np.float32(4)) for _ in range(3)]
    changed = sum(answers[0] != other for other in answers[1:])
    assert (changed >= 2).sum() > 20
    query, classifier = peer("DropQuery", predictions={"predict": list(answers)})
    theirs = query(
        n_dropout_samples=3, cluster_algo=OurKMeans, cluster_algo_dict={"pool": there, "rng": rng}, random_state=0
    ).query(data["features"], targets(data), classifier, fit_clf=False, batch_size=7)
    picks = run("dropquery", Pool.from_arrays(**data), 7, np.random.default_rng(0))
    assert picks.index.tolist() == theirs.tolist()
    np.testing.assert_allclose(picks.score, changed[theirs] / 3, rtol=1e-6)


def test_dropquery_fills_up_with_those_that_change_next_most():
    data = data_with_labels_last(60, 5)
    picks = run("dropquery", Pool.from_arrays(**data), 50, np.random.default_rng(0), masks=5)
    share, rng = picks.score, np.random.default_rng(0)
    head = data["model"].head
    there = torch.from_numpy(data["features"][:60])
    drops = [torch.from_numpy(rng.random((60, 6), dtype=np.float32) >= 0.75) for _ in range(5)]
    changed = sum((head(there * drop * 4).argmax(1) != head(there).argmax(1)).float() for drop in drops) / 5
    left = np.setdiff1d(np.arange(60), picks.index)
    assert (share <= 0.5).any()
    assert share.min() >= changed[left].max()


# --- contrastive ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("neighbours", [1, 10, 100])
def test_contrastive_picks_what_scikit_activeml_picks(neighbours):
    data = data_with_labels_last(300, 30)
    p = softmax(data["logits"])
    query, classifier = peer("ContrastiveAL", predictions={"predict_proba": [p[300:], p[:300]]})
    theirs, utilities = query(nearest_neighbors_dict={"n_neighbors": neighbours}, eps=1e-12, random_state=0).query(
        data["features"], targets(data), classifier, fit_clf=False, batch_size=25, return_utilities=True
    )
    picks = run("contrastive", Pool.from_arrays(**data), 25, np.random.default_rng(0), neighbours=neighbours)
    assert picks.index.tolist() == theirs.tolist()
    np.testing.assert_allclose(picks.score, utilities[0][theirs], rtol=1e-4)


def test_contrastive_of_certain_predictions_is_finite():
    """scikit-activeml clips probabilities at 1e-7, so that all divergences end at 16; ours come from the logits."""
    features = np.array([[0.0], [1], [2], [0]], dtype=np.float32)
    logits = np.array([[300.0, 0], [100, 0], [0, 200], [0, 90]], dtype=np.float32)
    picks = run("contrastive", Pool.from_arrays(features, logits, labelled=[3], labels=[1]), 3, None)
    assert picks.index.tolist() == [0, 1, 2]
    np.testing.assert_allclose(picks.score, [300, 100, 0], atol=1e-6)


# --- galaxy -----------------------------------------------------------------------------------------------------------


def graph_distance(n: int, order: int, sides: dict[int, bool]) -> dict[int, int]:
    """Steps from the nearest known positive to every place of a row of n, where a place has edges to the `order` next
    on both sides, and edges between known places of different sides are cut."""
    reached = {place: 0 for place, side in sides.items() if side}
    wave = list(reached)
    while wave:
        following = []
        for a in wave:
            for b in range(max(0, a - order), min(n, a + order + 1)):
                if b not in reached and not (a in sides and b in sides and sides[a] != sides[b]):
                    reached[b] = reached[a] + 1
                    following.append(b)
        wave = following
    return reached


def shortest_paths(n: int, order: int, sides: dict[int, bool]) -> tuple[int, set[int]]:
    """Length of the shortest path from a known positive to a known negative, and the places halfway on one of them."""
    there = graph_distance(n, order, sides)
    back = graph_distance(n, order, {place: not side for place, side in sides.items()})
    length = min((there[place] for place, side in sides.items() if not side and place in there), default=0)
    halves = {length // 2, length - length // 2}
    return length, {a for a in there if a in back and there[a] + back[a] == length and there[a] in halves}


@pytest.mark.parametrize("seed", range(4))
def test_galaxy_bisects_a_shortest_shortest_path_of_the_paper_s_graph(seed):
    """Every pick lies halfway on a shortest path between known examples of opposite sides, in the graph of the least
    order that has one (the paper raises the order when there is none). Ties between paths are free there."""
    rng = np.random.default_rng(seed)
    data = data_with_labels_last(60, 12, c=3, seed=seed)
    data["labels"] = rng.integers(3, size=12)  # many of them not where the model sees them
    p = softmax(data["logits"])
    predicted, picks = p.argmax(1), select("galaxy", Pool.from_arrays(**data), budget=45).tolist()
    known, bisected = dict(zip(range(60, 72), data["labels"].tolist(), strict=True)), 0
    for t, row in enumerate(picks):
        label = t % 3
        margin = p[:, label] - p.max(1) + 1e-8 * p.max(1)
        order = np.lexsort((-p[:, label], -margin)).tolist()
        sides = {order.index(i): known[i] == label for i in known}
        middles: set[int] = set()
        for reach in range(1, 72):
            length, middles = shortest_paths(72, reach, sides)
            if length:
                break
        assert order.index(row) in middles
        bisected += reach == 1
        known[row] = int(predicted[row])
    assert 0 < bisected < 45


def test_galaxy_looks_for_the_other_side_where_a_class_has_labels_on_one_alone():
    p = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]])
    assert bisect(p, torch.tensor([-1, -1, -1, 1]), 1).tolist() == [0]  # no example of class 0: the likeliest
    assert bisect(p, torch.tensor([0, -1, -1, -1]), 1).tolist() == [3]  # none of another: the least likely
    assert bisect(p, torch.tensor([-1, -1, -1, -1]), 1).tolist() == [0]


@pytest.mark.parametrize("labels", [None, [0, 7], [0, -1]])
def test_galaxy_says_which_labels_it_needs(labels):
    pool = Pool.from_arrays(np.eye(4), np.eye(4), labelled=[0, 1], labels=labels)
    with pytest.raises(AllroundError, match=r"galaxy: every labelled example needs a label in 0\.\.3"):
        select("galaxy", pool, budget=1)


def test_galaxy_needs_no_labels_where_nothing_is_labelled():
    """All of it is unknown to every class in turn, until the first picks stand for their predicted classes."""
    logits = np.array([[2, 0], [1, 0], [0, 1], [0, 2.0]], dtype=np.float32)
    assert select("galaxy", Pool.from_arrays(np.eye(4), logits), budget=2).tolist() == [0, 3]


# --- base -------------------------------------------------------------------------------------------------------------


def dense_base(data: dict, n: int, budget: int) -> list[set[int]]:
    """The picks of every class, from the smallest changes of the features themselves, in float64."""
    head = data["model"].head
    w, b = (part.numpy().astype(np.float64) for part in (head.weight, head.bias))
    h = data["features"][:n].astype(np.float64)
    z = h @ w.T + b
    y, c = z.argmax(1), len(b)
    radius = np.full((n, c), np.inf)
    for i in range(n):
        for j in set(range(c)) - {y[i]}:
            normal = w[y[i]] - w[j]
            change = -normal * (normal @ h[i] + b[y[i]] - b[j]) / (normal @ normal)
            moved = w @ (h[i] + change) + b
            assert moved[y[i]] == pytest.approx(moved[j])
            radius[i, j] = np.linalg.norm(change)
        radius[i, y[i]] = radius[i].min()
    chosen: list[set[int]] = []
    for j in range(c):
        free = [i for i in np.argsort(radius[:, j], kind="stable").tolist() if not any(i in some for some in chosen)]
        chosen.append(set(free[: budget // c + (j < budget % c)]))
    return chosen


@pytest.mark.parametrize("budget", [3, 5, 42])
def test_base_takes_as_many_of_every_class_nearest_to_its_boundary(budget):
    data = data_with_labels_last(100, 10, c=5)
    picks = select("base", Pool.from_arrays(**data), budget=budget).tolist()
    classes = dense_base(data, 100, budget)
    assert set(picks) == set.union(*classes)
    found = [next(j for j, some in enumerate(classes) if row in some) for row in picks]
    assert found == [t % 5 for t in range(budget)]  # any beginning of the batch is balanced


def test_base_takes_examples_without_any_boundary_last():
    """Two classes with equal weights have none between them: the radius is 0 / 0."""
    layer = linear(np.array([[1.0, 1.0, 0.0]]), np.zeros(3))
    features = np.array([[3.0], [1], [2]], dtype=np.float32)
    pool = Pool.from_arrays(features, features @ layer.head.weight.numpy().T, model=layer)
    picks = run("base", pool, 3, None)
    assert sorted(picks.index.tolist()) == [0, 1, 2]
    assert np.isfinite(picks.score).all()


# --- falcun -----------------------------------------------------------------------------------------------------------


def dense_law(p: np.ndarray, picked: list[int], gamma: float = 10) -> np.ndarray:
    """Probability of every example to be the next pick, as the authors' code computes it."""
    top = np.sort(p, axis=1)
    uncertainty = 1 - (top[:, -1] - top[:, -2])
    distance = np.min([uncertainty, *(np.abs(p - p[i]).sum(1) for i in picked)], axis=0)
    left = np.setdiff1d(np.arange(len(p)), picked)
    distance = (distance - distance[left].min()) / (np.ptp(distance[left]) or 1)
    law = np.zeros(len(p))
    law[left] = (uncertainty + distance)[left] ** gamma
    return law / law.sum()


def test_falcun_draws_what_the_law_gives_for_the_same_uniform_numbers():
    p, draws = softmax(data_with_labels_last(200, 1)["logits"]), np.random.default_rng(1).random(60)
    expected: list[int] = []
    for u in draws:
        expected.append(int(np.searchsorted(np.cumsum(dense_law(p, expected)), u, side="right")))
    rows, _ = falcun(torch.from_numpy(p).float(), draws, 10.0)
    assert rows.tolist() == expected


def test_falcun_draws_by_relevance():
    """Chi-square of the first pick and, over all first ones, of the second."""
    p, runs, rng = softmax(1.5 * np.random.default_rng(0).standard_normal((12, 3))), 1500, np.random.default_rng(2)
    picks = np.array([falcun(torch.from_numpy(p).float(), rng.random(2), 2.0)[0].tolist() for _ in range(runs)])
    first = dense_law(p, [], 2)
    second = sum(first[i] * dense_law(p, [i], 2) for i in range(12))
    for column, law in enumerate((first, second)):
        possible = law > 1e-12
        counts = np.bincount(picks[:, column], minlength=12)
        assert counts[~possible].sum() == 0
        assert chisquare(counts[possible], runs * law[possible] / law[possible].sum()).pvalue > 1e-4


def test_falcun_picks_what_scikit_activeml_picks_where_stretching_changes_nothing():
    """scikit-activeml keeps the stretched distances (and stretches over picked examples too, and not before the first
    pick), so that later ones are compared with distances of another scale; the authors' code stretches a copy. Where
    distances span [0, 1] all along, both are one: examples between two classes each, which stay at 1 until they are
    picked, and certain ones at 0."""
    rng, n = np.random.default_rng(0), 40
    p = np.zeros((n, 24))
    for i in range(12):
        p[i, 2 * i : 2 * i + 2] = 0.5
    share = np.round(rng.random(24), 3)
    p[12:36, 0], p[12:36, 23] = share, 1 - share
    p[36:, 0] = 1.0
    query, classifier = peer("Falcun", predictions={"predict_proba": [p]})
    classifier.classes = list(range(24))
    features = np.arange(n, dtype=float)[:, None]
    theirs = query(gamma=2, random_state=np.random.RandomState(5)).query(
        features, np.full(n, np.nan), classifier, fit_clf=False, batch_size=8
    )
    state = query(random_state=np.random.RandomState(5))
    state._validate_data(features, np.full(n, np.nan), None, 1, False, reset=True)
    ours = falcun(torch.from_numpy(p).float(), state.random_state_.random_sample(8), 2.0)[0]
    assert ours.tolist() == theirs.tolist()


def test_falcun_of_nothing_uncertain_draws_uniformly():
    p = torch.eye(3)[torch.zeros(50, dtype=torch.int64)]
    rows, scores = falcun(p, np.random.default_rng(0).random(50), 10.0)
    assert sorted(rows.tolist()) == list(range(50))
    assert rows.tolist() != list(range(50))
    assert not scores.any()


def test_files_of_16_bits_and_arrays_agree():
    data = arrays(300)
    half = {**data, "features": data["features"].astype(np.float16)}
    whole = {**data, "features": half["features"].astype(np.float32)}
    for name in ("dropquery", "contrastive", "base", "galaxy", "falcun"):
        picks = [select(name, Pool.from_arrays(**some), budget=20).tolist() for some in (half, whole)]
        assert picks[0] == picks[1], name
