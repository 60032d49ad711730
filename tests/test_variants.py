"""What a user would lose if a pool were not what its name says: every conclusion about redundancy or rare classes."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from test_datasets import arrays, save_images

from allround import datasets, plan, study
from allround.artifacts import read_dataset
from allround.datasets import shapes, variants
from allround.errors import AllroundError
from allround.stages.dataset import make_dataset

CLASSES = ["0", "1", "2"]


def positions(n=300, **variant):
    """The positions that a variant takes of n examples of three classes, and their labels."""
    labels = np.arange(n) % 3
    keys = [str(place) for place in range(n)]
    chosen = variants.choose(labels, CLASSES, variants.checked(variant, "here"), keys, "mine")
    return chosen, labels[chosen]


def test_so_many_examples_a_class_and_a_smaller_pool_is_a_part_of_a_larger_one():
    few, labels = positions(per_class=10)
    assert np.bincount(labels).tolist() == [10, 10, 10] and (np.diff(few) > 0).all()
    more, _ = positions(per_class=40)
    assert set(few) < set(more)
    other, _ = positions(per_class=10, seed=1)
    assert set(few) != set(other)
    assert few.tolist()[:6] == [10, 16, 31, 46, 74, 77]  # the same with every version of numpy


def test_a_class_that_is_cut_has_its_share_of_unique_examples():
    labels = np.repeat(np.arange(3), (1000, 1000, 4000))
    variant = variants.checked({"per_class": 1000, "unique": 300, "copies": 10}, "here")
    chosen = variants.choose(labels, CLASSES, variant, [str(place) for place in range(6000)], "mine")
    times = np.bincount(chosen, minlength=6000)
    assert np.bincount(labels[times == 1]).sum() == 300
    assert all(70 < count < 130 for count in np.bincount(labels[times == 1]))


def test_copies_are_read_once_where_two_blocks_meet():
    reads, whole = [], np.arange(40, dtype=np.uint8).reshape(10, 2, 2, 1)

    class Images:
        shape = whole.shape

        def __getitem__(self, rows):
            reads.extend(range(*rows.indices(10)))
            return whole[rows]

    index = np.array([1, 1, 1, 4, 5, 5, 5, 5, 9])
    chosen = variants.Chosen(Images(), index)
    blocks = [chosen[start : start + 2] for start in range(0, 9, 2)]
    assert np.array_equal(np.concatenate(blocks), whole[index])
    assert reads == [1, 4, 5, 9]


def test_some_classes_may_be_rare():
    _, labels = positions(per_class={1: 5, "2": 7})
    assert np.bincount(labels).tolist() == [100, 5, 7]


@pytest.mark.parametrize("copies", [2, 5, 10])
def test_redundancy_keeps_unique_examples_and_repeats_a_part_of_every_class_of_the_others(copies):
    chosen, labels = positions(unique=30, copies=copies)
    times = np.bincount(chosen, minlength=300)
    assert sorted(set(times)) == [0, 1, copies]
    assert (times == 1).sum() == 30
    rest = 270 // copies * copies
    assert 30 + rest - 3 * copies < len(chosen) <= 30 + rest
    assert np.ptp(np.bincount(labels[times[chosen] == copies])) <= 5 * copies
    assert (np.diff(chosen) >= 0).all()


def test_a_variant_of_an_archive_has_its_images_labels_and_origin(tmp_path):
    whole = arrays(train=60)
    np.savez(tmp_path / "mine.npz", **whole)
    entry = {"source": "npz", "options": {"file": "mine.npz"}, "variant": {"per_class": 12, "unique": 6, "copies": 5}}
    settings = datasets.settings(entry, "here")
    identity = plan.identity("dataset", cell={"dataset": "mine"}, settings=settings, inputs={})
    make_dataset(data=tmp_path, dataset=tmp_path / "mine.h5", memory_gb=None, identity=identity)
    data = read_dataset(tmp_path / "mine.h5", "mine")
    origin = data.train.origin
    again = sum(np.bincount(origin) == 5)
    assert len(origin) == 6 + 5 * again and len(set(origin)) == 6 + again and again >= 4
    assert np.array_equal(data.train.images[:], whole["x_train"][origin])
    assert np.array_equal(data.train.labels, whole["y_train"][origin])
    assert np.array_equal(data.test.images[:], whole["x_test"])


def test_a_variant_of_a_folder_keeps_the_names_of_its_files_and_decodes_no_other(tmp_path, monkeypatch):
    save_images(tmp_path / "pets/train", [f"{name}/{n}.png" for name in ("cat", "dog") for n in range(9)])
    save_images(tmp_path / "pets/test", ["cat/1.png", "dog/1.png"])
    whole = datasets.load("folder", tmp_path, {"folder": "pets"})
    source = variants.apply(whole, variants.checked({"per_class": {"cat": 2}}, "here"))
    assert source.train.files[:2].tolist() == sorted(source.train.files[:2].tolist())
    assert len(source.train.files) == 11 and sum(b"/cat/" in file for file in source.train.files) == 2
    opened, decode = [], datasets.folder.decode
    monkeypatch.setattr(datasets.folder, "decode", lambda file, *more: opened.append(file) or decode(file, *more))
    images = source.train.images[0:4]
    assert len(opened) == 4 and np.array_equal(images, whole.train.images[0:18][source.train.origin[:4]])
    assert source.train.images[4:4].shape[0] == 0


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({}, "must hold keys and values, of per_class, unique, copies, seed"),
        ({"seed": 3}, "must hold keys and values"),
        (5, "must hold keys and values"),
        ({"perclass": 5}, "unknown key of a variant 'perclass'. Did you mean 'per_class'"),
        ({"unique": 5}, "'unique' and 'copies' of a variant belong together"),
        ({"unique": 5, "copies": 1}, "'copies' of a variant is 1; allowed: whole numbers from 2."),
        ({"per_class": 0}, "'per_class' of a variant is 0; allowed: whole numbers from 1, or names"),
        ({"per_class": {"0": 2.5}}, "'per_class' of a variant is {'0': 2.5}; allowed"),
        ({"per_class": {0: 5, "0": 2}}, "names a class twice: {0: 5, '0': 2}"),
        ({"per_class": {}}, "'per_class' of a variant is {}; allowed"),
    ],
)
def test_a_mistake_in_a_variant_is_one_line(variant, message):
    with pytest.raises(AllroundError) as error:
        variants.checked(variant, "datasets.yaml entry 'mine'")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith("datasets.yaml entry 'mine'")


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"per_class": 101}, "asks for 101 examples of class '0', which has 100"),
        ({"per_class": 1000}, "asks for 1000 examples of class '0', which has 100"),
        ({"per_class": {"cat": 2}}, "unknown class of 'per_class' 'cat'"),
        ({"per_class": 10, "unique": 30, "copies": 2}, "'unique' is 30; allowed: fewer than the 30 training examples"),
    ],
)
def test_a_variant_that_a_dataset_cannot_give_is_one_line(variant, message):
    with pytest.raises(AllroundError) as error:
        positions(**variant)
    assert message in str(error.value) and "\n" not in str(error.value) and str(error.value).startswith("mine")


def test_a_study_of_variants_runs_and_leaves_the_plain_dataset_alone(copy, monkeypatch):
    catalogue = copy.root / "config/catalogue/datasets.yaml"
    entry = {"digits_few": {"source": "digits", "variant": {"per_class": 20}}}
    catalogue.write_text(catalogue.read_text() + yaml.safe_dump(entry))
    tiny = (copy.root / "config/studies/tiny.yaml").read_text()
    copy.study("few", tiny.replace("[digits]", "[digits, digits_few]"))
    assert copy.planned() == {}
    assert copy.planned(study="few")["dataset"] == 1
    monkeypatch.chdir(copy.root)
    site = study.site("few")
    found = study.load(site, copy.root)
    assert shapes.of(found, "digits_few", copy.root / "data").train == (200, 8, 8, 1)
    copy.study("more", tiny.replace("[digits]", "[digits_few]").replace("budget: 5", "budget: 100"))
    assert "but there are only 200 training examples" in copy.snakemake("-n", study="more", ok=False)
    catalogue.write_text(catalogue.read_text().replace("per_class: 20\n", "per_class: {cat: 20}\n"))
    assert "dataset 'digits_few': unknown class of 'per_class' 'cat'" in copy.snakemake("-n", study="few", ok=False)
    catalogue.write_text(catalogue.read_text().replace("{cat: 20}\n", "20\n"))
    copy.snakemake(study="few")
    made = read_dataset(copy.root / "results/datasets/digits_few.h5", "digits_few")
    assert np.bincount(made.train.labels).tolist() == [20] * 10
    catalogue.write_text(catalogue.read_text().replace("per_class: 20\n", "per_class: 100\n"))
    found = study.load(site, copy.root)
    assert shapes.of(found, "digits_few", copy.root / "data").train == (1000, 8, 8, 1)  # not what was converted
