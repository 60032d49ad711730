"""What a strategy's file says of itself, and a configuration's entry held against it. No strategy is imported.

A file defines `NEEDS` and `select(pool, budget, rng, *, <hyperparameters>)`, both read from the syntax tree.

NEEDS is a literal set of what the strategy looks at, or a dict need -> None or {hyperparameter: [values]}, for a need
that holds only with those values:

    outputs      features and logits of one forward pass
    predictions  class probabilities; the entry chooses `posterior` (point, mc_dropout, ensemble) and `samples`
    samples      logits of several draws of the posterior; `posterior` (mc_dropout, ensemble) and `samples`
    model        the trained model            images      the images, as the model sees them
    validation, query, private                sets of examples that the entry names (see allround.example_sets)

Keyword-only parameters with literal defaults are the schema of the entry. An annotation narrows: `Literal["a", "b"]` to
these values, `Annotated[int, ">= 1"]` or `Annotated[float | None, "> 0 and <= 1"]` to a range. Every strategy takes
`partitions` besides: that many random parts of the pool are selected from side by side, and the budget is split.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from allround import example_sets, views
from allround.errors import AllroundError, unknown

FOLDER = Path(__file__).parent
NEEDS = ("outputs", "predictions", "samples", "model", "images", *example_sets.NAMES)
COMPARISONS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
KINDS = {"int": int, "float": float, "bool": bool, "str": str, "None": type(None)}


@dataclass(frozen=True)
class Parameter:
    """A setting of an entry: its default, and what is allowed beside it."""

    default: Any
    choices: tuple = ()  # the values there are, if they are listed
    kinds: tuple[type, ...] = ()  # the types there are, if they are not that of the default
    bounds: str = ""  # such as "> 0 and <= 1", for numbers


@dataclass(frozen=True)
class Description:
    """What a strategy's file says of itself."""

    needs: dict[str, dict | None]  # need -> the values of hyperparameters that it holds for, None: always
    parameters: dict[str, Parameter] = field(default_factory=dict)  # hyperparameters by name


PARTITIONS = Parameter(1, bounds=">= 1")
SAMPLES = Parameter(10, bounds=">= 2 and <= 1000")


def names() -> list[str]:
    """The strategies there are, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


@cache
def describe(name: str) -> Description:
    """NEEDS and hyperparameters of a strategy, read from its file without importing it."""
    if name not in names():
        raise unknown("strategy", name, names())
    path = FOLDER / f"{name}.py"
    try:
        body = ast.parse(path.read_text(encoding="utf-8")).body
    except SyntaxError as error:
        raise AllroundError(f"{path} line {error.lineno}: not valid Python ({error.msg}).") from None
    function = next((node for node in body if isinstance(node, ast.FunctionDef) and node.name == "select"), None)
    needs = next(
        (node.value for node in body if isinstance(node, ast.Assign) and _named(node.targets[0], "NEEDS")), None
    )
    try:
        if [parameter.arg for parameter in function.args.args] != ["pool", "budget", "rng"]:
            raise ValueError
        found = [] if ast.unparse(needs) == "set()" else ast.literal_eval(needs)  # an empty set has no literal
        if isinstance(found, str):
            raise ValueError
        parameters = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
        described = Description(
            needs=dict(found) if isinstance(found, dict) else dict.fromkeys(sorted(found)),
            parameters={
                argument.arg: _parameter(f"{path} hyperparameter '{argument.arg}'", argument.annotation, default)
                for argument, default in parameters
            },
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise AllroundError(
            f"{path}: not a strategy; needed: NEEDS = {{'outputs'}} (a literal set) and select(pool, budget, rng, *, "
            "<hyperparameters with literal defaults>)."
        ) from None
    if taken := sorted(set(described.parameters) & {"partitions", "posterior", "samples", *example_sets.NAMES}):
        raise AllroundError(f"{path}: '{taken[0]}' is an option of every entry that needs it; rename the parameter.")
    if strange := sorted(set(described.needs) - set(NEEDS)):
        raise unknown("need", strange[0], NEEDS, f"{path} NEEDS")
    for need, when in described.needs.items():
        _check_condition(f"{path} NEEDS '{need}'", when, described.parameters)
    return described


def _check_condition(where: str, when: Any, parameters: Mapping[str, Parameter]) -> None:
    """That a need holds always, or for values that hyperparameters can have."""
    if when is not None and (not isinstance(when, dict) or not all(isinstance(v, list) for v in when.values())):
        raise AllroundError(f"{where} must be None or {{hyperparameter: [values]}}, not {when!r}.")
    for key, values in (when or {}).items():
        if key not in parameters:
            raise unknown("hyperparameter", key, parameters, where)
        for value in values:
            _value(f"{where} hyperparameter '{key}'", value, parameters[key])


def _named(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _parameter(where: str, annotation: ast.expr | None, default: ast.expr) -> Parameter:
    """A keyword-only parameter from its annotation and default; ValueError and the like for what is no literal."""
    value, choices, bounds = ast.literal_eval(default), (), ""
    if isinstance(annotation, ast.Subscript) and _named(annotation.value, "Literal"):
        choices = tuple(map(ast.literal_eval, getattr(annotation.slice, "elts", [annotation.slice])))
        annotation = None
    elif isinstance(annotation, ast.Subscript) and _named(annotation.value, "Annotated"):
        annotation, bounds = annotation.slice.elts[0], ast.literal_eval(annotation.slice.elts[1])
    kinds = tuple(KINDS[part.strip()] for part in ast.unparse(annotation).split("|")) if annotation else ()
    if bounds and not _readable(bounds, kinds):
        raise AllroundError(f"{where}: range {bounds!r} cannot be read; write '> 0 and <= 1', for an int or a float.")
    parameter = Parameter(value, choices, kinds, bounds)
    _value(f"{where}: its default", value, parameter)
    return parameter


def _readable(bounds: Any, kinds: tuple[type, ...]) -> bool:
    try:
        _within(0, bounds)
    except (AttributeError, KeyError, ValueError):
        return False
    return set(kinds) <= {int, float, type(None)}


def settings(name: str, entry: Mapping[str, Any], where: str = "", sets: Collection[str] = ()) -> dict[str, Any]:
    """A strategy's entry, checked and completed with defaults.

    entry: hyperparameters, and the options that the door adds (partitions, posterior, samples, validation, ...)
    sets: the sets of examples that the pool holds already, which the entry need not name
    Returns {"hyperparameters": all that count, "needs": what has to be there, views by their file's name}.
    Raises AllroundError that begins with `where`, for a strategy, a hyperparameter or a value that does not exist.
    """
    if name not in names():
        raise unknown("strategy", name, names(), where)
    described = describe(name)
    place = f"{where + ': ' if where else ''}strategy '{name}'"
    completed = {
        key: _value(f"{place} hyperparameter '{key}'", entry.get(key, parameter.default), parameter)
        for key, parameter in described.parameters.items()
    }
    needs = [need for need, when in described.needs.items() if not when or _holds(when, completed)]
    added = options(needs)
    for key in entry:
        if key not in completed and key not in added:
            raise unknown("hyperparameter", key, [*completed, *added], place)
    for key, parameter in added.items():
        spot = f"{place} hyperparameter '{key}'"
        value = entry.get(key, parameter.default)
        if key not in example_sets.NAMES:
            completed[key] = _value(spot, value, parameter)
        elif key in entry or key not in sets:
            completed[key] = example_sets.checked(value, spot)
    if completed.get("posterior") == "point":
        del completed["samples"]  # one setting has one form
    if completed["partitions"] == 1:
        del completed["partitions"]
    return {"hyperparameters": completed, "needs": sorted({_resolved(need, completed) for need in needs})}


def options(needs: Collection[str]) -> dict[str, Parameter]:
    """The settings that the door adds to a strategy's own, for what it needs."""
    added = {}
    if {"predictions", "samples"} & set(needs):
        posteriors = ("point", "mc_dropout", "ensemble") if "samples" not in needs else ("mc_dropout", "ensemble")
        added |= {"posterior": Parameter(posteriors[0], choices=posteriors), "samples": SAMPLES}
    added |= {key: Parameter(example_sets.DEFAULTS.get(key)) for key in example_sets.NAMES if key in needs}
    return added | {"partitions": PARTITIONS}


def _holds(when: Mapping[str, list], values: Mapping[str, Any]) -> bool:
    return all(values[key] in allowed for key, allowed in when.items())


def _resolved(need: str, values: Mapping[str, Any]) -> str:
    """A need as a view's file where it is one: 'predictions' by mc_dropout is the view 'mc_dropout10'."""
    if need not in ("predictions", "samples"):
        return need
    return "outputs" if values["posterior"] == "point" else views.with_samples(values["posterior"], values["samples"])


def _value(where: str, value: Any, parameter: Parameter) -> Any:
    """A setting's value in the type of its default, checked."""
    if isinstance(value, np.generic):
        value = value.item()
    if parameter.choices:
        if not any(type(value) is type(choice) and value == choice for choice in parameter.choices):
            raise unknown("value", value, parameter.choices, where)
        return value
    kinds = parameter.kinds or (type(parameter.default),)
    if type(value) is int and float in kinds and int not in kinds:
        value = float(value)  # 1 and 1.0 are one setting, with one identity
    if type(value) not in kinds or value != value or value in (np.inf, -np.inf):
        allowed = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise AllroundError(f"{where} must be of type {allowed} (default: {parameter.default!r}), not {value!r}.")
    if value is not None and parameter.bounds and not _within(value, parameter.bounds):
        raise AllroundError(f"{where} must be {parameter.bounds}, not {value!r}.")
    return value


def _within(value: float, bounds: str) -> bool:
    """Whether a number meets all of 'comparison number and comparison number'."""
    parts = [part.split() for part in bounds.split(" and ")]
    met = [COMPARISONS[sign](value, float(limit)) for sign, limit in parts]  # all of them: one may not be readable
    return all(met)
