"""Sources of images: what a user would lose if each of these failed."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from PIL import Image

from allround import artifacts, datasets
from allround.artifacts import read_dataset
from allround.datasets import folder, npz
from allround.datasets import torchvision as standard
from allround.errors import AllroundError
from allround.job import run_stage
from allround.stages.dataset import make_dataset

CATALOGUE = Path(__file__).parents[1] / "config/catalogue/datasets.yaml"


def arrays(shape=(4, 5, 3), train=12, test=6, classes=3):
    """A small dataset as the arrays of an archive; no two images are equal."""
    x = np.random.default_rng(1).integers(0, 256, (train + test, *shape), dtype=np.uint8)
    y = np.arange(train + test) % classes
    return {"x_train": x[:train], "y_train": y[:train], "x_test": x[train:], "y_test": y[train:]}


def identity(source, options=None, name="mine"):
    job = {"stage": "dataset", "cell": {"dataset": name}, "settings": {"source": source, "options": options or {}}}
    return json.dumps(job | {"inputs": {}, "code": ""})


def make(data, source, memory_gb=None, out="mine.h5", **options):
    """Run the stage on a folder and read back what it wrote."""
    path = data / "results" / out
    make_dataset(data=data, dataset=path, memory_gb=memory_gb, identity=identity(source, options))
    return read_dataset(path, "mine")


def refused(*words, data, source, memory_gb=None, **options):
    """The stage fails with one line that holds all `words`, and leaves no file behind."""
    with pytest.raises(AllroundError) as caught:
        make(data, source, memory_gb, **options)
    line = str(caught.value)
    assert "\n" not in line and line.endswith(".")
    for word in words:
        assert str(word) in line, f"{word!r} is not in: {line}"
    assert not list(data.glob("results/*"))


def save_images(root, names, size=(8, 6), mode="RGB"):
    """Images of width x height `size` under root/<name>, each of another colour."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        value = (10 * number + 5, 255 - 10 * number, 77) if mode == "RGB" else 10 * number + 5
        Image.new(mode, size, value).save(path)


# --- npz --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3)])
def test_images_and_labels_of_an_archive_arrive_unchanged(tmp_path, shape, save, monkeypatch):
    monkeypatch.setattr(artifacts, "BLOCK_BYTES", 100)  # several blocks, the last one short
    made = arrays(shape)
    save(
        tmp_path / "mine.npz", **made | {"y_train": made["y_train"][:, None].astype(np.uint8)}
    )  # [n, 1], as Keras has it
    data = make(tmp_path, "npz", file="mine.npz", classes=["ant", "bee", "cat"])
    assert data.classes == ["ant", "bee", "cat"]
    for split, half in ((data.train, "train"), (data.test, "test")):
        x, y = made[f"x_{half}"], made[f"y_{half}"]
        assert np.array_equal(split.images, x.reshape(*x.shape[:3], -1))
        assert np.array_equal(split.labels, y) and np.array_equal(split.origin, np.arange(len(y)))


def test_labels_without_names_are_named_by_their_numbers(tmp_path):
    np.savez(tmp_path / "mine.npz", **arrays())
    assert make(tmp_path, "npz", file="mine.npz").classes == ["0", "1", "2"]


GOOD = arrays()
X, Y = GOOD["x_train"], GOOD["y_train"]
FAULTS = {
    "float images": ({"x_train": X / 255}, ["x_train", "float64", "uint8", "* 255"]),
    "int images": ({"x_test": GOOD["x_test"].astype(int)}, ["x_test", "int64", "astype('uint8')"]),
    "channels first": ({"x_train": X.transpose(0, 3, 1, 2)}, ["x_train", "(12, 3, 4, 5)", "transpose(0, 2, 3, 1)"]),
    "four channels": ({"x_train": np.repeat(X[..., :1], 4, 3)}, ["x_train", "(12, 4, 5, 4)", "height, width, 3]"]),
    "flat images": ({"x_train": X.reshape(12, -1)}, ["x_train", "(12, 60)", "height, width"]),
    "sizes differ": ({"x_test": GOOD["x_test"][:, :3]}, ["4 x 5 x 3", "3 x 5 x 3", "one size"]),
    "grey and colour": ({"x_test": GOOD["x_test"][..., 0]}, ["4 x 5 x 3", "4 x 5 x 1", "one size"]),
    "counts differ": ({"y_train": Y[:-1]}, ["12 images", "11 labels", "one each"]),
    "float labels": ({"y_train": Y + 0.5}, ["y_train", "float64", "integers", "astype"]),
    "text labels": ({"y_train": Y.astype(str)}, ["y_train", "integers"]),
    "one-hot labels": ({"y_train": np.eye(3, dtype=int)[Y]}, ["y_train", "(12, 3)", "argmax"]),
    "negative label": ({"y_train": Y - 1}, ["train labels", "-1", "allowed: 0 to"]),
    "label too large": ({"y_test": GOOD["y_test"] + 1}, ["test labels", "1 to 3", "allowed: 0 to 2"]),
    "empty class": ({"y_train": np.where(Y == 1, 2, Y)}, ["no image of class '1'", "add images"]),
    "one class": ({"y_train": Y * 0, "y_test": GOOD["y_test"] * 0}, ["one class", "another"]),
    "no images": ({"x_train": X[:0], "y_train": Y[:0]}, ["train", "no images", "add some"]),
    "no test images": ({"x_test": X[:0], "y_test": Y[:0]}, ["test", "no images", "add some"]),
    "objects": ({"y_train": Y.astype(object)}, ["y_train", "Python objects", "plain array"]),
    "Fortran order": ({"x_train": np.asfortranarray(X)}, ["x_train", "Fortran", "ascontiguousarray"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_archive_is_refused_in_one_line_that_says_how_to_mend_it(tmp_path, fault):
    change, words = FAULTS[fault]
    np.savez(tmp_path / "mine.npz", **GOOD | change)
    refused(tmp_path / "mine.npz", *words, data=tmp_path, source="npz", file="mine.npz")


def test_a_list_of_classes_that_does_not_fit_the_labels_is_refused(tmp_path):
    np.savez(tmp_path / "mine.npz", **GOOD)
    few, many = ["ant", "bee"], ["ant", "bee", "cat", "dog"]
    refused("mine.npz", "0 to 2", "allowed: 0 to 1", data=tmp_path, source="npz", file="mine.npz", classes=few)
    refused("mine.npz", "no image of class 'dog'", data=tmp_path, source="npz", file="mine.npz", classes=many)
    refused(
        "mine.npz", "'ant' occurs twice", data=tmp_path, source="npz", file="mine.npz", classes=["ant", "bee", "ant"]
    )


def test_a_missing_archive_or_array_is_named(tmp_path):
    refused(tmp_path / "mine.npz", "no such file", "x_train", data=tmp_path, source="npz", file="mine.npz")
    np.savez(tmp_path / "mine.npz", images=X, y_train=Y, x_test=X, y_test=Y)
    refused("mine.npz", "no array x_train", "holds images", data=tmp_path, source="npz", file="mine.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_archive_is_never_learned_from(tmp_path, save):
    path = tmp_path / "mine.npz"
    save(path, **arrays((16, 16, 3), train=300))
    whole = path.read_bytes()
    words = (path, "not a whole .npz", "copy it")
    path.write_bytes(whole[: len(whole) // 2])
    refused(*words, data=tmp_path, source="npz", file="mine.npz")
    path.write_bytes(b"not an archive at all")
    refused(*words, data=tmp_path, source="npz", file="mine.npz")
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])  # one pixel of one image
    refused(*words, data=tmp_path, source="npz", file="mine.npz")


def test_an_archive_from_a_stranger_runs_no_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    np.savez(tmp_path / "mine.npz", **GOOD | {"y_train": np.array([Trap()], dtype=object)})
    refused("Python objects", data=tmp_path, source="npz", file="mine.npz")
    assert not (tmp_path / "trapped").exists()


def test_an_archive_larger_than_memory_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "BLOCK_BYTES", 100_000)
    made = arrays((32, 32, 3), train=6000, test=100)
    np.savez(tmp_path / "mine.npz", **made)
    raw = made["x_train"].nbytes
    del made
    tracemalloc.start()
    make(tmp_path, "npz", file="mine.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert raw > 18e6 and peak < 4e6


def test_a_dataset_over_the_memory_budget_is_refused_before_its_images_are_read(tmp_path, monkeypatch):
    np.savez(tmp_path / "mine.npz", **GOOD)
    monkeypatch.setattr(npz.Images, "__getitem__", lambda *_: pytest.fail("images were read"))
    words = ("mine.npz", "18 images", "1.08e-06 GB", "budget of 1e-06 GB", "memory_gb in config/config.yaml")
    refused(*words, data=tmp_path, source="npz", memory_gb=1e-6, file="mine.npz")
    monkeypatch.undo()
    assert len(make(tmp_path, "npz", memory_gb=1.08e-6, file="mine.npz").train.labels) == 12


# --- folder -----------------------------------------------------------------------------------------------------------


def test_images_of_a_folder_arrive_in_the_order_of_their_names_hidden_files_left_out(tmp_path):
    root = tmp_path / "pets"
    save_images(root / "train", ["dog/b.png", "cat/2.png", "cat/1.PNG", "dog/a.bmp"])
    save_images(root / "test", ["cat/9.png", "dog/9.png"])
    for clutter in (".DS_Store", "train/.hidden/x.png", "train/cat/.x.png", "train/dog/Thumbs.db", "readme.txt"):
        (root / clutter).parent.mkdir(exist_ok=True)
        (root / clutter).write_text("not an image")
    data = make(tmp_path, "folder", folder="pets")
    assert data.classes == ["cat", "dog"] and data.train.images.shape == (4, 6, 8, 3)
    assert data.train.labels.tolist() == [0, 0, 1, 1] and data.test.labels.tolist() == [0, 1]
    assert data.train.images[:, 0, 0, 0].tolist() == [25, 15, 35, 5]  # cat/1, cat/2, dog/a, dog/b
    assert data.train.images[0, 5, 7].tolist() == [25, 235, 77]
    with h5py.File(data.path) as file:
        names = file["train/files"][:].tolist()
    assert names == [b"train/cat/1.PNG", b"train/cat/2.png", b"train/dog/a.bmp", b"train/dog/b.png"]


def test_every_image_of_a_folder_can_be_traced_to_its_file_and_a_changed_name_is_damage(tmp_path):
    names = ["katze/süß.png", os.fsdecode(b"katze/latin-\xfc.png"), "hund/a.png", "hund/ein langer Name.png"]
    save_images(tmp_path / "pets", names)
    data = make(tmp_path, "folder", folder="pets", test_fraction=0.5)
    with h5py.File(data.path) as file:
        found = {name: [os.fsdecode(one) for one in file[f"{name}/files"][:]] for name in ("train", "test")}
    assert sorted(found["train"] + found["test"]) == sorted(names)
    for name, split in (("train", data.train), ("test", data.test)):
        for image, one in zip(split.images[:], found[name], strict=True):
            assert np.array_equal(image, np.asarray(Image.open(tmp_path / "pets" / one)))
    with h5py.File(data.path, "r+") as file:
        file["train/files"][0] = b"hund/b.png"
    with pytest.raises(AllroundError, match="it changed on disk"):
        read_dataset(data.path)


def test_colour_and_grey_can_be_had_from_either(tmp_path):
    save_images(tmp_path / "pets", ["cat/1.png", "cat/2.png"], mode="L")
    save_images(tmp_path / "pets", ["dog/1.png", "dog/2.png"], mode="RGB")
    grey, colour = (make(tmp_path, "folder", folder="pets", mode=mode, out=f"{mode}.h5") for mode in ("grey", "colour"))
    assert grey.train.images.shape == (2, 6, 8, 1) and colour.train.images.shape == (2, 6, 8, 3)
    cat = colour.train.images[0]
    assert np.array_equal(cat[..., :1], grey.train.images[0]) and np.array_equal(cat[..., 0], cat[..., 2])


def test_the_test_set_of_a_folder_is_fixed_stratified_and_hardly_moved_by_a_new_image(tmp_path):
    save_images(tmp_path / "pets", [f"cat/{n}.png" for n in range(20)] + [f"dog/{n}.png" for n in range(5)])

    def test_set(**options):
        source = datasets.load("folder", tmp_path, {"folder": "pets", **options})
        assert not set(source.train.images.files) & set(source.test.images.files)
        assert len(source.train.labels) + len(source.test.labels) == len(
            {*source.train.origin.tolist(), *source.test.origin.tolist()}
        )
        return {file.relative_to(tmp_path / "pets").as_posix() for file in source.test.images.files}

    before = test_set(test_fraction=0.2)
    assert sum(name.startswith("cat") for name in before) == 4 and sum(name.startswith("dog") for name in before) == 1
    assert before == test_set(test_fraction=0.2) != test_set(test_fraction=0.2, split_seed=1)
    save_images(tmp_path / "pets", ["cat/00.png"])
    assert len(before - test_set(test_fraction=0.2)) <= 1


def test_photographs_are_resized_cropped_and_turned_upright(tmp_path):
    for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        picture = np.zeros((20, 40, 3), dtype=np.uint8)
        picture[:10, 5:35] = 255  # the upper half of the centre is white
        Image.fromarray(picture).save(tmp_path / "pets" / name)
    turned = Image.open(tmp_path / "pets/dog/1.png").rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me clockwise by 90 degrees"
    turned.save(tmp_path / "pets/dog/1.png", exif=exif)
    data = make(tmp_path, "folder", folder="pets", size=10)
    images = np.concatenate([data.train.images, data.test.images])
    assert images.shape == (4, 10, 10, 3)
    assert (images[:, :4] > 250).all() and (images[:, 6:] < 5).all()
    assert make(tmp_path, "folder", folder="pets", out="whole.h5").train.images.shape[1:] == (20, 40, 3)


def test_images_of_different_sizes_are_named_with_the_remedy(tmp_path):
    save_images(tmp_path / "pets", ["cat/1.png", "cat/2.png", "dog/2.png"])
    save_images(tmp_path / "pets", ["dog/1.png"], size=(9, 6))
    both = [tmp_path / f"pets/{name}.png" for name in ("dog/1", "cat/1")]
    refused(*both, "9 x 6", "8 x 6", "'size'", "size: 6", data=tmp_path, source="folder", folder="pets")
    assert make(tmp_path, "folder", folder="pets", size=6).train.images.shape[1:] == (6, 6, 3)


@pytest.mark.parametrize("size", [0, 4])
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_corrupt_image_is_named(tmp_path, kind, size):
    save_images(tmp_path / "pets", [f"{c}/{n}.{kind}" for c in ("cat", "dog") for n in range(3)], size=(64, 64))
    bad = tmp_path / f"pets/dog/1.{kind}"
    whole = bad.read_bytes()
    for content in (b"", b"<html>not found</html>", whole[: len(whole) * 2 // 3]):
        bad.write_bytes(content)
        refused(bad, "damaged image", "replace it", data=tmp_path, source="folder", folder="pets", size=size)


def test_a_16_bit_image_is_not_clipped_in_silence(tmp_path):
    save_images(tmp_path / "pets", ["cat/1.png", "cat/2.png", "dog/1.png"], mode="L")
    Image.fromarray(np.full((6, 8), 40000, dtype=np.uint16)).save(tmp_path / "pets/dog/2.png")
    refused("dog/2.png", "more than 8 bits", "convert it", data=tmp_path, source="folder", folder="pets", mode="grey")


def test_what_is_no_image_is_said_not_skipped(tmp_path):
    root = tmp_path / "pets"
    save_images(root, ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"])
    ask = {"data": tmp_path, "source": "folder", "folder": "pets"}
    for name in ("dog/photo.heic", "cat/list.txt"):
        (root / name).write_text("x")
        refused(root / name, "not an image", ".png", "move it", **ask)
        (root / name).unlink()
    save_images(root, ["dog/more/1.png"])
    refused(root / "dog/more", "is a folder", "move it", **ask)
    shutil.rmtree(root / "dog/more")
    save_images(root, ["1.png"])
    refused(root / "1.png", "beside the class folders", "move it", **ask)


def test_a_folder_with_a_part_missing_is_refused(tmp_path):
    root, ask = tmp_path / "pets", {"data": tmp_path, "source": "folder", "folder": "pets"}
    refused(root, "no such folder", **ask)
    root.mkdir()
    refused(root, "no class folders", **ask)
    (root / "cat").mkdir()
    refused(root, "holds no images", **ask)
    (root / "cat").rmdir()
    save_images(root, ["train/cat/1.png", "train/dog/1.png"])
    refused(root, "no test/", "test/<class>/", **ask)
    save_images(root, ["test/cat/1.png", "test/cow/1.png"])
    refused(root / "test/cow", "no folder in", **ask)
    (root / "test/cow").rename(root / "train/cow")
    assert make(tmp_path, "folder", folder="pets").classes == ["cat", "cow", "dog"]  # no test image of a class: allowed
    shutil.rmtree(tmp_path / "results")
    (root / "train/cow/1.png").unlink()
    refused(root, "no image of class 'cow'", **ask)
    shutil.rmtree(root / "train/cow")
    shutil.rmtree(root / "train/dog")
    refused(root, "one class alone (cat)", **ask)
    refused("'test_fraction'", "between 0 and 1", **ask, test_fraction=1.0)
    refused("mode", "'gray'", "Did you mean 'grey'?", **ask, mode="gray")
    refused("'size'", "-1", **ask, size=-1)


def test_a_folder_larger_than_memory_can_be_read(tmp_path, monkeypatch):
    names = [f"train/{c}/{n}.png" for c in ("cat", "dog") for n in range(60)] + ["test/cat/1.png", "test/dog/1.png"]
    save_images(tmp_path / "pets", names, size=(128, 128))
    folder.decode(tmp_path / "pets" / names[0], 0, "colour")  # Pillow's own memory is not counted
    monkeypatch.setattr(artifacts, "BLOCK_BYTES", 100_000)  # two images
    tracemalloc.start()
    data = make(tmp_path, "folder", folder="pets")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data.train.images.nbytes > 5.8e6 and peak < 2e6


# --- digits -----------------------------------------------------------------------------------------------------------


def test_the_digits_are_the_same_for_everybody():
    source = datasets.load("digits", Path("nowhere"))
    assert source.train.images.shape == (1297, 8, 8, 1) and source.test.images.shape == (500, 8, 8, 1)
    assert source.test.origin[:8].tolist() == [0, 10, 16, 26, 28, 31, 34, 35]
    assert sorted([*source.train.origin, *source.test.origin]) == list(range(1797))
    assert (source.train.images.min(), source.train.images.max()) == (0, 255)
    assert np.bincount(source.test.labels).tolist() == [50, 51, 49, 51, 50, 51, 50, 50, 48, 50]
    from sklearn.datasets import load_digits

    digits = load_digits()
    assert np.array_equal(digits.target[source.test.origin], source.test.labels)
    assert np.abs(digits.images[source.train.origin] * 255 / 16 - source.train.images[..., 0]).max() <= 0.5


# --- torchvision ------------------------------------------------------------------------------------------------------

TORCHVISION = pytest.importorskip("torchvision").datasets
SHAPES = {"CIFAR10": (32, 32, 3), "CIFAR100": (32, 32, 3), "SVHN": (32, 32, 3), "STL10": (96, 96, 3)}


@pytest.fixture(params=standard.OFFICIAL)
def shrunken(request, monkeypatch):
    """A standard dataset with one or two images a class: (name, its arrays)."""
    name = request.param
    official = standard.OFFICIAL[name]
    count = len(official.classes)
    made = arrays(SHAPES.get(name, (28, 28)), train=2 * count, test=count, classes=count)
    shape = (*made["x_train"].shape[1:], 1)[:3]
    small = replace(official, train=(2 * count, *shape), test=(count, *shape), sha256=None)
    monkeypatch.setitem(standard.OFFICIAL, name, small)
    return name, made


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def write_official(data, name, made, monkeypatch):
    """The files that torchvision reads; its MD5 sums are of the real ones, so they are left out."""
    halves = [(made["x_train"], made["y_train"]), (made["x_test"], made["y_test"])]
    if "MNIST" in name:
        raw = data / name / "raw"
        raw.mkdir(parents=True)
        for prefix, (x, y) in zip(("train", "t10k"), halves, strict=True):
            images = struct.pack(">IIII", 2051, *x.shape) + x.tobytes()
            labels = struct.pack(">II", 2049, len(y)) + y.astype(np.uint8).tobytes()
            (raw / f"{prefix}-images-idx3-ubyte").write_bytes(images)
            (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)
        return
    kind = getattr(TORCHVISION, name)
    if "CIFAR" in name:
        base, key = data / kind.base_folder, "labels" if name == "CIFAR10" else "fine_labels"
        base.mkdir()
        for part, (x, y) in zip(("train_list", "test_list"), halves, strict=True):
            files = [file for file, _ in getattr(kind, part)]
            monkeypatch.setattr(kind, part, [[file, None] for file in files])
            for file, index in zip(files, np.array_split(np.arange(len(y)), len(files)), strict=True):
                rows = x[index].transpose(0, 3, 1, 2).reshape(len(index), -1)
                (base / file).write_bytes(pickle.dumps({"data": rows, key: y[index].tolist()}))
        (base / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: []}))
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": None})
    elif name == "SVHN":
        from scipy.io import savemat

        monkeypatch.setattr(kind, "split_list", {k: [*v[:2], None] for k, v in kind.split_list.items()})
        for half, (x, y) in zip(("train", "test"), halves, strict=True):
            savemat(data / f"{half}_32x32.mat", {"X": x.transpose(1, 2, 3, 0), "y": np.where(y == 0, 10, y)[:, None]})
    else:
        base = data / kind.base_folder
        base.mkdir()
        for part, half, (x, y) in zip(("train_list", "test_list"), ("train", "test"), halves, strict=True):
            (base / f"{half}_X.bin").write_bytes(x.transpose(0, 3, 2, 1).tobytes())  # column-major planes
            (base / f"{half}_y.bin").write_bytes((y + 1).astype(np.uint8).tobytes())
            monkeypatch.setattr(kind, part, [[f"{half}_X.bin", None], [f"{half}_y.bin", None]])


def test_an_archive_and_the_official_files_give_the_same_dataset(shrunken, tmp_path, monkeypatch, offline):
    name, made = shrunken
    write_official(tmp_path, name, made, monkeypatch)
    official = make(tmp_path, "torchvision", out="official.h5", name=name)
    archive = tmp_path / standard.OFFICIAL[name].npz
    np.savez(archive, **made)
    monkeypatch.setattr(standard, "_torchvision", lambda *_: pytest.fail("the archive was not taken"))
    other = make(tmp_path, "torchvision", out="archive.h5", name=name)
    assert official.digest == other.digest and official.classes == list(standard.OFFICIAL[name].classes)
    x = made["x_train"]
    assert np.array_equal(official.train.images, x.reshape(*x.shape[:3], -1))
    assert np.array_equal(official.train.labels, made["y_train"])


def test_without_a_network_one_line_says_which_files_to_put_where(shrunken, tmp_path, offline):
    name, _ = shrunken
    official = standard.OFFICIAL[name]
    files = [tmp_path / file for file in (official.npz, *official.files)]
    words = (name, "could not be downloaded", "Name or service not known", *files, official.site)
    for _ in range(2):  # what a first attempt leaves behind changes nothing
        refused(*words, "is not there", data=tmp_path, source="torchvision", name=name)


def test_the_downloaded_files_can_be_put_in_place_by_hand(tmp_path, monkeypatch, offline):
    made = arrays((28, 28), train=20, test=10, classes=10)
    write_official(tmp_path, "MNIST", made, monkeypatch)
    resources = []
    for path in sorted((tmp_path / "MNIST/raw").iterdir()):
        packed = path.with_name(path.name + ".gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
        resources.append((packed.name, None))
    assert {f"MNIST/raw/{name}" for name, _ in resources} == set(standard.OFFICIAL["MNIST"].files)
    monkeypatch.setattr(TORCHVISION.MNIST, "resources", resources)
    small = replace(standard.OFFICIAL["MNIST"], train=(20, 28, 28, 1), test=(10, 28, 28, 1), sha256=None)
    monkeypatch.setitem(standard.OFFICIAL, "MNIST", small)
    data = make(tmp_path, "torchvision", name="MNIST")
    assert np.array_equal(data.train.images[..., 0], made["x_train"])


def test_a_damaged_official_file_is_named(tmp_path, monkeypatch, offline):
    write_official(tmp_path, "MNIST", arrays((28, 28), 20, 10, 10), monkeypatch)
    raw = tmp_path / "MNIST/raw"
    path = raw / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-500])
    refused(raw, "damaged", "delete it", tmp_path / "mnist.npz", data=tmp_path, source="torchvision", name="MNIST")
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(b"half a download")
    refused(archive, "damaged", "delete it", data=tmp_path, source="torchvision", name="CIFAR10")


def test_a_standard_name_never_holds_other_images_or_another_order(tmp_path, monkeypatch):
    made = arrays((28, 28), train=20, test=10, classes=10)
    ask = {"data": tmp_path, "source": "torchvision", "name": "MNIST"}
    path = tmp_path / "mnist.npz"
    np.savez(path, **made)
    refused(path, "(20, 28, 28, 1)", "(60000, 28, 28, 1)", "source: npz", **ask)
    small = replace(standard.OFFICIAL["MNIST"], train=(20, 28, 28, 1), test=(10, 28, 28, 1), sha256=None)
    sha256 = standard._sha256(npz.load(tmp_path, file="mnist.npz"))
    monkeypatch.setitem(standard.OFFICIAL, "MNIST", replace(small, sha256=sha256))
    digest = make(**ask).digest
    assert len(digest) == 16
    shutil.rmtree(tmp_path / "results")
    for change in (
        {"x_train": made["x_train"][::-1], "y_train": made["y_train"][::-1]},
        {"y_test": 9 - made["y_test"]},
    ):
        np.savez(path, **{key: np.ascontiguousarray(value) for key, value in (made | change).items()})
        refused(path, "official order", "source: npz", **ask)


def test_the_names_of_files_and_classes_are_torchvisions_own():
    for name, official in standard.OFFICIAL.items():
        kind = getattr(TORCHVISION, name)
        if "MNIST" in name:
            assert official.files == tuple(f"{name}/raw/{file}" for file, _ in kind.resources)
        elif name == "SVHN":
            assert official.files == tuple(kind.split_list[half][1] for half in ("train", "test"))
        else:
            assert (official.files, official.unpacked) == ((kind.filename,), kind.base_folder)
    assert list(standard.OFFICIAL["FashionMNIST"].classes) == TORCHVISION.FashionMNIST.classes
    assert len(standard.OFFICIAL["CIFAR100"].classes) == len(set(standard.OFFICIAL["CIFAR100"].classes)) == 100


# --- the registry and the catalogue -----------------------------------------------------------------------------------


def test_every_entry_of_the_catalogue_is_understood():
    entries = yaml.safe_load(CATALOGUE.read_text())
    assert {"digits", "cifar10", "cifar100", "mnist", "fashion_mnist", "svhn", "stl10"} <= entries.keys()
    for name, entry in entries.items():
        whole = datasets.settings(entry, f"entry '{name}'")
        assert datasets.missing(whole["source"], Path("nowhere"), whole["options"]) is None  # downloads count as there
        assert whole == datasets.settings(whole) and json.loads(json.dumps(whole)) == whole
        if whole["source"] == "torchvision" and "variant" not in whole:
            assert standard.OFFICIAL[whole["options"]["name"]].npz == f"{name}.npz"


def test_a_new_source_is_one_file():
    assert datasets.names() == ["digits", "folder", "npz", "torchvision"]
    assert datasets.describe("folder")["test_fraction"] == 0.2
    assert datasets.describe("npz") == {"file": datasets.REQUIRED, "classes": ()}
    for name in datasets.names():
        assert Path(sys.modules[datasets.load.__module__].__file__).with_name(f"{name}.py").is_file()
        assert datasets.module(name) == f"allround.datasets.{name}"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"source": "torchvison"}, ["unknown source 'torchvison'", "Did you mean 'torchvision'?", "Allowed: digits"]),
        ({}, ["'source' is missing", "digits, folder"]),
        ({"source": "npz", "option": {}}, ["unknown key 'option'", "Did you mean 'options'?"]),
        ({"source": "npz", "options": {"fil": "a.npz"}}, ["unknown option", "'fil'", "Did you mean 'file'?"]),
        ({"source": "npz"}, ["needs the option 'file'"]),
        ({"source": "npz", "options": ["a.npz"]}, ["'options' must hold keys and values"]),
        ({"source": "npz", "options": {"file": 3}}, ["'file'", "type str", "3"]),
        (
            {"source": "npz", "options": {"file": "a", "classes": [True, False]}},
            ["'classes'", "[True, False]", "quotes"],
        ),
        ({"source": "folder", "options": {"folder": "a", "size": True}}, ["'size'", "type int", "True"]),
        ({"source": "folder", "options": {"folder": "a", "size": "32"}}, ["'size'", "type int", "'32'"]),
        ({"source": "digits", "options": {"size": 8}}, ["unknown option 'size'", "no options"]),
    ],
)
def test_a_mistake_in_the_catalogue_is_found_before_any_job_starts(entry, words):
    with pytest.raises(AllroundError) as caught:
        datasets.settings(entry, "datasets.yaml entry 'mine'")
    line = str(caught.value)
    assert line.startswith("datasets.yaml entry 'mine': ") and "\n" not in line
    for word in words:
        assert word in line, f"{word!r} is not in: {line}"


def test_a_missing_source_is_found_before_any_job_starts(tmp_path):
    assert str(tmp_path / "a.npz") in datasets.missing("npz", tmp_path, {"file": "a.npz"})
    assert str(tmp_path / "pets") in datasets.missing("folder", tmp_path, {"folder": "pets"})
    with pytest.raises(AllroundError, match="Did you mean 'CIFAR10'"):
        datasets.missing("torchvision", tmp_path, {"name": "CIFAR-10"})


def test_planning_imports_nothing_heavy():
    program = """
import sys
from pathlib import Path
from allround import datasets
options = {"npz": {"file": "x"}, "folder": {"folder": "x"}, "torchvision": {"name": "CIFAR10"}}
for source in datasets.names():
    datasets.describe(source), datasets.missing(source, Path("nowhere"), options.get(source))
sys.exit(" ".join({"torch", "torchvision", "sklearn", "scipy", "PIL", "pandas"} & set(sys.modules)) or 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- the stage --------------------------------------------------------------------------------------------------------


def test_the_stage_runs_by_hand_from_its_command_line(tmp_path):
    np.savez(tmp_path / "mine.npz", **GOOD)
    command = [sys.executable, "-m", "allround.stages.dataset", "--data", tmp_path, "--dataset", tmp_path / "mine.h5"]
    command += ["--cost", tmp_path / "cost.json", "--memory-gb", "1"]
    subprocess.run([*command, "--identity", identity("npz", {"file": "mine.npz"})], check=True)
    assert read_dataset(tmp_path / "mine.h5", "mine").classes == ["0", "1", "2"]
    assert json.loads((tmp_path / "cost.json").read_text())["images"] == 18
    command[4:7:2] = [tmp_path / "nowhere", tmp_path / "other.h5"]
    wrong = [*command, "--identity", identity("npz", {"file": "mine.npz"})]
    done = subprocess.run(wrong, capture_output=True, text=True)
    assert (
        done.returncode == 1
        and len(done.stderr.splitlines()) == 1
        and str(tmp_path / "nowhere/mine.npz") in done.stderr
    )


def test_the_same_job_writes_the_same_bytes(tmp_path):
    np.savez(tmp_path / "mine.npz", **GOOD)
    first, second = (make(tmp_path, "npz", out=out, file="mine.npz").path.read_bytes() for out in ("a.h5", "b.h5"))
    assert first == second


def test_a_folder_without_write_permission_is_named(monkeypatch):
    folder = Path(tempfile.mkdtemp())  # not tmp_path, which nobody else may enter
    try:
        np.savez(folder / "mine.npz", **GOOD)
        np.load(folder / "mine.npz")["x_train"]  # imports what another user may have no permission to import
        (folder / "results").mkdir(mode=0o555)
        folder.chmod(0o755)
        out = folder / "results/mine.h5"
        words = ["dataset", "--data", folder, "--dataset", out, "--identity", identity("npz", {"file": "mine.npz"})]
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # root may write everywhere
        try:
            with pytest.raises(SystemExit) as caught:
                run_stage(make_dataset, inputs=("data",), outputs=("dataset",), numbers=("memory_gb",))
        finally:
            os.seteuid(user)
        line = str(caught.value)
        assert "no permission" in line and str(out) in line and "\n" not in line
    finally:
        shutil.rmtree(folder)
