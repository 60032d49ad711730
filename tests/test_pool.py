"""The pool: what a strategy reads is what was stored, for the examples it is told, in bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from allround import pool as pool_module
from allround.artifacts import Labels, View, create_view, write_labels
from allround.errors import AllroundError
from allround.pool import Pool

CELL = {"dataset": "toy", "learner": "mlp", "start": "random4", "arm": "badge@3", "seed": 0, "round": 1}
N, D, C, T = 50, 6, 4, 3
LABELLED, LABELS = np.array([41, 7, 0, 23]), np.array([3, 1, 0, 2])  # in order of acquisition, not ascending
UNLABELLED = np.setdiff1d(np.arange(N), LABELLED)


def identity(stage: str, **cell: object) -> str:
    return json.dumps({"stage": stage, "cell": {**CELL, **cell}, "settings": {}, "inputs": {}, "code": ""})


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "features": rng.standard_normal((N, D)).astype(np.float16),
        "logits": rng.standard_normal((N, C)).astype(np.float32),
        "mc_logits": rng.standard_normal((T, N, C)).astype(np.float32),
    }


def write_view(path: Path, name: str, fields: dict[str, np.ndarray], digest: str = "d1") -> Path:
    """A view written in two blocks."""
    mc = "mc_logits" in fields
    rows = next(iter(fields.values())).shape[1 if mc else 0]
    shapes = {key: (array.shape[0], array.shape[2]) if mc else array.shape[1:] for key, array in fields.items()}
    dtypes = {key: str(array.dtype) for key, array in fields.items()}
    kwargs = {"rows": rows, "fields": shapes, "dtypes": dtypes, "identity": identity("embed"), "digest": digest}
    with create_view(path, name, **kwargs) as out:
        for start, stop in ((0, rows // 2), (rows // 2, rows)):
            some = (slice(None), slice(start, stop)) if mc else slice(start, stop)
            out.write(start, **{key: array[some] for key, array in fields.items()})
    return path


@pytest.fixture
def files(tmp_path: Path, arrays: dict[str, np.ndarray]) -> tuple[dict[str, Path], Path]:
    """Two views and the labelled set on disk."""
    outputs = {key: arrays[key] for key in ("features", "logits")}
    views = {
        "outputs": write_view(tmp_path / "outputs.h5", "outputs", outputs),
        "mc_dropout": write_view(tmp_path / "mc_dropout.h5", "mc_dropout", {"mc_logits": arrays["mc_logits"]}),
    }
    labels = Labels(LABELLED, LABELS, np.zeros(4, dtype=np.int64))
    write_labels(tmp_path / "labels.csv", labels, identity=identity("label"), digest="d1")
    return views, tmp_path / "labels.csv"


@pytest.fixture(params=["files", "arrays", "small blocks"])
def pool(request, files, arrays, monkeypatch) -> Pool:
    """The same pool from files, from arrays, and read a few rows at a time."""
    if request.param == "small blocks":
        monkeypatch.setattr(pool_module, "BLOCK_BYTES", 4 * D * 7)
    if request.param == "arrays":
        return Pool.from_arrays(**arrays, labelled=LABELLED, labels=LABELS)
    return Pool.open(*files)


def test_rows_are_those_of_the_examples_named(pool, arrays):
    assert pool.size == N
    assert len(pool) == N - 4
    assert pool.n_classes == C
    np.testing.assert_array_equal(pool.unlabelled, UNLABELLED)
    np.testing.assert_array_equal(pool.labelled, LABELLED)
    np.testing.assert_array_equal(pool.labels, LABELS)
    np.testing.assert_array_equal(pool.features.numpy(), arrays["features"][UNLABELLED])
    np.testing.assert_array_equal(pool.logits.numpy(), arrays["logits"][UNLABELLED])
    np.testing.assert_array_equal(pool.mc_logits.numpy(), arrays["mc_logits"][:, UNLABELLED])
    np.testing.assert_array_equal(pool.labelled_features.numpy(), arrays["features"][LABELLED])
    np.testing.assert_array_equal(pool.labelled_logits.numpy(), arrays["logits"][LABELLED])
    exponentials = np.exp(arrays["logits"].astype(np.float64))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    np.testing.assert_allclose(pool.probabilities, probabilities[UNLABELLED], rtol=1e-5)
    np.testing.assert_allclose(pool.labelled_probabilities, probabilities[LABELLED], rtol=1e-5)


def test_features_keep_their_16_bits_and_logits_are_float32(pool):
    assert pool.features.dtype == torch.float16
    assert pool.logits.dtype == pool.probabilities.dtype == pool.mc_logits.dtype == torch.float32


def test_map_and_take_see_the_rows_they_should(pool, arrays):
    both = pool.map(lambda h, z: h.float().sum(1) + z.sum(1), "features", "logits")
    expected = arrays["features"].astype(np.float32).sum(1) + arrays["logits"].sum(1)
    np.testing.assert_allclose(both, expected[UNLABELLED], rtol=1e-4, atol=1e-5)
    some = torch.tensor([9, 2, 40])
    np.testing.assert_array_equal(pool.take("features", some), arrays["features"][UNLABELLED[some]])
    spread = pool.map(lambda mc: mc.std(0).sum(1), "mc_logits")
    np.testing.assert_allclose(spread, arrays["mc_logits"].std(0, ddof=1).sum(1)[UNLABELLED], rtol=1e-4)


def test_a_pool_larger_than_memory_is_read_in_bounded_blocks(files, monkeypatch):
    reads = []
    read = View.read
    monkeypatch.setattr(pool_module, "BLOCK_BYTES", 4 * C * 8)
    monkeypatch.setattr(View, "read", lambda self, *what: reads.append(what) or read(self, *what))
    pool = Pool.open(*files)
    assert reads == [], "opening a pool must not read its rows"
    pool.map(lambda z: z[:, 0], "logits")
    assert {name for name, *_ in reads} == {"logits"}
    assert max(stop - start for _, start, stop in reads) == 8
    assert sum(stop - start for _, start, stop in reads) == N


def test_a_pool_with_nothing_labelled_has_empty_labelled_rows(arrays, tmp_path):
    view = write_view(tmp_path / "outputs.h5", "outputs", {key: arrays[key] for key in ("features", "logits")})
    nothing = Labels(*np.zeros((3, 0), dtype=np.int64))
    write_labels(tmp_path / "labels.csv", nothing, identity=identity("label"), digest="d1")
    for pool in (Pool.open({"outputs": view}, tmp_path / "labels.csv"), Pool.from_arrays(**arrays)):
        assert len(pool) == N
        assert pool.labelled_features.shape == (0, D)
        assert pool.labelled_logits.shape == (0, C)
        np.testing.assert_array_equal(pool.features.numpy(), arrays["features"])


def test_arrays_may_be_read_only_double_or_tensors_and_are_not_changed(arrays):
    double = arrays["features"].astype(np.float64)
    frozen = arrays["logits"].copy()
    frozen.flags.writeable = False
    pool = Pool.from_arrays(torch.from_numpy(double), frozen, labelled=[3])
    assert pool.features.dtype == torch.float32
    np.testing.assert_allclose(pool.features, np.delete(double, 3, 0), rtol=1e-6)
    np.testing.assert_array_equal(pool.logits, np.delete(frozen, 3, 0))


def test_arrays_in_memory_are_not_copied(arrays):
    pool = Pool.from_arrays(arrays["features"])
    assert pool.features.data_ptr() == arrays["features"].ctypes.data


def test_all_rows_come_in_the_order_asked_for(arrays):
    backwards = np.arange(N)[::-1]
    taken = Pool.from_arrays(arrays["features"]).take("features", torch.from_numpy(backwards.copy()))
    np.testing.assert_array_equal(taken, arrays["features"][backwards])
    done = Pool.from_arrays(arrays["features"], labelled=backwards)
    np.testing.assert_array_equal(done.labelled_features, arrays["features"][backwards])
    assert done.features.shape == (0, D)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_ties_go_to_the_lower_index_and_the_order_is_best_first(kind):
    pool = Pool.from_arrays(size=8, labelled=[0, 5])  # unlabelled: 1 2 3 4 6 7
    scores = kind([2.0, 1.0, 2.0, 0.0, 1.0, 2.0])
    least, greatest = pool.least(scores, 5), pool.greatest(scores, 5)
    assert least.index.tolist() == [4, 2, 6, 1, 3]
    assert least.score.tolist() == [0, 1, 1, 2, 2]
    assert greatest.index.tolist() == [1, 3, 7, 2, 6]
    assert greatest.score.tolist() == [2, 2, 2, 1, 1]


def test_the_strategy_of_the_design_is_two_lines(arrays):
    def select(pool, budget, rng):
        top = pool.probabilities.topk(2, dim=1).values  # (n, 2)
        return pool.least(top[:, 0] - top[:, 1], budget)

    pool = Pool.from_arrays(**arrays, labelled=LABELLED, labels=LABELS)
    exponentials = np.exp(arrays["logits"][UNLABELLED].astype(np.float64))
    top = np.sort(exponentials / exponentials.sum(1, keepdims=True), axis=1)
    expected = UNLABELLED[np.argsort(top[:, -1] - top[:, -2], kind="stable")[:5]]
    np.testing.assert_array_equal(select(pool, 5, None).index, expected)


def test_large_but_finite_values_are_not_refused():
    values = np.full((4, 3), 3e38, dtype=np.float32)  # their sum overflows
    assert bool(torch.isfinite(Pool.from_arrays(values).features).all())


NAN_ROW = 30


def nan_in(arrays: dict, field: str) -> np.ndarray:
    bad = arrays[field].copy()
    bad[NAN_ROW, 1] = np.nan
    return bad


def test_a_damaged_pool_names_its_file_and_the_example(files, arrays, tmp_path):
    outputs = {"features": nan_in(arrays, "features"), "logits": arrays["logits"]}
    path = write_view(tmp_path / "damaged.h5", "outputs", outputs)
    with pytest.raises(AllroundError, match=rf"damaged\.h5: features of example {NAN_ROW} are not finite"):
        _ = Pool.open({"outputs": path}, files[1]).features


def test_a_value_that_is_not_finite_is_no_fault_of_examples_that_are_not_read(arrays):
    pool = Pool.from_arrays(nan_in(arrays, "features"), arrays["logits"], labelled=[NAN_ROW])
    assert bool(pool.features.isfinite().all())
    with pytest.raises(AllroundError, match=f"example {NAN_ROW}"):
        _ = pool.labelled_features


def open_other_dataset(files, arrays, tmp_path):
    view = write_view(tmp_path / "other.h5", "outputs", {"logits": arrays["logits"]}, digest="d2")
    Pool.open({"outputs": view}, files[1])


def open_fewer_rows(files, arrays, tmp_path):
    Pool.open(files[0], files[1], size=N + 1)


def score_not_finite(files, arrays, tmp_path):
    Pool.from_arrays(size=3).least(np.array([0.0, np.nan, 1.0]), 1)


FAULTS = {
    "a view of another version of the dataset": (open_other_dataset, r"other\.h5: made from another version"),
    "a view of another size": (open_fewer_rows, "has 50 rows for 51 training examples"),
    "a view of another seed": (lambda f, a, t: Pool.open(*f, expect={"seed": 3}), "seed 0, needed for seed 3"),
    "a view under another name": (lambda f, a, t: Pool.open({"other": f[0]["outputs"]}, f[1]), "not 'other'"),
    "no size": (lambda f, a, t: Pool.open({}, f[1]), "size="),
    "a field that is missing": (lambda f, a, t: Pool.from_arrays(a["features"]).logits, "no logits.*It has: features"),
    "rows that differ": (lambda f, a, t: Pool.from_arrays(a["features"], a["logits"][:9]), "features: 50, logits: 9"),
    "a vector for a matrix": (lambda f, a, t: Pool.from_arrays(a["features"][0]), r"shape \(N, columns\), not \(6,\)"),
    "nothing": (lambda f, a, t: Pool.from_arrays(), "no array and no size"),
    "an index beyond the pool": (lambda f, a, t: Pool.from_arrays(size=9, labelled=[9]), "allowed: 0 to 8"),
    "a negative index": (lambda f, a, t: Pool.from_arrays(size=9, labelled=[-1]), "allowed: 0 to 8"),
    "an index twice": (lambda f, a, t: Pool.from_arrays(size=9, labelled=[1, 1]), "labelled twice"),
    "too few labels": (lambda f, a, t: Pool.from_arrays(size=9, labelled=[1, 2], labels=[0]), "2 labelled.*1 labels"),
    "scores of another length": (lambda f, a, t: Pool.from_arrays(size=9).least(np.zeros(8), 1), "each of the 9"),
    "a score that is not finite": (score_not_finite, "score of example 1 is not finite"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_one_line_that_says_what_is_wrong(fault, files, arrays, tmp_path):
    act, message = FAULTS[fault]
    with pytest.raises(AllroundError, match=message) as caught:
        act(files, arrays, tmp_path)
    assert "\n" not in str(caught.value)


def test_the_random_arm_and_the_planner_do_not_pay_for_torch(files):
    code = f"""
import sys
from allround import strategies
from allround.pool import Pool
pool = Pool.open({{}}, {str(files[1])!r}, size={N})
picked = strategies.select("random", pool, budget=5)
[strategies.settings(name, {{}}, sets=("query", "private")) for name in strategies.names()]
assert len(picked) == 5
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gpu
def test_tensors_lie_on_the_device_asked_for(files, arrays):
    for pool in (Pool.open(*files, device="cuda"), Pool.from_arrays(**arrays, labelled=LABELLED, device="cuda")):
        assert pool.features.is_cuda
        assert pool.probabilities.is_cuda
        np.testing.assert_array_equal(pool.labelled_logits.cpu(), arrays["logits"][LABELLED])
        assert pool.least(pool.logits[:, 0], 3).index.dtype == np.int64
