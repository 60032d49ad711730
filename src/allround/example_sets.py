"""Sets of examples that a strategy's entry names: what to look for, what to stay away from, what to validate on.

    validation: labelled                        the round's labelled set (the default of `validation`)
    query: {classes: [truck, 3]}                its examples of some classes, by name or by number
    private: {file: sets/indoor.csv}            examples listed in a file: a column `index` (of the training split) and,
                                                optionally, a column `label`

A relative path counts from the folder that Snakemake, or Python, runs in. What a file says is part of the query's
identity, by a digest of it.
"""

from __future__ import annotations

import csv
import hashlib
import io
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
    if isinstance(spec, str) and spec == "labelled":
        return spec
    keys = set(spec) if isinstance(spec, Mapping) else set()
    if keys == {"classes"}:
        value = spec["classes"]
        if not isinstance(value, (list, tuple)) or not value or any(type(one) not in (int, str) for one in value):
            raise AllroundError(f"{where}: classes must be a list of class names or numbers, not {value!r}.")
        return {"classes": list(value)}
    if keys not in ({"file"}, {"file", "sha256"}):  # with a digest: checked before
        raise AllroundError(f"{where} must be {FORMS}, not {spec!r}.")
    digest, *_ = _read(spec["file"], where)
    if spec.get("sha256", digest) != digest:
        raise AllroundError(f"{where}: {spec['file']} has changed since the run was planned; start the run again.")
    return {"file": str(spec["file"]), "sha256": digest}


def check_fits(spec: Any, where: str, *, size: int, classes: Sequence[str] | None) -> None:
    """Raise AllroundError where a checked set names classes or examples that a dataset does not have."""
    if "classes" in spec:
        for one in spec["classes"]:
            _number(one, classes, where)
    elif "file" in spec:
        _, index, label = _read(spec["file"], where)
        if index.max() >= size:
            raise AllroundError(
                f"{where}: {spec['file']} lists index {index.max()}; allowed: 0 to {size - 1}, the training examples."
            )
        if label is not None and classes is not None and label.max() >= len(classes):
            raise AllroundError(
                f"{where}: {spec['file']} has label {label.max()}; allowed: 0 to {len(classes) - 1}, the classes."
            )


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
    Raises AllroundError for a class or an index that does not exist, or an empty set.
    """
    check_fits(spec, where, size=size, classes=classes)
    if "file" in spec:
        _, index, label = _read(spec["file"], where)
        return index, truth[index] if label is None and truth is not None else label
    if not len(labelled):
        raise AllroundError(f"{where}: is taken from the labelled set, which is empty here; label a seed set first.")
    if labels is None:
        raise AllroundError(f"{where}: is taken from the labelled set, whose labels are not known; give labels=.")
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


def _read(file: str | Path, where: str) -> tuple[str, np.ndarray, np.ndarray | None]:
    """The digest of a file, the indices and the labels (None without a column of them) that it lists."""
    try:
        raw = Path(file).read_bytes()
    except (OSError, TypeError) as error:
        fault = getattr(error, "strerror", None) or error
        raise AllroundError(f"{where}: cannot read file {file!r} ({fault}); give a csv with a column index.") from None
    try:
        table = csv.DictReader(io.StringIO(raw.decode("utf-8-sig"), newline=""), skipinitialspace=True)
        rows, columns = list(table), table.fieldnames or []
        if "index" not in columns:
            raise ValueError(f"its first line is {','.join(columns)!r}")
        index = np.array([int(row["index"]) for row in rows], dtype=np.int64)
        label = np.array([int(row["label"]) for row in rows], dtype=np.int64) if "label" in columns else None
    except (csv.Error, UnicodeDecodeError, OverflowError, TypeError, ValueError) as error:
        raise AllroundError(f"{where}: {file} is not a csv with a column index of whole numbers ({error}).") from None
    if not len(index) or index.min() < 0 or len(np.unique(index)) != len(index):
        raise AllroundError(f"{where}: {file} must list distinct indices from 0 on, at least one.")
    if label is not None and label.min() < 0:
        raise AllroundError(f"{where}: {file} has label {label.min()}; labels are numbers of classes, from 0 on.")
    return hashlib.sha256(raw).hexdigest(), index, label
