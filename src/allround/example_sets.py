"""Sets of examples that a strategy's entry names: what to look for, what to stay away from, what to validate on.

    validation: labelled                        the round's labelled set (the default of `validation`)
    query: {classes: [truck, 3]}                its examples of some classes, by name or by number
    private: {file: sets/indoor.csv}            examples listed in a file: a column `index` (of the training split) and,
                                                optionally, a column `label`

What a file says is part of the query's identity, by a digest of it.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from allround.errors import AllroundError, unknown

NAMES = ("validation", "query", "private")
DEFAULTS = {"validation": "labelled"}
FORMS = "labelled, {classes: [<names or numbers>]} or {file: <csv with a column index>}"


def checked(spec: Any, where: str) -> Any:
    """A set as the configuration names it, complete: of a file, with the digest of what it says.

    Raises AllroundError that begins with `where`.
    """
    if spec is None:
        raise AllroundError(f"{where} has no default; name the set: {FORMS}.")
    if spec == "labelled":
        return spec
    if not isinstance(spec, Mapping) or len(spec) != 1 or next(iter(spec)) not in ("classes", "file"):
        if isinstance(spec, Mapping) and set(spec) == {"file", "sha256"}:
            return dict(spec)
        raise AllroundError(f"{where} must be {FORMS}, not {spec!r}.")
    ((kind, value),) = spec.items()
    if kind == "classes":
        if not isinstance(value, (list, tuple)) or not value or any(type(one) not in (int, str) for one in value):
            raise AllroundError(f"{where}: classes must be a list of class names or numbers, not {value!r}.")
        return {"classes": list(value)}
    try:
        return {"file": str(value), "sha256": hashlib.sha256(Path(value).read_bytes()).hexdigest()}
    except (OSError, TypeError) as error:
        fault = getattr(error, "strerror", None) or error
        raise AllroundError(f"{where}: cannot read file {value!r} ({fault}); give a csv with a column index.") from None


def resolve(
    spec: Any,
    where: str,
    *,
    size: int,
    labelled: np.ndarray,
    labels: np.ndarray | None,
    classes: Sequence[str] | None,
    truth: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """The (s,) dataset indices and (s,) labels, or None where they are not known, of a checked set.

    labelled, labels: the round's labelled set; classes: names of the classes; truth: (size,) labels of the dataset
    Raises AllroundError for a class that does not exist, a file that is not what it was, or an empty set.
    """
    if isinstance(spec, Mapping) and "file" in spec:
        index, label = _read(spec, where, size)
        return index, truth[index] if label is None and truth is not None else label
    if not len(labelled) or labels is None:
        raise AllroundError(f"{where}: is taken from the labelled set, which is empty here; label a seed set first.")
    if spec == "labelled":
        return labelled, labels
    wanted = np.isin(labels, [_number(one, classes, where) for one in spec["classes"]])
    if not wanted.any():
        raise AllroundError(
            f"{where}: no labelled example has a class of {spec['classes']}; label some, or use a file."
        )
    return labelled[wanted], labels[wanted]


def _number(one: int | str, classes: Sequence[str] | None, where: str) -> int:
    """The label of a class given by name or by number."""
    if isinstance(one, int):
        if classes is not None and not 0 <= one < len(classes):
            raise AllroundError(f"{where}: there is no class {one}; allowed: 0 to {len(classes) - 1}.")
        return one
    if one not in (classes or ()):
        raise unknown("class", one, classes or ["numbers, as the classes' names are not known here"], where)
    return list(classes).index(one)


def _read(spec: Mapping[str, str], where: str, size: int) -> tuple[np.ndarray, np.ndarray | None]:
    path = Path(spec["file"])
    try:
        raw = path.read_bytes()
        rows = list(csv.DictReader(raw.decode("utf-8").splitlines()))
        index = np.array([int(row["index"]) for row in rows], dtype=np.int64)
        label = np.array([int(row["label"]) for row in rows]) if rows and "label" in rows[0] else None
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise AllroundError(f"{where}: {path} is not a csv with a column index of whole numbers ({error}).") from None
    if hashlib.sha256(raw).hexdigest() != spec["sha256"]:
        raise AllroundError(f"{where}: {path} has changed since the run was planned; start the run again.")
    if not len(index) or index.min() < 0 or index.max() >= size or len(np.unique(index)) != len(index):
        raise AllroundError(f"{where}: {path} must list distinct indices of 0 to {size - 1}, at least one.")
    return index, label
