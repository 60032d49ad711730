"""Variants of a dataset's pool: fewer examples a class, rare classes, redundancy. The test set stays as it is.

    per_class: 2000               so many training examples of every class
    per_class: {cat: 50}          so many of some classes, all of the others
    unique: 5500, copies: 10      so many examples as they are; of the others a tenth of every class, each ten times
    seed: 0                       another choice of examples

After "Effective Evaluation of Deep Active Learning on Image Classification Tasks" (arXiv 2106.15324). Examples are
chosen by a hash of their place and the seed: a smaller pool is a part of a larger one, and with every version of numpy
it is the same. The order stays that of the source, copies follow each other, and share their `origin`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from allround.datasets import Source, ranks
from allround.errors import AllroundError, unknown

LEAST = {"per_class": 1, "unique": 1, "copies": 2, "seed": 0}


def checked(variant: Any, where: str) -> dict[str, Any]:
    """A catalogue entry's `variant`, complete; any mistake is an AllroundError that begins with `where`."""
    if not isinstance(variant, Mapping) or not set(variant) - {"seed"}:
        raise AllroundError(f"{where}: 'variant' must hold keys and values, of {', '.join(LEAST)}, not {variant!r}.")
    for key in variant:
        if key not in LEAST:
            raise unknown("key of a variant", key, LEAST, where)
    if ("unique" in variant) != ("copies" in variant):
        raise AllroundError(f"{where}: 'unique' and 'copies' of a variant belong together; give both or none.")
    for key, value in variant.items():
        each = key == "per_class" and isinstance(value, Mapping)
        numbers = list(value.values()) if each else [value]
        if not numbers or any(type(number) is not int or number < LEAST[key] for number in numbers):
            more = ", or names of classes with such numbers" if key == "per_class" else ""
            raise AllroundError(
                f"{where}: '{key}' of a variant is {value!r}; allowed: whole numbers from {LEAST[key]}{more}."
            )
    found = {"seed": 0, **variant}
    if isinstance(found.get("per_class"), Mapping):
        found["per_class"] = {str(name): number for name, number in found["per_class"].items()}
    return found


def most(variant: Mapping[str, Any], size: int, classes: int) -> int:
    """The most training examples that a variant of a dataset of this size can have."""
    counts = variant.get("per_class")
    return min(size, counts * classes) if isinstance(counts, int) else size


def apply(source: Source, variant: Mapping[str, Any]) -> Source:
    """The source with another training split. AllroundError: it has no such class, or too few examples."""
    split = source.train
    chosen = choose(split.labels, source.classes, variant, source.where)
    files = None if split.files is None else split.files[chosen]
    images = Chosen(split.images, chosen)
    return replace(source, train=type(split)(images, split.labels[chosen], split.origin[chosen], files))


def choose(labels: np.ndarray, classes: Sequence[str], variant: Mapping[str, Any], where: str) -> np.ndarray:
    """Positions (m,) of a variant's examples among labels (n,), in ascending order, copies repeated."""
    rank = ranks([str(place) for place in range(len(labels))], variant["seed"])
    counts = variant.get("per_class", {})
    if not isinstance(counts, Mapping):
        counts = dict.fromkeys(classes, counts)
    kept = np.ones(len(labels), dtype=bool)
    for name, count in counts.items():
        if name not in classes:
            raise unknown("class of 'per_class'", name, classes, where)
        members = _of_class(labels, list(classes).index(name), rank)
        if count > len(members):
            raise AllroundError(
                f"{where}: variant 'per_class' asks for {count} examples of class '{name}', which has {len(members)}."
            )
        kept[members[count:]] = False
    if "unique" not in variant:
        return np.flatnonzero(kept)
    unique, copies = variant["unique"], variant["copies"]
    places = np.flatnonzero(kept)
    if unique >= len(places):
        raise AllroundError(
            f"{where}: variant 'unique' is {unique}; allowed: less than the {len(places)} training examples."
        )
    order = places[np.argsort(rank[places], kind="stable")]
    times = np.zeros(len(labels), dtype=np.int64)
    times[order[:unique]] = 1
    rest = order[unique:]
    for label in range(len(classes)):
        members = rest[labels[rest] == label]
        times[members[: len(members) // copies]] = copies
    return np.repeat(np.arange(len(labels)), times)


def _of_class(labels: np.ndarray, label: int, rank: np.ndarray) -> np.ndarray:
    """The places of a class, by their rank."""
    members = np.flatnonzero(labels == label)
    return members[np.argsort(rank[members], kind="stable")]


class Chosen:
    """Some of a source's images, (m, height, width, channels): `images[start:stop]` reads those alone, in one pass."""

    def __init__(self, images: Any, index: np.ndarray):
        self.images, self.index = images, index  # in ascending order
        self.shape = (len(index), *images.shape[1:])

    def __getitem__(self, rows: slice) -> np.ndarray:
        index = self.index[rows]
        block = np.empty((len(index), *self.shape[1:]), dtype=np.uint8)
        gaps = np.flatnonzero(np.diff(index) > 1) + 1
        for start, stop in zip([0, *gaps], [*gaps, len(index)], strict=True) if len(index) else ():
            run = index[start:stop]
            block[start:stop] = self.images[int(run[0]) : int(run[-1]) + 1][run - run[0]]
        return block
