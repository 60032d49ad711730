"""Variants of a dataset's pool: fewer examples a class, rare classes, redundancy. The test set stays as it is.

    per_class: 2000               so many training examples of every class
    per_class: {cat: 50}          so many of some classes, all of the others
    unique: 5500, copies: 10      so many examples as they are; of the others a tenth of every class, each ten times
    seed: 0                       another choice of examples

After "Effective Evaluation of Deep Active Learning on Image Classification Tasks" (arXiv 2106.15324). Examples are
chosen by a hash of the seed and their file's name, or their place where there are no files: the same with every version
of numpy, and a smaller `per_class` is a part of a larger one. The order stays that of the source, copies follow each
other, and share their `origin`.
"""

from __future__ import annotations

import os
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
    if isinstance(counts := found.get("per_class"), Mapping):
        found["per_class"] = {str(name): number for name, number in counts.items()}
        if len(found["per_class"]) < len(counts):
            raise AllroundError(f"{where}: 'per_class' of a variant names a class twice: {dict(counts)!r}.")
    return found


def most(variant: Mapping[str, Any], size: int, classes: Sequence[str], where: str) -> int:
    """The most training examples that a variant of a dataset of this size can have. AllroundError: no such class."""
    counts = _counts(variant, classes, where)
    return min(size, sum(counts.values())) if len(counts) == len(classes) else size


def _counts(variant: Mapping[str, Any], classes: Sequence[str], where: str) -> Mapping[str, int]:
    """Examples of the classes that the variant limits."""
    counts = variant.get("per_class", {})
    if not isinstance(counts, Mapping):
        return dict.fromkeys(classes, counts)
    for name in counts:
        if name not in classes:
            raise unknown("class of 'per_class'", name, classes, where)
    return counts


def apply(source: Source, variant: Mapping[str, Any]) -> Source:
    """The source with another training split. AllroundError: it has no such class, or too few examples."""
    split = source.train
    keys = [str(place) for place in range(len(split.labels))] if split.files is None else map(os.fsdecode, split.files)
    chosen = choose(split.labels, source.classes, variant, list(keys), source.where)
    files = None if split.files is None else split.files[chosen]
    images = Chosen(split.images, chosen)
    return replace(source, train=type(split)(images, split.labels[chosen], split.origin[chosen], files))


def choose(
    labels: np.ndarray, classes: Sequence[str], variant: Mapping[str, Any], keys: Sequence[str], where: str
) -> np.ndarray:
    """Positions (m,) of a variant's examples among labels (n,), in ascending order, copies repeated.

    keys: n texts that tell the examples apart
    """
    rank, kept = ranks(keys, variant["seed"]), np.ones(len(labels), dtype=bool)
    for name, count in _counts(variant, classes, where).items():
        members = np.flatnonzero(labels == list(classes).index(name))
        if count > len(members):
            raise AllroundError(
                f"{where}: variant 'per_class' asks for {count} examples of class '{name}', which has {len(members)}."
            )
        kept[members[np.argsort(rank[members], kind="stable")][count:]] = False
    places = np.flatnonzero(kept)
    if "unique" not in variant:
        return places
    unique, copies = variant["unique"], variant["copies"]
    if unique >= len(places):
        raise AllroundError(
            f"{where}: variant 'unique' is {unique}; allowed: fewer than the {len(places)} training examples."
        )
    rank = ranks([f"unique/{key}" for key in keys], variant["seed"])  # another order: the first says who is still here
    order = places[np.argsort(rank[places], kind="stable")]
    times = np.zeros(len(labels), dtype=np.int64)
    times[order[:unique]] = 1
    for label in range(len(classes)):
        members = order[unique:][labels[order[unique:]] == label]
        times[members[: len(members) // copies]] = copies
    return np.repeat(np.arange(len(labels)), times)


class Chosen:
    """Some of a source's images, (m, height, width, channels): `images[start:stop]` reads those alone, in one pass."""

    def __init__(self, images: Any, index: np.ndarray):
        self.images, self.index = images, index  # in ascending order
        self.shape = (len(index), *images.shape[1:])
        self.last: tuple[int, Any] = (-1, 0)  # of which the next block may begin with copies; archives read forwards

    def __getitem__(self, rows: slice) -> np.ndarray:
        index = self.index[rows]
        block = np.empty((len(index), *self.shape[1:]), dtype=np.uint8)
        known = index == self.last[0]
        block[known] = self.last[1]
        places = np.flatnonzero(~known)
        for run in np.split(places, np.flatnonzero(np.diff(index[places]) > 1) + 1) if len(places) else ():
            first, last = index[run[[0, -1]]].tolist()
            block[run] = self.images[first : last + 1][index[run] - first]
        if len(places):
            self.last = (int(index[places[-1]]), block[places[-1]].copy())
        return block
