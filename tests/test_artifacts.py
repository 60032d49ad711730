"""What a user would lose: a study built on a half-written, damaged or misplaced file."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from allround import artifacts
from allround.artifacts import Labels, Split
from allround.errors import AllroundError
from allround.identity import canonical

CELL = {"dataset": "shapes", "learner": "mlp", "start": "random4", "arm": "start", "seed": 1, "round": 0}
IDENTITY = canonical({"stage": "any", "cell": CELL, "settings": {}, "inputs": {}, "code": "0"})


def split(n: int = 12, classes: int = 3) -> Split:
    images = np.random.default_rng(0).integers(0, 256, (n, 4, 5, 3), dtype=np.uint8)
    return Split(images, np.arange(n) % classes, np.arange(n))


def write_dataset(path: Path, **changes) -> None:
    parts = {"identity": IDENTITY, "classes": ["a", "b", "c"], "train": split(), "test": split(6), **changes}
    artifacts.write_dataset(path, **parts)


def write_labels(path: Path) -> None:
    rounds = np.array([0, 0, 1])
    artifacts.write_labels(
        path, Labels(np.array([7, 2, 9]), np.array([1, 2, 0]), rounds), identity=IDENTITY, digest="d"
    )


def write_query(path: Path) -> None:
    artifacts.write_query(path, np.array([4, 1]), np.array([0.1, 1 / 3]), identity=IDENTITY, digest="d")


def write_metrics(path: Path) -> None:
    artifacts.write_metrics(path, {"accuracy": 0.5, "n_labels": 20}, identity=IDENTITY, digest="d")


def write_view(path: Path) -> None:
    shapes, dtypes = {"features": (8,), "logits": (3,)}, {"features": "float16", "logits": "float32"}
    with artifacts.create_view(
        path, "outputs", rows=9, fields=shapes, dtypes=dtypes, identity=IDENTITY, digest="d"
    ) as out:
        for start in (0, 5):
            rows = min(5, 9 - start)
            out.write(start, features=np.full((rows, 8), start), logits=np.full((rows, 3), 1 / 3))


def write_checkpoint(path: Path) -> None:
    import torch

    artifacts.write_checkpoint(path, {"weights": {"w": torch.arange(1000.0)}}, identity=IDENTITY, digest="d")


KINDS = {
    "dataset.h5": (write_dataset, artifacts.read_dataset),
    "labels.csv": (write_labels, artifacts.read_labels),
    "query.csv": (write_query, artifacts.read_query),
    "metrics.json": (write_metrics, artifacts.read_metrics),
    "outputs.h5": (write_view, artifacts.open_view),
    "checkpoint.pt": (write_checkpoint, artifacts.read_checkpoint),
}
kinds = pytest.mark.parametrize("name", KINDS)


@kinds
def test_the_same_content_gives_the_same_bytes_whatever_the_path(name, tmp_path):
    write, _ = KINDS[name]
    write(tmp_path / "one" / name)
    second = int(time.time())
    while int(time.time()) == second:  # HDF5 and zip archives like to write down the time, in seconds
        time.sleep(0.05)
    write(tmp_path / "two" / f"other-{name}")
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / f"other-{name}").read_bytes()


@kinds
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_never_read(name, part, tmp_path):
    write, read = KINDS[name]
    write(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: min(int(len(whole) * part), len(whole) - 3)])
    with pytest.raises(AllroundError, match=r"delete it and run") as error:
        read(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


@kinds
def test_a_missing_file_is_named(name, tmp_path):
    with pytest.raises(AllroundError, match="no such file"):
        KINDS[name][1](tmp_path / name)


@kinds
def test_another_kind_of_file_is_refused(name, tmp_path):
    (tmp_path / name).write_text("something else entirely\n1,2,3\n")
    with pytest.raises(AllroundError, match=name.replace(".", r"\.")):
        KINDS[name][1](tmp_path / name)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "dataset.h5"])
@pytest.mark.parametrize("key", ["dataset", "seed", "round"])
def test_a_file_copied_from_another_cell_is_refused(name, key, tmp_path):
    write, read = KINDS[name]
    write(tmp_path / name)
    read(tmp_path / name, expect=CELL)
    with pytest.raises(AllroundError, match=f"made for {key}"):
        read(tmp_path / name, expect={**CELL, key: 5})


@pytest.mark.parametrize("name", ["labels.csv", "query.csv"])
def test_a_flipped_digit_in_a_table_is_noticed(name, tmp_path):
    KINDS[name][0](tmp_path / name)
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text(text[:-2] + ("8" if text[-2] != "8" else "9") + "\n")
    with pytest.raises(AllroundError, match="truncated, or edited"):
        KINDS[name][1](tmp_path / name)


@kinds
def test_a_writer_that_dies_leaves_the_old_file_whole(name, tmp_path, monkeypatch):
    write, read = KINDS[name]
    write(tmp_path / name)
    before = (tmp_path / name).read_bytes()

    def no_space(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / name)
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]
    read(tmp_path / name)


def test_what_is_written_is_what_is_read(tmp_path):
    write_dataset(tmp_path / "d.h5")
    data = artifacts.read_dataset(tmp_path / "d.h5", "shapes")
    truth = split()
    assert np.array_equal(data.train.images, truth.images)
    assert np.array_equal(data.train.labels, truth.labels)
    assert data.classes == ["a", "b", "c"]
    assert np.allclose(data.mean, truth.images.mean((0, 1, 2)) / 255)
    assert np.allclose(data.std, truth.images.std((0, 1, 2)) / 255)
    write_labels(tmp_path / "l.csv")
    assert artifacts.read_labels(tmp_path / "l.csv").index.tolist() == [7, 2, 9]
    write_query(tmp_path / "q.csv")
    assert artifacts.read_query(tmp_path / "q.csv").score.tolist() == [0.1, 1 / 3]
    write_view(tmp_path / "v.h5")
    view = artifacts.open_view(tmp_path / "v.h5", "outputs")
    assert view.rows == 9
    assert view.read("features", 4, 6).tolist() == [[0] * 8, [5] * 8]


def test_an_incomplete_view_never_appears(tmp_path):
    shape, dtype = {"logits": (3,)}, {"logits": "float32"}
    with (
        pytest.raises(ValueError, match="4 of 9 rows"),
        artifacts.create_view(
            tmp_path / "v.h5", "outputs", rows=9, fields=shape, dtypes=dtype, identity=IDENTITY, digest="d"
        ) as out,
    ):
        out.write(0, logits=np.zeros((4, 3)))
    assert not list(tmp_path.iterdir())


def test_a_dataset_streams_from_blocks_with_the_same_digest(tmp_path, monkeypatch):
    write_dataset(tmp_path / "whole.h5")
    monkeypatch.setattr(artifacts, "BLOCK_BYTES", 100)
    write_dataset(tmp_path / "blocks.h5")
    assert (tmp_path / "whole.h5").read_bytes() == (tmp_path / "blocks.h5").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["a", "b"]}, "labels run from 0 to 2; allowed: 0 to 1"),
        ({"classes": ["a", "b", "c", "d"]}, "no training image of class 'd'"),
        ({"test": Split(np.zeros((6, 9, 9, 3), np.uint8), np.arange(6) % 3, np.arange(6))}, "must have one size"),
        ({"train": Split(np.zeros((5, 4, 5, 3), np.uint8), np.arange(6) % 3, np.arange(6))}, "6 labels for images"),
        ({"test": Split(np.zeros((0, 4, 5, 3), np.uint8), np.zeros(0, int), np.zeros(0, int))}, "test split is empty"),
    ],
)
def test_a_wrong_dataset_is_refused_in_one_line(changes, message, tmp_path):
    with pytest.raises(AllroundError, match=message):
        write_dataset(tmp_path / "d.h5", **changes)
    assert not (tmp_path / "d.h5").exists()


def test_a_checkpoint_from_a_stranger_executes_nothing(tmp_path):
    import torch

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    torch.save({"kind": "checkpoint", "trap": Trap()}, tmp_path / "c.pt")
    with pytest.raises(AllroundError, match="not a whole checkpoint"):
        artifacts.read_checkpoint(tmp_path / "c.pt")
    assert not (tmp_path / "sprung").exists()


def test_versions_of_a_dataset_are_not_mixed():
    with pytest.raises(AllroundError, match="another version of the dataset"):
        artifacts.same_dataset(Path("a.csv"), "1", Path("d.h5"), "2")
