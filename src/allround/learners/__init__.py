"""Learners: what a catalogue entry means, and the architectures that it may name.

`settings` completes and checks an entry, so that a mistake is found before the first job; it imports torch for nothing
but the names of torchvision and timm. The training itself lives in `learners.training`, the networks in
`learners.architectures`, one file each.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from allround.errors import AllroundError, unknown
from allround.learners import own_weights

FOLDER = Path(__file__).parent / "architectures"
LIBRARIES = {"torchvision": "torchvision_model", "timm": "timm_model"}  # prefix of a name -> the file that serves it
PRETRAINED = ("pretrained", "weights", "weights_backbone")  # arguments of theirs that would fetch weights

DEFAULTS: dict[str, Any] = {
    "arguments": {},
    "initialisation": "scratch",
    "optimiser": {"name": "sgd"},
    "schedule": {"name": "cosine"},
    "epochs": 100,
    "min_steps": 0,
    "stop": None,
    "batch_size": 128,
    "augmentation": None,
    "label_smoothing": 0.0,
    "precision": "auto",
}
OPTIMISERS: dict[str, dict] = {
    "sgd": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0, "norm_bias_lr": 1.0},
    "adam": {"lr": 0.001, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "norm_bias_lr": 1.0},
    "adamw": {"lr": 0.001, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01, "norm_bias_lr": 1.0},
}
SCHEDULES: dict[str, dict] = {
    "constant": {},
    "cosine": {"warmup": 0.0, "end": 0.0},
    "one_cycle": {"warmup": 0.25, "start": 0.2, "end": 0.0},
}
AUGMENTATION: dict[str, Any] = {"crop": 0, "flip": False, "padding": "zero", "cutout": 0}
STOP: dict[str, Any] = {"train_accuracy": 0.99}
INITIALISATION = ("scratch", "warm")  # or a file of weights
CHOICES = {
    "precision": ("auto", "float32", "bfloat16"),
    "padding": ("zero", "reflect"),
}
RANGES: dict[str, tuple[type, float, float]] = {  # key -> type, smallest, largest allowed value
    "epochs": (int, 1, 10**6),
    "min_steps": (int, 0, 10**9),
    "batch_size": (int, 1, 10**6),
    "label_smoothing": (float, 0, 0.999),
    "lr": (float, 1e-12, 1e4),
    "momentum": (float, 0, 0.99999),
    "weight_decay": (float, 0, 1e3),
    "norm_bias_lr": (float, 1e-6, 1e6),
    "eps": (float, 1e-16, 1),
    "warmup": (float, 0, 1),
    "start": (float, 0, 1),
    "end": (float, 0, 1),
    "crop": (int, 0, 1024),
    "cutout": (int, 0, 4096),
    "train_accuracy": (float, 0, 1),
}
ARGUMENT_RANGES: dict[str, tuple[type, float, float]] = {  # likewise, of architectures; others are like their default
    "width": (int, 1, 2**16),
    "wide": (int, 1, 2**16),
    "hidden": (int, 1, 2**16),
    "layers": (int, 1, 1000),
    "dropout": (float, 0, 0.999),
    "scale": (float, 1e-6, 1e6),
}


def settings(entry: dict, where: str) -> dict:
    """The settings of a learner: its catalogue entry, completed with defaults and checked.

    where: the file and entry, for errors
    AllroundError: a key, a name or a value that is not allowed, with the nearest match

    Imports torch for the architectures of torchvision and timm alone: their names take 2 to 4 s to look up.
    """
    known = {"architecture", *DEFAULTS}
    for key in entry:
        if key not in known:
            raise unknown("key", key, known, where)
    if "architecture" not in entry:
        raise AllroundError(f"{where}: needs the key 'architecture', one of: {', '.join(_allowed())}.")
    whole = deepcopy(DEFAULTS) | deepcopy(entry)
    whole["arguments"] = _arguments(whole["architecture"], whole["arguments"], where)
    whole["optimiser"] = _variant(whole["optimiser"], OPTIMISERS, "optimiser", where)
    whole["schedule"] = _variant(whole["schedule"], SCHEDULES, "schedule", where)
    whole["augmentation"] = _section(whole["augmentation"], AUGMENTATION, "augmentation", where)
    whole["stop"] = _section(whole["stop"], STOP, "stop", where)
    for key in ("precision", "epochs", "min_steps", "batch_size", "label_smoothing"):
        whole[key] = _checked(key, whole[key], where)
    whole["initialisation"] = _initialisation(whole["initialisation"], whole["arguments"], where)
    return whole


def checkpoint(settings: Mapping[str, Any]) -> str | None:
    """The file that a learner starts from in every round; None where it names none."""
    start = settings["initialisation"]
    return start["checkpoint"] if isinstance(start, Mapping) else None


def identity(settings: Mapping[str, Any]) -> dict:
    """The settings as they count in the identity of a training: a file by what it says, wherever it lies."""
    start = settings["initialisation"]
    if not isinstance(start, Mapping):
        return dict(settings)
    return {**settings, "initialisation": {key: start[key] for key in ("prefix", "sha256")}}


def names() -> list[str]:
    """The names of the files in learners/architectures that a learner may name."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", *LIBRARIES.values()))


def modules(settings: dict) -> list[str]:
    """The modules that a learner looks up by name at run time, for the code fingerprint."""
    given = [] if isinstance(settings["initialisation"], str) else [f"{__name__}.own_weights"]
    return [f"{__name__}.architectures.{file_of(settings['architecture'])}", *given]


def file_of(architecture: str) -> str:
    """The file in learners/architectures that builds an architecture."""
    return LIBRARIES.get(architecture.partition(":")[0], architecture)


def _initialisation(entry: object, arguments: Mapping[str, Any], where: str) -> str | dict:
    if not isinstance(entry, Mapping):
        if entry not in INITIALISATION:
            raise unknown("initialisation", entry, (*INITIALISATION, "{checkpoint: <file>}"), where)
        return entry
    fetched = [key for key in PRETRAINED if arguments.get(key)]
    if fetched:
        raise AllroundError(f"{where}: starts from its own checkpoint and from {fetched[0]}; leave one of them out.")
    return own_weights.checked(entry, where)


def _allowed() -> list[str]:
    return [*names(), *(f"{library}:<name>" for library in LIBRARIES)]


def _arguments(architecture: object, arguments: object, where: str) -> dict:
    """An architecture's arguments: the keyword-only parameters of its `build` are their schema."""
    if not isinstance(architecture, str) or (":" in architecture and architecture.partition(":")[0] not in LIBRARIES):
        raise unknown("architecture", architecture, _allowed(), where)
    if not isinstance(arguments, dict):
        raise AllroundError(f"{where}: key 'arguments' must hold keys and values, not {arguments!r}.")
    library, _, name = architecture.partition(":")
    if library in LIBRARIES:
        if not name:
            raise AllroundError(f"{where}: architecture '{architecture}' needs a name, as in {library}:resnet50.")
        fault = _fault(library, name)
        if fault:
            raise AllroundError(f"{where}: {fault}")
        return arguments  # the library checks them when it builds the model
    if architecture not in names():
        raise unknown("architecture", architecture, _allowed(), where)
    defaults = _keywords(architecture)
    whole = dict(defaults)
    for key, value in arguments.items():
        if key not in defaults:
            raise unknown(f"argument of {architecture}", key, defaults, where)
        kind, what = type(defaults[key]), f"{where}: argument '{key}' of {architecture}"
        if key in ARGUMENT_RANGES:
            value = _within(ARGUMENT_RANGES[key], value, what)
        elif type(value) is not kind and not (kind is float and type(value) is int):
            raise AllroundError(f"{what} is {value!r}; allowed: values like {defaults[key]!r}.")
        whole[key] = value
    return whole


@cache
def _fault(library: str, name: str) -> str:
    """What is wrong with a library's name of an architecture; empty if nothing is."""
    try:
        import_module(f"{__name__}.architectures.{LIBRARIES[library]}").check(name)
    except AllroundError as error:
        return str(error)
    return ""


@cache
def _keywords(architecture: str) -> dict[str, Any]:
    """Keyword-only parameters of an architecture's `build` with their literal defaults, read without importing it."""
    tree = ast.parse((FOLDER / f"{architecture}.py").read_text(encoding="utf-8"))
    build = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "build")
    return {
        argument.arg: ast.literal_eval(default)
        for argument, default in zip(build.args.kwonlyargs, build.args.kw_defaults, strict=True)
    }


def _variant(entry: object, variants: dict[str, dict], key: str, where: str) -> dict:
    """A section whose `name` decides which other keys it has."""
    if isinstance(entry, str):
        entry = {"name": entry}
    if not isinstance(entry, dict) or "name" not in entry:
        raise AllroundError(f"{where}: key '{key}' needs a name, one of: {', '.join(variants)}.")
    name = entry["name"]
    if not isinstance(name, str) or name not in variants:
        raise unknown(key, name, variants, where)
    rest = _section({k: v for k, v in entry.items() if k != "name"}, variants[name], f"{key} {name}", where)
    if name == "sgd" and rest["nesterov"] and not rest["momentum"]:
        raise AllroundError(f"{where}: nesterov needs a momentum above 0; set nesterov: false.")
    return {"name": name, **rest}


def _section(entry: object, defaults: dict, key: str, where: str) -> dict | None:
    """A section of fixed keys, completed with defaults; null stays null."""
    if entry is None:
        return None
    if not isinstance(entry, dict):
        raise AllroundError(f"{where}: key '{key}' must hold keys and values, not {entry!r}.")
    for name in entry:
        if name not in defaults:
            raise unknown(f"key of {key}", name, defaults, where)
    return {name: _checked(name, value, where) for name, value in (deepcopy(defaults) | entry).items()}


def _checked(key: str, value: object, where: str) -> Any:
    what = f"{where}: key '{key}'"
    if key in CHOICES:
        if value not in CHOICES[key]:
            raise unknown(key, value, CHOICES[key], where)
    elif key in RANGES:
        value = _within(RANGES[key], value, what)
    elif key == "betas":
        pair = isinstance(value, list) and len(value) == 2
        if not pair or not all(isinstance(beta, float) and 0 <= beta < 1 for beta in value):
            raise AllroundError(f"{what} is {value!r}; allowed: two numbers from 0 to below 1.")
    elif not isinstance(value, bool):
        raise AllroundError(f"{what} is {value!r}; allowed: true or false.")
    return value


def _within(allowed: tuple[type, float, float], value: Any, what: str) -> Any:
    """A number in its range. what: where it stands and its key, for the error"""
    kind, low, high = allowed
    if isinstance(value, str) and kind is float:
        value = _number(value)  # YAML 1.1 reads 5e-4 (no dot) as a string
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or not low <= value <= high:
        numbers = f"{'whole ' if kind is int else ''}numbers from {low:g} to {high:g}"
        raise AllroundError(f"{what} is {value!r}; allowed: {numbers}.")
    return kind(value)


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text
