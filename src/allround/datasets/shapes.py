"""How many images of what shape a dataset will have, known before it is converted and without reading an image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py

from allround import artifacts, datasets, layout
from allround.datasets import folder, torchvision, variants

if TYPE_CHECKING:
    from allround.study import Study

Images = tuple[int, int, int, int]  # n, height, width, channels


@dataclass(frozen=True)
class Shapes:
    """train, test: (n, height, width, channels); classes: their names."""

    train: Images
    test: Images
    classes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Size of dataset.h5: uint8 images, two int64 and a sum an example, a header."""
        return sum(prod(split) + 3 * 8 * split[0] for split in (self.train, self.test)) + 2**12


@cache
def of(study: Study, name: str, data: Path) -> Shapes | None:
    """The shapes of one of a study's datasets: `converted`, else `expected`, of a variant the most that it can be."""
    made, entry = layout.dataset_path("results", name), study.datasets[name]
    there = converted(made)
    if made.exists() and (there is None or made_of(made, entry)):
        return there
    found = expected(entry["source"], data, entry["options"])
    if found and "variant" in entry:
        size = variants.most(entry["variant"], found.train[0], found.classes, f"dataset '{name}'")
        return replace(found, train=(size, *found.train[1:]))
    return found


def made_of(path: Path, entry: Mapping[str, Any]) -> bool:
    """Whether a dataset.h5 was made of this entry of the catalogue."""
    try:
        return json.loads(artifacts.identity_of(path) or "{}").get("settings") == entry
    except (ValueError, AttributeError):
        return False


def converted(path: Path) -> Shapes | None:
    """The shapes in a dataset.h5; None where it is missing or damaged."""
    try:
        with h5py.File(path) as file:
            train, test = (tuple(file[split]["images"].shape) for split in ("train", "test"))
            return Shapes(train, test, tuple(json.loads(file.attrs["classes"])))
    except (OSError, KeyError, ValueError):
        return None


def expected(source: str, data: Path, options: Mapping[str, Any]) -> Shapes | None:
    """The shapes of a dataset that is not converted yet; None where the disk refuses to tell.

    AllroundError: the source's files are not as they have to be
    """
    try:
        if source == "digits":
            return Shapes((1297, 8, 8, 1), (500, 8, 8, 1), tuple("0123456789"))
        if source == "torchvision":
            official = torchvision.OFFICIAL[options["name"]]
            return Shapes(official.train, official.test, tuple(official.classes))
        if source == "folder" and not options["size"]:  # all images have one size: the first one tells
            found = datasets.load(source, data, {**options, "size": 1})
            first = folder.decode(found.train.images.files[0], 0, options["mode"])
            return _shapes(found, (*first.shape[:2], found.train.images.shape[3]))
        found = datasets.load(source, data, options)
        return _shapes(found, found.train.images.shape[1:])
    except OSError:
        return None


def _shapes(source: datasets.Source, image: tuple[int, int, int]) -> Shapes:
    sizes = (split.images.shape[0] for split in (source.train, source.test))
    return Shapes(*((count, *image) for count in sizes), tuple(source.classes))
