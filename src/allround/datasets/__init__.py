"""Sources of images: a file in this folder that defines `load` is a source, and its name is its name in the catalogue.

    load(data, *, <options>) -> Source          read the images; slow imports inside
    missing(data, *, <options>) -> str | None   what has to be put where before `load` can work, in one line; cheap

`data` is the site's data folder. The keyword-only parameters of `load`, with their annotations (str, int, float, bool,
list) and literal defaults, ARE the schema of the source's options; one without a default is required. They are read
from the syntax tree: the planner knows every source without importing what the source needs.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from allround.artifacts import Split
from allround.errors import AllroundError, unknown

FOLDER = Path(__file__).parent
REQUIRED = ...  # stands for the default of an option that has none
KINDS = {"str": str, "int": int, "float": (int, float), "bool": bool, "list": list}


@dataclass(frozen=True)
class Source:
    """What a source delivers. Split.images may be lazy: anything with `.shape` whose slices are uint8 arrays.

    classes: the name of every label
    train, test: images (n, height, width, 1 or 3) uint8, labels (n,) and origin (n,), files (n,) where there are some
    where: the file or folder that errors name
    """

    classes: list[str]
    train: Split
    test: Split
    where: str


def names() -> list[str]:
    """The sources there are."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if _loader(path) is not None)


def module(source: str) -> str:
    """The dotted name of a source's module: the stage finds it by name, so its job's identity has to name it."""
    return f"{__name__}.{source}"


def settings(entry: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """A catalogue entry {"source", "options", "variant"} with the options completed; without a variant that key is
    left out. Any mistake is an AllroundError."""
    for key in entry:
        if key not in ("source", "options", "variant"):
            raise unknown("key", key, ("source", "options", "variant"), where)
    if "source" not in entry:
        raise AllroundError(f"{where}: key 'source' is missing; allowed: {', '.join(names())}.")
    options = entry.get("options") or {}
    if not isinstance(options, Mapping):
        raise AllroundError(f"{where}: 'options' must hold keys and values, not {options!r}.")
    found = {"source": entry["source"], "options": complete(entry["source"], options, where)}
    if "variant" in entry:
        found["variant"] = import_module(f"{__name__}.variants").checked(entry["variant"], where)
    return found


def describe(source: str) -> dict[str, Any]:
    """Option -> default (REQUIRED where it has none), from the syntax tree of the source's file."""
    return {name: default for name, (_, default) in _options(source).items()}


def complete(source: str, options: Mapping[str, Any] | None = None, where: str = "") -> dict[str, Any]:
    """`options` with the defaults filled in; an unknown, missing or mistyped option is an AllroundError.

    where: what errors open with, e.g. "config/catalogue/datasets.yaml: cifar10"
    """
    schema, options = _options(source, where), dict(options or {})
    head = f"{where}: " if where else ""
    for name, value in options.items():
        if name not in schema:
            if not schema:
                raise AllroundError(f"{head}unknown option '{name}'. The source '{source}' has no options.")
            raise unknown(f"option of the source '{source}'", name, schema, where)
        kind = schema[name][0]
        if not isinstance(value, KINDS[kind]) or (isinstance(value, bool) and kind != "bool"):
            raise AllroundError(
                f"{head}option '{name}' of the source '{source}' must be of type {kind}, not {value!r}."
            )
        if kind == "list" and not all(isinstance(item, str) for item in value):
            raise AllroundError(
                f"{head}option '{name}' of the source '{source}' must list texts, not {value!r}; put them in quotes."
            )
    for name, (_, default) in schema.items():
        if options.setdefault(name, default) is REQUIRED:
            raise AllroundError(f"{head}the source '{source}' needs the option '{name}'.")
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def missing(source: str, data: Path, options: Mapping[str, Any] | None = None, where: str = "") -> str | None:
    """What has to be put where before `load` can work, in one line, or None; also checks the options. Cheap."""
    options = complete(source, options, where)
    return import_module(module(source)).missing(Path(data), **options)


def load(source: str, data: Path, options: Mapping[str, Any] | None = None, where: str = "") -> Source:
    """Read a dataset from its source, and check it."""
    options = complete(source, options, where)
    if fault := missing(source, data, options, where):
        raise AllroundError(fault)
    found = import_module(module(source)).load(Path(data), **options)
    check(found)
    return found


def check(source: Source) -> None:
    """Everything that the stages after this one rely on; each fault is one line that names the file and the remedy."""
    where, classes = source.where, source.classes
    if twice := sorted({name for name in classes if classes.count(name) > 1}):
        raise AllroundError(f"{where}: the class name '{twice[0]}' occurs twice; rename one of the two.")
    for name, split in (("train", source.train), ("test", source.test)):
        _check_split(f"{where}: {name}", split, classes)
    if len(classes) < 2:
        raise AllroundError(f"{where}: has one class alone ({', '.join(classes)}); add images of another.")
    if source.train.images.shape[1:] != source.test.images.shape[1:]:
        raise AllroundError(
            f"{where}: training images are {_size(source.train)} and test images {_size(source.test)}; "
            "bring them to one size (height x width x channels)."
        )
    empty = [classes[c] for c in np.flatnonzero(np.bincount(source.train.labels, minlength=len(classes)) == 0)]
    if empty:
        more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        raise AllroundError(
            f"{where}: train has no image of class {', '.join(map(repr, empty[:3]))}{more} (labels are 0 to "
            f"{len(classes) - 1}, without gaps); add images of it, or leave it out and number the others anew."
        )


def raw_bytes(source: Source) -> int:
    """The size of all images as uint8."""
    return sum(int(np.prod(split.images.shape, dtype=np.int64)) for split in (source.train, source.test))


def ranks(keys: Sequence[str], seed: int) -> np.ndarray:
    """(n,) texts whose order is random, and the same for the same keys and seed everywhere."""
    texts = (f"{seed}/{key}".encode(errors="surrogateescape") for key in keys)  # a file's name may be no UTF-8
    return np.array([hashlib.sha256(text).hexdigest() for text in texts])


def stratified(labels: np.ndarray, keys: Sequence[str], fraction: float, seed: int) -> np.ndarray:
    """Which examples form the test set: about `fraction` of every class, by a hash of each example's key.

    The split depends on nothing but keys and seed, so it is the same with every version of numpy, and an image added
    to a folder hardly moves the others. A class keeps one training image at least, and gives one to the test set if
    it has two. Returns (n,) bool.
    """
    rank = ranks(keys, seed)
    test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        test[members[np.argsort(rank[members], kind="stable")[:count]]] = True
    return test


def _check_split(where: str, split: Split, classes: list[str]) -> None:
    shape, labels = tuple(split.images.shape), np.asarray(split.labels)
    if len(shape) != 4 or shape[3] not in (1, 3):
        raise AllroundError(f"{where} images have shape {shape}; allowed: [n, height, width, 1 (grey) or 3 (colour)].")
    if labels.shape != (shape[0],):
        raise AllroundError(
            f"{where} has {shape[0]} images and {' x '.join(map(str, labels.shape))} labels; give each image one label."
        )
    if not labels.size or not all(shape):
        raise AllroundError(f"{where} holds no images (shape {shape}); add some.")
    if labels.dtype.kind not in "iu":
        raise AllroundError(f"{where} labels are {labels.dtype}; needed: integers, 0 to {len(classes) - 1}.")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise AllroundError(
            f"{where} labels run from {labels.min()} to {labels.max()}; allowed: 0 to {len(classes) - 1}, one for each "
            f"of the {len(classes)} classes; number them so, or mend the list of classes."
        )


def _size(split: Split) -> str:
    return " x ".join(map(str, split.images.shape[1:]))


@cache
def _loader(path: Path) -> ast.FunctionDef | None:
    """The definition of `load` in a source's file; None where it is no source."""
    if path.stem == "__init__":
        return None
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return next((node for node in body if isinstance(node, ast.FunctionDef) and node.name == "load"), None)


def _options(source: str, where: str = "") -> dict[str, tuple[str, Any]]:
    """Option -> (type, default) of a source."""
    if source not in names():
        raise unknown("source", source, names(), where)
    arguments = _loader(FOLDER / f"{source}.py").args
    defaults = (REQUIRED if node is None else ast.literal_eval(node) for node in arguments.kw_defaults)
    kinds = ((argument.arg, ast.unparse(argument.annotation)) for argument in arguments.kwonlyargs)
    return {name: (kind, default) for (name, kind), default in zip(kinds, defaults, strict=True)}
