"""The standard datasets: CIFAR-10, CIFAR-100, MNIST, Fashion-MNIST, SVHN and STL-10 (its labelled training set).

Looked for in the data folder, in this order:
    <name>.npz          x_train, y_train, x_test, y_test in the official order (see npz.py): cifar10.npz, mnist.npz, ...
    the official files  where torchvision keeps them, unpacked or as they are downloaded
Where there is neither, torchvision downloads the official files. All ways give the same dataset, byte for byte: shapes
are checked always, and the content against a known hash where we have one; torchvision checks the others' MD5.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np

from allround.artifacts import Split
from allround.datasets import Source, npz
from allround.errors import AllroundError, unknown

OFFLINE = (URLError, TimeoutError, ConnectionError, HTTPException, RuntimeError)  # the last is torchvision's own
DAMAGED = (AssertionError, ValueError, EOFError)  # how torchvision stumbles over a truncated file
PATIENCE = 30  # seconds without an answer after which a download has failed; a firewall may never answer
DIGITS = tuple("0123456789")
IDX = tuple(
    f"{name}-ubyte.gz" for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
)

FINE = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""  # CIFAR-100's fine labels


@dataclass(frozen=True)
class Official:
    """One standard dataset.

    npz: the archive that may stand for the official files
    files: the official files as they are downloaded, relative to the data folder
    unpacked: where torchvision keeps what is in them
    site: where a person finds them
    train, test: shapes of the images
    sha256: hash of x_train, y_train, x_test and y_test as bytes, one after the other; None: not known to us
    """

    npz: str
    files: tuple[str, ...]
    unpacked: str
    site: str
    classes: tuple[str, ...]
    train: tuple[int, int, int, int]
    test: tuple[int, int, int, int]
    sha256: str | None = None


OFFICIAL = {
    "CIFAR10": Official(
        npz="cifar10.npz",
        files=("cifar-10-python.tar.gz",),
        unpacked="cifar-10-batches-py",
        site="https://www.cs.toronto.edu/~kriz/cifar.html",
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        train=(50000, 32, 32, 3),
        test=(10000, 32, 32, 3),
        sha256="80387ddb9a0edf3fc4a964ee3770296169bb26a651050df20035579673099660",
    ),
    "CIFAR100": Official(
        npz="cifar100.npz",
        files=("cifar-100-python.tar.gz",),
        unpacked="cifar-100-python",
        site="https://www.cs.toronto.edu/~kriz/cifar.html",
        classes=tuple(FINE.split()),
        train=(50000, 32, 32, 3),
        test=(10000, 32, 32, 3),
    ),
    "MNIST": Official(
        npz="mnist.npz",
        files=tuple(f"MNIST/raw/{name}" for name in IDX),
        unpacked="MNIST/raw",
        site="https://ossci-datasets.s3.amazonaws.com/mnist/",
        classes=DIGITS,
        train=(60000, 28, 28, 1),
        test=(10000, 28, 28, 1),
        sha256="06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16",
    ),
    "FashionMNIST": Official(
        npz="fashion_mnist.npz",
        files=tuple(f"FashionMNIST/raw/{name}" for name in IDX),
        unpacked="FashionMNIST/raw",
        site="https://github.com/zalandoresearch/fashion-mnist",
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        train=(60000, 28, 28, 1),
        test=(10000, 28, 28, 1),
        sha256="ca3ab2a37f845e1b8ae23cab1b51749a3011ba3bf1d9016176d75cbaabac376f",
    ),
    "SVHN": Official(
        npz="svhn.npz",
        files=("train_32x32.mat", "test_32x32.mat"),
        unpacked="train_32x32.mat",
        site="http://ufldl.stanford.edu/housenumbers/",
        classes=DIGITS,
        train=(73257, 32, 32, 3),
        test=(26032, 32, 32, 3),
    ),
    "STL10": Official(
        npz="stl10.npz",
        files=("stl10_binary.tar.gz",),
        unpacked="stl10_binary",
        site="https://cs.stanford.edu/~acoates/stl10/",
        classes=("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
        train=(5000, 96, 96, 3),
        test=(8000, 96, 96, 3),
    ),
}


def load(data: Path, *, name: str) -> Source:
    """Read a standard dataset from the data folder, downloading it if need be.

    name: CIFAR10, CIFAR100, MNIST, FashionMNIST, SVHN or STL10
    """
    official = _official(name)
    if (data / official.npz).is_file():
        source = npz.load(data, file=official.npz, classes=list(official.classes))
    else:
        train, test = _torchvision(data, name, official)
        source = Source(list(official.classes), train, test, where=f"{data / official.unpacked}")
    _check_official(source, name, official)
    return source


def missing(data: Path, *, name: str) -> str | None:
    """Without the files, a data folder that cannot be downloaded into; whether there is a network, only `load` sees."""
    official = _official(name)
    if _present(data, official):
        return None
    there = next(folder for folder in (data, *data.absolute().parents) if folder.is_dir())
    if os.access(there, os.W_OK):
        return None
    return f"{there}: no permission to download {name} into it; {_remedy(data, official)}."


def _official(name: str) -> Official:
    if name not in OFFICIAL:
        raise unknown("name of the source 'torchvision'", name, OFFICIAL)
    return OFFICIAL[name]


def _present(data: Path, official: Official) -> list[Path]:
    """What of a dataset lies in the data folder."""
    paths = [data / name for name in (official.npz, *official.files, official.unpacked)]
    return [path for path in paths if path.is_file() or (path.is_dir() and any(path.iterdir()))]


def _torchvision(data: Path, name: str, official: Official) -> tuple[Split, Split]:
    """The official files through torchvision, which verifies, downloads and unpacks them."""
    from torchvision import datasets  # 4 s to import

    halves = [
        {"split": half} if name in ("SVHN", "STL10") else {"train": half == "train"} for half in ("train", "test")
    ]
    there = _present(data, official)
    try:
        with _alone(data), _patience():
            train, test = (getattr(datasets, name)(data, **half, download=True) for half in halves)
            return _split(train, name), _split(test, name)
    except (*OFFLINE, *DAMAGED) as error:
        state = f"{there[0]}: damaged or incomplete" if there else f"{data}: {name} is not there"
        reason = " ".join(str(error).split()) or type(error).__name__
        remedy = ("delete it and " if there else "") + _remedy(data, official)
        raise AllroundError(f"{state}, and could not be downloaded ({reason}); {remedy}.") from None


def _split(dataset: Any, name: str) -> Split:
    """torchvision's own arrangements of the axes, as (n, height, width, channels)."""
    images = np.asarray(dataset.data)
    labels = np.asarray(dataset.labels if name in ("SVHN", "STL10") else dataset.targets).astype(np.int64)
    if images.ndim == 3:  # MNIST: (n, h, w)
        images = images[..., None]
    elif name in ("SVHN", "STL10"):  # (n, c, h, w)
        images = images.transpose(0, 2, 3, 1)
    return Split(images, labels, np.arange(len(labels)))


def _check_official(source: Source, name: str, official: Official) -> None:
    """A name means one thing: the whole official dataset, in the official order."""
    remedy = f"delete it and get {name}'s official files, or give other images a name of their own with 'source: npz'"
    for half, split in (("train", source.train), ("test", source.test)):
        wanted = getattr(official, half)
        if tuple(split.images.shape) != wanted or len(split.labels) != wanted[0]:
            raise AllroundError(
                f"{source.where}: {half} has images of shape {tuple(split.images.shape)}, not {wanted}; {remedy}."
            )
    if official.sha256 and _sha256(source) != official.sha256:
        raise AllroundError(
            f"{source.where}: damaged, or not {name}'s official images and labels in their official order; {remedy}."
        )


def _sha256(source: Source) -> str:
    sha = hashlib.sha256()
    for split in (source.train, source.test):
        for start in range(0, len(split.labels), 4096):
            sha.update(np.ascontiguousarray(split.images[start : start + 4096]))
        sha.update(split.labels.astype(np.uint8))
    return sha.hexdigest()


def _remedy(data: Path, official: Official) -> str:
    files = " and ".join(str(data / file) for file in official.files)
    return (
        f"put {data / official.npz} (arrays {', '.join(npz.KEYS)}, official order) there, or {files} "
        f"from {official.site}, and run the same command again"
    )


@contextmanager
def _alone(data: Path) -> Iterator[None]:
    """One download at a time: two datasets may be made from the same files, side by side."""
    data.mkdir(parents=True, exist_ok=True)
    folder = os.open(data, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


@contextmanager
def _patience() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
