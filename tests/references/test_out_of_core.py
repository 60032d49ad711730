"""badge and coreset: against scikit-activeml 1.0.1 and float64, and the same picks from a file larger than memory."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import chisquare
from test_kernels import dense_k_means_plus_plus, kronecker
from test_pool import identity, write_view
from test_strategies import arrays, dense

from allround.artifacts import Labels, View, write_labels
from allround.errors import AllroundError
from allround.kernels import rows as rows_module
from allround.kernels.products import residuals
from allround.kernels.rows import candidates, held, room
from allround.pool import Pool
from allround.strategies import run


def linear_classifier(data: dict):
    """scikit-activeml's view of the model: a classifier whose X are features, giving the logits of the linear head."""
    base = pytest.importorskip("skactiveml.base")
    head = data["model"].head
    weights, bias = head.weight.numpy().astype(np.float64), head.bias.numpy()

    class Linear(base.SkactivemlClassifier):
        def fit(self, X, y, sample_weight=None):
            return self

        def predict_proba(self, X):
            return softmax(X @ weights.T + bias, axis=1)

    return Linear(classes=list(range(len(weights))))


def partly_labelled(data: dict) -> np.ndarray:
    y = np.full(len(data["features"]), np.nan)
    y[data["labelled"]] = data["labels"]
    return y


def test_badge_draws_by_the_distances_of_scikit_activeml_without_its_fault():
    """The same first pick, and the squared distance that each of ours was drawn by, by their own function. Not their
    second pick: they begin the least distances with |g|^2 in place of infinity, so that the origin is a centre that
    nobody picked, and an example with a small gradient stays unlikely however far it is from all picks. k-means++ has
    no such centre, nor has the authors' code. Chi-square of our second pick against squared distances alone."""
    theirs = pytest.importorskip("skactiveml.pool._badge")
    data = arrays(60)
    pool = Pool.from_arrays(**{key: data[key] for key in ("features", "logits", "labelled", "labels")})
    unlabelled, h, _, q = dense(data)
    gradients = kronecker([q, h])
    features, classifier = data["features"].astype(np.float64), linear_classifier(data)
    query = theirs.Badge(random_state=0).query
    first, utilities = query(
        features, partly_labelled(data), classifier, fit_clf=False, return_utilities=True, batch_size=2
    )
    place = unlabelled.tolist().index(first[0])
    lengths, distance = theirs._d_2(gradients, []), theirs._d_2(gradients, [place], np.full(len(gradients), np.inf))
    capped = np.minimum(lengths, distance)
    np.testing.assert_allclose(np.nan_to_num(utilities[1][unlabelled]), capped / capped.sum(), rtol=1e-3, atol=1e-7)
    assert np.abs(capped / capped.sum() - distance / distance.sum()).max() > 0.05  # the fault is no small one

    picks = [run("badge", pool, 2, np.random.default_rng(seed)).index for seed in range(600)]
    assert {pick[0] for pick in picks} == {first[0]}
    counts = np.bincount([unlabelled.tolist().index(pick[1]) for pick in picks], minlength=len(unlabelled))
    assert counts[place] == 0
    others = np.arange(len(unlabelled)) != place
    assert chisquare(counts[others], 600 * distance[others] / distance[others].sum()).pvalue > 1e-4

    ours, distance = run("badge", pool, 25, np.random.default_rng(0)), np.full(len(gradients), np.inf)
    rows = np.searchsorted(unlabelled, ours.index).tolist()
    assert ours.score[0] == pytest.approx(lengths[rows[0]], rel=1e-4)
    for before, row, score in zip(rows, rows[1:], ours.score[1:], strict=False):
        distance = theirs._d_2(gradients, [before], distance)
        assert score == pytest.approx(distance[row], rel=1e-4)


def test_badge_picks_what_the_dense_form_over_whole_gradients_picks():
    """The same candidates and chances, on whole gradients in float64."""
    data = arrays(300, d=12, c=6)
    unlabelled, h, _, q = dense(data)
    expected, _ = dense_k_means_plus_plus(kronecker([q, h]), 40, np.random.default_rng(7), candidates(len(h)))
    picks = run("badge", Pool.from_arrays(**data), 40, np.random.default_rng(7))
    assert picks.index.tolist() == unlabelled[expected].tolist()


@pytest.mark.parametrize("seed", range(3))
def test_coreset_picks_what_scikit_activeml_picks(seed):
    peers = pytest.importorskip("skactiveml.pool")
    data = arrays(400, seed=seed)
    theirs = peers.CoreSet(random_state=0).query(data["features"], partly_labelled(data), batch_size=60)
    pool = Pool.from_arrays(**{key: data[key] for key in ("features", "logits", "labelled", "labels")})
    assert run("coreset", pool, 60, np.random.default_rng(0)).index.tolist() == list(theirs)


@pytest.fixture
def stored(tmp_path: Path, monkeypatch):
    """A pool's arrays, and a function that opens them from files with no room to hold them in small blocks."""
    data = {key: arrays(3000, 24, 6)[key] for key in ("features", "logits", "labelled", "labels")}
    data["features"] = data["features"].astype(np.float16)
    data["labelled"], data["labels"] = data["labelled"][:40], data["labels"][:40]
    view = write_view(tmp_path / "outputs.h5", "outputs", {key: data[key] for key in ("features", "logits")})
    labels = Labels(data["labelled"], data["labels"], np.zeros(40, dtype=np.int64))
    write_labels(tmp_path / "labels.csv", labels, identity=identity("label"), digest="d1")
    monkeypatch.setattr(rows_module, "block_bytes", lambda device: 40_000)

    def open_pool(space: float = 0.0) -> Pool:
        monkeypatch.setattr(rows_module, "room", lambda device: space)
        return Pool.open({"outputs": view}, tmp_path / "labels.csv")

    return data, open_pool


@pytest.fixture
def reads(monkeypatch) -> dict[str, int]:
    """Field -> number of its rows read from view files."""
    counts, read = {}, View.read

    def counted(view, name, start=0, stop=None):
        block = read(view, name, start, stop)
        counts[name] = counts.get(name, 0) + len(block)
        return block

    monkeypatch.setattr(View, "read", counted)
    return counts


@pytest.mark.parametrize("name", ["badge", "coreset"])
@pytest.mark.parametrize("labelled", [True, False])
def test_a_pool_that_memory_cannot_hold_gives_the_picks_of_one_that_it_can(name, labelled, stored, reads):
    data, open_pool = stored
    if not labelled:
        data |= {"labelled": np.arange(0), "labels": np.arange(0)}
    pools = Pool.from_arrays(**data), open_pool(), open_pool(1e9)
    if not labelled:
        for pool in pools[1:]:
            pool.labelled, pool.labels, pool.unlabelled = data["labelled"], data["labels"], np.arange(3000)
    picks = []
    for pool, space in zip(pools, (1e9, 0.0, 1e9), strict=True):
        open_pool(space)
        reads.clear()
        picks.append(run(name, pool, 200, np.random.default_rng(0)))
        passes = reads.get("features", 0) / 3000
        assert passes < (0.1, 20, 1.1)[len(picks) - 1] or (labelled and len(picks) == 3 and passes < 2.1)
    assert reads["features"] >= 3000
    for other in picks[1:]:
        assert other.index.tolist() == picks[0].index.tolist()
        np.testing.assert_allclose(other.score, picks[0].score, rtol=1e-6)


@pytest.mark.parametrize("name", ["margin", "entropy", "least_confidence"])
def test_uncertainty_is_one_pass_over_the_logits(name, stored, reads):
    _, open_pool = stored
    run(name, open_pool(), 50, np.random.default_rng(0))
    assert reads == {"logits": 3000}


def test_a_few_rows_of_a_file_are_read_without_the_rest(stored, reads):
    data, open_pool = stored
    pool = open_pool()
    wanted = torch.tensor([2900, 3, 1500, 4])
    np.testing.assert_array_equal(pool.take("features", wanted), data["features"][pool.unlabelled[wanted]])
    assert reads == {"features": 4}
    rows = pool.rows("features", probabilities=residuals)
    features, residual = rows.take(wanted)
    np.testing.assert_array_equal(features, data["features"][pool.unlabelled[wanted]])
    torch.testing.assert_close(residual, residuals(pool.take("probabilities", wanted)))


def test_rows_of_a_pool_are_the_same_blocks_from_memory_and_from_the_file(stored):
    _, open_pool = stored
    for labelled in (False, True):
        there = open_pool(0.0).rows("features", labelled=labelled, probabilities=residuals)
        here = open_pool(1e9).rows("features", labelled=labelled, probabilities=residuals)
        assert (there.n, there.device) == (here.n, here.device)
        places = []
        for (place, streamed), (same, kept) in zip(there.blocks(), here.blocks(), strict=True):
            assert place == same
            places.append(place)
            for a, b in zip(streamed, kept, strict=True):
                assert torch.equal(a, b)
        assert [place.start for place in places] == [0, *(place.stop for place in places[:-1])]
        assert places[-1].stop == there.n
        assert len(places) > 1 + 3 * (not labelled)


def test_a_value_that_is_not_finite_is_found_in_a_pool_that_memory_cannot_hold(tmp_path, monkeypatch):
    data = arrays(300)
    data["features"][250] = np.nan
    view = write_view(tmp_path / "outputs.h5", "outputs", {key: data[key] for key in ("features", "logits")})
    write_labels(
        tmp_path / "labels.csv", Labels(*np.zeros((3, 0), dtype=np.int64)), identity=identity("label"), digest="d1"
    )
    monkeypatch.setattr(rows_module, "room", lambda device: 0)
    for name in ("badge", "coreset"):
        with pytest.raises(AllroundError, match="features of example 250 are not finite"):
            run(name, Pool.open({"outputs": view}, tmp_path / "labels.csv"), 5, np.random.default_rng(0))


def test_blocks_of_rows_in_memory_cover_them_once():
    factors = torch.randn(100, 3), torch.randn(100, 2)
    rows = held(*factors, places=[slice(0, 40), slice(40, 100)])
    for factor, parts in zip(factors, zip(*(block for _, block in rows.blocks()), strict=True), strict=True):
        assert torch.equal(torch.cat(parts), factor)
    assert [place for place, _ in held(*factors).blocks()] == [slice(0, 100)]


# --- how much memory is left ------------------------------------------------------------------------------------------


def test_a_limit_on_the_process_leaves_less_room(monkeypatch):
    free = room("cpu")
    assert 0 < free < 1 << 50
    original = resource.getrlimit

    def limited(kind):
        return (8 << 30, 8 << 30) if kind == resource.RLIMIT_DATA else original(kind)

    monkeypatch.setattr(resource, "getrlimit", limited)
    assert room("cpu") < 8 << 30


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_container_leaves_less_room(version, tmp_path, monkeypatch):
    """The least of all groups above counts, and pages of files that were read do not."""
    lines = {1: "4:cpu,memory:/outer/inner", 2: "0::/outer/inner"}[version]
    limit, used, files = {1: rows_module.V1, 2: rows_module.V2}[version]
    outer = tmp_path / ("memory" if version == 1 else "") / "outer"
    (outer / "inner").mkdir(parents=True)
    unlimited = {1: str((1 << 63) - 4096), 2: "max"}[version]
    for folder, most in ((outer, str(3 << 20)), (outer / "inner", unlimited)):
        (folder / limit).write_text(most + "\n")
        (folder / used).write_text(f"{2 << 20}\n")
        (folder / "memory.stat").write_text(f"anon 5\n{files[0]} {1 << 20}\n{files[1]} 0\n")
    (tmp_path / "cgroup").write_text(f"3:pids:/\n{lines}\n")
    monkeypatch.setattr(rows_module, "CGROUPS", tmp_path)
    monkeypatch.setattr(rows_module, "GROUPS_OF_PROCESS", tmp_path / "cgroup")
    assert room("cpu") == 2 << 20
