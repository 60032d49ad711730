"""Clustering and neighbours, and the strategies built on them, against scikit-learn, scikit-activeml and brute force.

scikit-activeml takes the clustering algorithm as an argument: it is given ours with the same seeds, so that its picks
have to be ours.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from test_strategies import arrays

from allround.kernels import clusters, neighbours
from allround.kernels.clusters import k_means, totals
from allround.kernels.neighbours import mean_of_nearest, nearest, nearest_distinct, nearest_within
from allround.pool import Pool
from allround.strategies import run, select
from allround.strategies.cluster_margin import average_linkage, round_robin
from allround.strategies.typiclust import schedule


def blobs(n: int, d: int, groups: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((groups, d)) + 3
    return (centres[rng.integers(groups, size=n)] + 0.4 * rng.standard_normal((n, d))).astype(np.float32)


def squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ((a[:, None].astype(np.float64) - b[None].astype(np.float64)) ** 2).sum(2)


# --- k-means ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_k_means_ends_where_scikit_learn_ends_from_the_same_seeds(weighted, monkeypatch):
    monkeypatch.setattr(clusters, "SETTLED", 0)
    vectors = blobs(600, 6, 15)
    weights = np.random.default_rng(1).random(600).astype(np.float32) if weighted else None
    tensor, given = torch.from_numpy(vectors), None if weights is None else torch.from_numpy(weights)
    centres, cluster = k_means(tensor, 20, np.random.default_rng(0), weights=given, iterations=100)
    seeds = vectors[clusters._seeds(tensor - tensor.mean(0), 20, np.random.default_rng(0), given).numpy()]
    theirs = KMeans(20, init=seeds, n_init=1, tol=0).fit(vectors, sample_weight=weights)
    np.testing.assert_allclose(centres, theirs.cluster_centers_, atol=1e-4)
    assert (cluster.numpy() == theirs.labels_).mean() > 0.995


def test_ten_iterations_are_as_good_as_scikit_learn_within_two_per_cent():
    vectors = blobs(3000, 10, 40)
    centres, cluster = k_means(torch.from_numpy(vectors), 60, np.random.default_rng(0))
    ours = ((vectors - centres.numpy()[cluster.numpy()]) ** 2).sum()
    theirs = np.median([KMeans(60, n_init=1, random_state=seed).fit(vectors).inertia_ for seed in range(3)])
    assert ours < 1.02 * theirs


@pytest.mark.parametrize("block", [10, 100, 1 << 22])
def test_k_means_is_the_same_in_blocks_of_any_size(block, monkeypatch):
    vectors = torch.from_numpy(blobs(200, 5, 8))
    expected = k_means(vectors, 9, np.random.default_rng(0))
    monkeypatch.setattr(clusters, "BLOCK", block)
    centres, cluster = k_means(vectors, 9, np.random.default_rng(0))
    assert cluster.tolist() == expected[1].tolist()
    torch.testing.assert_close(centres, expected[0])


def test_k_means_of_copies_leaves_clusters_empty_and_nothing_infinite():
    vectors = torch.from_numpy(np.repeat(blobs(6, 4, 6), 10, axis=0))
    centres, cluster = k_means(vectors, 12, np.random.default_rng(0))
    assert centres.isfinite().all()
    assert len(cluster.unique()) == 6
    torch.testing.assert_close(centres[cluster], vectors)


def test_a_cluster_that_loses_all_its_rows_moves_to_the_farthest_row():
    vectors = torch.tensor([[0.0], [1], [10], [11], [30]])
    centres = torch.tensor([[0.5], [0.4], [12.0]])  # nobody is nearest to the second
    assignment, distances = clusters.assign(vectors, centres)
    assert assignment.tolist() == [1, 0, 2, 2, 2]
    assignment = torch.tensor([0, 0, 2, 2, 2])
    means = clusters._means(vectors, centres, assignment, distances, None)
    assert means[1].item() == 30
    assert means[2].item() == 10.5


def test_totals_are_sums_in_the_order_of_the_rows():
    vectors, assignment = torch.randn(50, 3), torch.randint(0, 5, (50,))
    assignment[assignment == 3] = 2
    weights = torch.rand(50)
    expected = torch.stack([(vectors * weights[:, None])[assignment == j].sum(0) for j in range(5)])
    torch.testing.assert_close(totals(vectors, assignment, 5, weights), expected)


# --- neighbours -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("width", [7, 8192])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_nearest_neighbours_are_those_of_all_pairs_also_far_from_the_origin(exclude_self, width, offset, monkeypatch):
    monkeypatch.setattr(neighbours, "WIDTH", width)
    vectors = blobs(150, 6, 10) + np.float32(offset)
    vectors[40:60] = vectors[:20]  # copies: the lower row comes first
    distances, rows = nearest(*[torch.from_numpy(vectors)] * 2, 9, exclude_self=exclude_self)
    pairs = squares(vectors, vectors)
    if exclude_self:
        np.fill_diagonal(pairs, np.inf)
    expected = np.argsort(pairs, axis=1, kind="stable")[:, :9]
    np.testing.assert_allclose(distances, np.take_along_axis(pairs, expected, 1), rtol=1e-3, atol=1e-4)
    if not offset:  # where rounding does not decide
        np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize("group", [1, 2, 4])
def test_neighbours_among_many_columns_are_found_group_by_group_copies_in_order(group, monkeypatch):
    monkeypatch.setattr(neighbours, "GROUP", group)
    vectors = np.random.default_rng(0).integers(0, 3, (256, 4)).astype(np.float32)  # each about three times
    distances, rows = nearest(*[torch.from_numpy(vectors)] * 2, 9)
    pairs = squares(vectors, vectors)
    expected = np.argsort(pairs, axis=1, kind="stable")[:, :9]
    np.testing.assert_allclose(distances, np.take_along_axis(pairs, expected, 1), atol=1e-4)
    copies = (distances == 0).numpy()
    assert copies.sum() > 600
    np.testing.assert_array_equal(rows.numpy()[copies], expected[copies])


@pytest.mark.parametrize("k", [1, 7, 60])
@pytest.mark.parametrize("copies", [False, True])
def test_means_over_neighbours_are_those_of_the_neighbours_listed(k, copies):
    """Copies tie at the k-th place, and some queries lie on vectors: the lower rows are the neighbours."""
    rng = np.random.default_rng(k)
    vectors, queries = (torch.from_numpy(rng.standard_normal((n, 6)).astype(np.float32)) + 30 for n in (50, 400))
    if copies:
        vectors[25:] = vectors[:25]
        queries[:50] = vectors
    values = torch.from_numpy(rng.random((50, 4)).astype(np.float32))
    order = (queries[:, None].double() - vectors.double()).square().sum(2).sort(dim=1, stable=True).indices
    expected = values.double()[order[:, :k]].mean(1)
    torch.testing.assert_close(mean_of_nearest(queries, vectors, k, values).double(), expected, rtol=0, atol=1e-6)


def test_fewer_vectors_than_neighbours_give_them_all():
    distances, rows = nearest(torch.zeros(3, 2), torch.ones(2, 2), 5)
    assert rows.tolist() == [[0, 1]] * 3
    assert distances.tolist() == [[2.0, 2.0]] * 3
    assert nearest(torch.zeros(3, 2), torch.zeros(0, 2), 5)[1].shape == (3, 0)
    assert nearest(torch.zeros(1, 2), torch.zeros(1, 2), 5, exclude_self=True)[1].shape == (1, 0)


@pytest.mark.parametrize("block", [40, 3000, 1 << 22])
def test_neighbours_within_groups_are_those_of_all_pairs_of_a_group(block, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", block)
    vectors, rng = blobs(200, 4, 6), np.random.default_rng(2)
    groups = np.concatenate([rng.integers(-1, 12, 150), np.full(50, 12)])
    groups[7] = 13  # alone
    distances, rows = nearest_within(torch.from_numpy(vectors), torch.from_numpy(groups), 11)
    pairs = np.where((groups[:, None] == groups) & (groups >= 0), squares(vectors, vectors), np.inf)
    np.fill_diagonal(pairs, np.inf)
    expected = np.argsort(pairs, axis=1, kind="stable")[:, :11]
    near = np.take_along_axis(pairs, expected, 1)
    np.testing.assert_allclose(distances, near, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(rows, np.where(np.isinf(near), 0, expected))


def dense_distinct(queries: np.ndarray, vectors: np.ndarray) -> list[int]:
    taken = []
    for distances in squares(queries, vectors):
        distances[taken] = np.inf
        taken.append(int(distances.argmin()))
    return taken


@pytest.mark.parametrize("n", [60, 300])
def test_every_centre_gets_the_nearest_row_that_is_left(n):
    queries, vectors = blobs(60, 3, 4, seed=5), blobs(n, 3, 4)
    rows, distances = nearest_distinct(torch.from_numpy(queries), torch.from_numpy(vectors))
    assert rows.tolist() == dense_distinct(queries, vectors)
    np.testing.assert_allclose(distances, squares(queries, vectors)[range(60), rows], rtol=1e-3, atol=1e-4)


def test_representatives_of_copies_are_taken_in_order():
    rows, distances = nearest_distinct(torch.zeros(90, 2), torch.zeros(100, 2))
    assert rows.tolist() == list(range(90))
    assert not distances.any()


@pytest.mark.gpu
def test_the_gpu_clusters_as_the_cpu_does_and_always_the_same():
    vectors, weights = torch.from_numpy(blobs(3000, 16, 20)), torch.rand(3000)
    for given in (None, weights):
        here = k_means(vectors, 30, np.random.default_rng(0), weights=given)
        there, again = (
            k_means(vectors.cuda(), 30, np.random.default_rng(0), weights=None if given is None else given.cuda())
            for _ in range(2)
        )
        assert torch.equal(there[0], again[0])
        assert (here[1] == there[1].cpu()).float().mean() > 0.99
    groups = torch.randint(0, 40, (3000,))
    for kernel in (
        lambda v, g: nearest(v[:200], v, 10),
        lambda v, g: nearest_within(v, g, 30),
        lambda v, g: nearest_distinct(v[:200] + 0.1, v)[::-1],
    ):
        here, there = kernel(vectors, groups), kernel(vectors.cuda(), groups.cuda())
        assert (here[1] == there[1].cpu()).float().mean() > 0.99
        torch.testing.assert_close(here[0], there[0].cpu(), rtol=1e-3, atol=1e-3)


# --- kmeans, clue -----------------------------------------------------------------------------------------------------


def pool_with_labels_last(n: int, m: int, d: int = 6, c: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    """n unlabelled rows and then m labelled ones, so that a peer's order of rows is ours."""
    rng = np.random.default_rng(seed)
    features = blobs(n + m, d, 12, seed)
    logits = (features @ rng.standard_normal((d, c)) / 2).astype(np.float32)
    labelled = np.arange(n, n + m)
    return {"features": features, "logits": logits, "labelled": labelled, "labels": rng.integers(c, size=m)}


class OurKMeans:
    """What scikit-activeml runs in place of scikit-learn's k-means: ours, with the seeds of `select`."""

    def __init__(self, n_clusters, rng=None):
        self.n_clusters, self.rng = n_clusters, np.random.default_rng(0) if rng is None else rng

    def fit_transform(self, features, y=None, sample_weight=None):
        weights = None if sample_weight is None else torch.from_numpy(sample_weight.astype(np.float32))
        vectors = torch.from_numpy(np.asarray(features, dtype=np.float32))
        centres, cluster = k_means(vectors, self.n_clusters, self.rng, weights=weights)
        mass = np.bincount(cluster, weights=sample_weight, minlength=self.n_clusters)
        return np.sqrt(squares(features, centres.numpy()[np.argsort(-mass, kind="stable")]))

    def fit_predict(self, features):
        vectors = torch.from_numpy(np.asarray(features, dtype=np.float32))
        return k_means(vectors, self.n_clusters, self.rng)[1].numpy()


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def peer(name: str, *, predictions: dict[str, list[np.ndarray]] | None = None):
    """A class of scikit-activeml, and a classifier that answers with given predictions, whatever it is asked."""
    pool = pytest.importorskip("skactiveml.pool")
    base = pytest.importorskip("skactiveml.base")

    class Fixed(base.SkactivemlClassifier):
        def fit(self, X, y, sample_weight=None):
            return self

        def predict_proba(self, X):
            return predictions["predict_proba"].pop(0)

        def predict(self, X):
            return predictions["predict"].pop(0)

    return getattr(pool, name), Fixed(classes=[0, 1, 2, 3])


def targets(data: dict[str, np.ndarray]) -> np.ndarray:
    """Labels as scikit-activeml takes them: NaN where there is none."""
    y = np.full(len(data["features"]), np.nan)
    y[data["labelled"]] = data["labels"]
    return y


def test_kmeans_picks_the_nearest_to_every_centre_largest_cluster_first():
    data = pool_with_labels_last(300, 20)
    there = data["features"][:300]
    distances = OurKMeans(25).fit_transform(there)
    picks = run("kmeans", Pool.from_arrays(**data), 25, np.random.default_rng(0))
    expected = []
    for column in distances.T:
        column = column.copy()
        column[expected] = np.inf
        expected.append(int(column.argmin()))
    assert picks.index.tolist() == expected
    np.testing.assert_allclose(picks.score, -distances[expected, range(25)], rtol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_clue_picks_what_scikit_activeml_picks(seed):
    data = pool_with_labels_last(300, 20, seed=seed)
    clue, classifier = peer("Clue", predictions={"predict_proba": [softmax(data["logits"][:300])]})
    theirs = clue(cluster_algo=OurKMeans, random_state=0).query(
        data["features"], targets(data), classifier, fit_estimator=False, batch_size=25
    )
    assert select("clue", Pool.from_arrays(**data), budget=25).tolist() == theirs.tolist()


def test_clue_looks_where_the_model_is_uncertain():
    """Two clouds of one shape, the model uncertain in the first alone: all representatives lie there."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((200, 2)).astype(np.float32) + np.repeat([[0, 0], [8, 8]], 100, axis=0)
    logits = np.repeat([[0.0, 0.0], [60.0, 0.0]], 100, axis=0).astype(np.float32)
    assert (select("clue", Pool.from_arrays(features.astype(np.float32), logits), budget=10) < 100).all()
    assert (select("kmeans", Pool.from_arrays(features.astype(np.float32), logits), budget=10) >= 100).any()


# --- typiclust, tcm ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 3, 4, 6, 8, 10, 19])
def test_typiclust_picks_what_scikit_activeml_picks(seed):
    """Its defaults set to the paper's (20 neighbours, not 5), ours to its (no cap on clusters, small ones not put off).
    Seeds where no two of the clusters that it goes through are of one size: it breaks those ties at random."""
    data, budget = pool_with_labels_last(400, 12, seed=seed), 6
    cluster = OurKMeans(12 + budget).fit_predict(data["features"])
    sizes = np.bincount(cluster, minlength=12 + budget)
    sizes[cluster[400:]] = 0
    assert len(set(np.sort(sizes)[-budget - 1 :])) == budget + 1
    typiclust, _ = peer("TypiClust")
    theirs = typiclust(cluster_algo=OurKMeans, k=20, random_state=0).query(
        data["features"], targets(data), batch_size=budget
    )
    assert select("typiclust", Pool.from_arrays(**data), budget=budget, min_size=1).tolist() == theirs.tolist()


def test_scikit_activeml_returns_an_example_twice_on_copies_and_typiclust_does_not():
    """Copies leave clusters empty; once the others are used up, it draws from all rows, picked ones included."""
    data = pool_with_labels_last(60, 3)
    data["features"] = np.repeat(data["features"][:3], 21, axis=0)
    typiclust, _ = peer("TypiClust")
    theirs = [
        typiclust(cluster_algo=OurKMeans, k=20, random_state=seed).query(data["features"], targets(data), batch_size=20)
        for seed in range(5)
    ]
    assert min(len(set(picks.tolist())) for picks in theirs) < 20
    assert len(set(select("typiclust", Pool.from_arrays(**data), budget=20).tolist())) == 20


@pytest.mark.parametrize("spare", [1, 3, 32])
def test_typiclust_with_more_picks_than_clusters_matches_brute_force(spare, monkeypatch):
    """Typicality anew among what is left, for every pick, in float64; the cluster with the fewest labels first."""
    monkeypatch.setattr("allround.strategies.typiclust.SPARE", spare)
    data = pool_with_labels_last(120, 15)
    cluster = OurKMeans(6).fit_predict(np.concatenate([data["features"]]))
    count, size = Counter(cluster[120:].tolist()), Counter(cluster.tolist())
    left, expected = set(range(120)), []
    for _ in range(60):
        members = {j: [i for i in left if cluster[i] == j] for j in range(6)}
        j = min((j for j in members if members[j]), key=lambda j: (size[j] < 5, count[j], -size[j], j))
        rows = sorted(members[j])
        pairs = np.sqrt(squares(data["features"][rows], data["features"][rows]))
        typicality = [1 / (np.sort(row)[1:8].mean() + 1e-5) if len(rows) > 1 else 0 for row in pairs]
        expected.append(rows[int(np.argmax(typicality))])
        count[j] += 1
        left.remove(expected[-1])
    ours = select("typiclust", Pool.from_arrays(**data), budget=60, max_clusters=6, neighbours=7)
    assert ours.tolist() == expected


def test_clusters_take_turns_by_labels_then_size_and_small_ones_come_last():
    turns, visits = schedule(np.array([3, 9, 6, 2]), np.array([0, 0, 4, 0]), budget=20, min_size=3)
    assert turns.tolist() == [1, 0, 1, 0, 1, 0, 1, *[2, 1] * 5, 2, 3, 3]
    assert visits.tolist()[:7] == [0, 0, 1, 1, 2, 2, 3]
    assert visits.tolist()[-2:] == [0, 1]


def test_tcm_is_typiclust_until_there_are_labels_enough_and_margin_from_then_on():
    pool = Pool.from_arrays(**pool_with_labels_last(200, 40))  # 4 classes
    early, late = (select("tcm", pool, budget=10, per_class=some).tolist() for some in (10.1, 10.0))
    assert early == select("typiclust", pool, budget=10).tolist()
    assert late == select("margin", pool, budget=10).tolist()


# --- cluster_margin ---------------------------------------------------------------------------------------------------


def dense_average_linkage(vectors: np.ndarray, clusters: int) -> set[frozenset[int]]:
    pairs, groups = np.sqrt(squares(vectors, vectors)), [[i] for i in range(len(vectors))]
    while len(groups) > clusters:
        _, i, j = min(
            (pairs[np.ix_(a, b)].mean(), i, j) for j, b in enumerate(groups) for i, a in enumerate(groups[:j])
        )
        groups[i] += groups.pop(j)
    return {frozenset(group) for group in groups}


@pytest.mark.parametrize("clusters", [1, 5, 30])
def test_average_linkage_is_that_of_the_mean_distance_of_all_pairs(clusters):
    vectors = blobs(30, 4, 5)
    ours = average_linkage(torch.from_numpy(vectors), clusters)
    groups = {frozenset(np.flatnonzero(ours == j).tolist()) for j in range(ours.max() + 1)}
    assert groups == dense_average_linkage(vectors, clusters)


def test_cluster_margin_takes_uncertain_examples_from_small_clusters_first_and_in_turn():
    data = pool_with_labels_last(200, 10)
    picks = run("cluster_margin", Pool.from_arrays(**data), 9, np.random.default_rng(0), candidates=5, cluster_size=6.0)
    top = np.sort(softmax(data["logits"][:200]), axis=1)
    margins = top[:, -1] - top[:, -2]
    candidates = np.argsort(margins, kind="stable")[:45]
    groups = [set(candidates[list(group)].tolist()) for group in dense_average_linkage(data["features"][candidates], 8)]
    order = sorted(groups, key=len)
    found = [next(i for i, group in enumerate(order) if row in group) for row in picks.index.tolist()]
    assert sorted(found[:8]) == list(range(8))  # one of each before the second of any
    sizes = [len(order[i]) for i in found]
    assert sizes[:8] == sorted(sizes[:8])
    assert sizes[8] == min(size for size in sizes if size > 1)
    np.testing.assert_allclose(picks.score, -margins[picks.index], rtol=1e-4)


def test_round_robin_ends_with_everything():
    cluster = np.array([0, 0, 0, 1, 2, 2])
    assert round_robin(cluster, np.array([0.3, 0.1, 0.2, 0.5, 0.9, 0.8])).tolist() == [3, 5, 1, 4, 2, 0]


def test_cluster_margin_links_k_means_clusters_where_candidates_are_too_many_for_all_pairs():
    """12 clouds, 11 of them of 5 uncertain examples and one of 200: half of the batch would be of the large one at
    random, and one each is picked."""
    rng = np.random.default_rng(3)
    cloud = np.concatenate([np.zeros(200, dtype=int), np.repeat(np.arange(1, 12), 5)])
    features = (20 * rng.standard_normal((12, 8))[cloud] + 0.1 * rng.standard_normal((255, 8))).astype(np.float32)
    pool = Pool.from_arrays(features, np.zeros((255, 2), dtype=np.float32))
    picks = select("cluster_margin", pool, budget=12, candidates=30, cluster_size=255 / 12, exact=40)
    assert sorted(cloud[picks].tolist()) == list(range(12))


def test_a_pool_of_16_bits_gives_what_one_of_32_bits_gives():
    data = arrays(300)
    half = {**data, "features": data["features"].astype(np.float16)}
    whole = {**data, "features": half["features"].astype(np.float32)}
    for name in ("kmeans", "typiclust", "clue", "cluster_margin"):
        picks = [select(name, Pool.from_arrays(**some), budget=20).tolist() for some in (half, whole)]
        assert picks[0] == picks[1], name
