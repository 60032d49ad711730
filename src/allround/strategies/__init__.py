"""Strategies: which examples to have labelled next. One file an algorithm; the folder is the registry.

    from allround.strategies import names, select
    select("badge", pool, budget=100, seed=0)       # (100,) int64 dataset indices, best first

A file defines `NEEDS`, a literal set of the views that it looks at, and `select(pool, budget, rng, *,
<hyperparameters>)`, whose keyword-only parameters with literal defaults are its entry's schema in
config/catalogue/strategies.yaml; a parameter annotated `Literal["a", "b"]` takes those values alone. Both are read
from the syntax tree: to plan a study, or to check its configuration, imports no strategy (and no torch).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from allround.errors import AllroundError, unknown

if TYPE_CHECKING:
    from allround.pool import Picks, Pool

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Description:
    """What a strategy's file says of itself."""

    needs: frozenset[str]  # views: files of allround/views
    hyperparameters: dict[str, Any]  # name -> default
    choices: dict[str, tuple]  # name -> allowed values, for parameters annotated Literal[...]


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
        (node.value for node in body if isinstance(node, ast.Assign) and _is_name(node.targets[0], "NEEDS")), None
    )
    try:
        if [parameter.arg for parameter in function.args.args] != ["pool", "budget", "rng"]:
            raise ValueError
        parameters = list(zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True))
        return Description(
            # an empty set has no literal
            needs=frozenset() if ast.unparse(needs) == "set()" else frozenset(ast.literal_eval(needs)),
            hyperparameters={parameter.arg: ast.literal_eval(default) for parameter, default in parameters},
            choices={
                parameter.arg: tuple(map(ast.literal_eval, getattr(kind.slice, "elts", [kind.slice])))
                for parameter, _ in parameters
                if isinstance(kind := parameter.annotation, ast.Subscript) and _is_name(kind.value, "Literal")
            },
        )
    except (AttributeError, TypeError, ValueError):
        raise AllroundError(
            f"{path}: not a strategy; needed: NEEDS = {{'outputs'}} (a literal set) and select(pool, budget, rng, *, "
            "<hyperparameters with literal defaults>)."
        ) from None


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def settings(name: str, hyperparameters: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """A strategy's entry, checked and completed with defaults: {"hyperparameters": {...}, "needs": [views]}.

    Raises AllroundError that begins with `where`, for a strategy, a hyperparameter or a value that does not exist.
    """
    if name not in names():
        raise unknown("strategy", name, names(), where)
    description = describe(name)
    place = f"{where + ': ' if where else ''}strategy '{name}'"
    completed = dict(description.hyperparameters)
    for key, value in hyperparameters.items():
        if key not in completed:
            if not completed:
                raise AllroundError(f"{place} takes no hyperparameters; remove '{key}'.")
            raise unknown("hyperparameter", key, completed, place)
        default, choices = description.hyperparameters[key], description.choices.get(key)
        completed[key] = _value(f"{place} hyperparameter '{key}'", value, default, choices)
    return {"hyperparameters": completed, "needs": sorted(description.needs)}


def _value(where: str, value: Any, default: Any, choices: tuple | None) -> Any:
    """A hyperparameter's value in the type of its default, checked."""
    if choices is not None:
        if value not in choices:
            raise unknown("value", value, choices, where)
        return value
    kind = type(default)
    if default is None or (type(value) is kind and value == value and value not in (np.inf, -np.inf)):
        return value
    if kind is float and type(value) is int:  # 1 and 1.0 are one setting, with one identity
        return float(value)
    raise AllroundError(f"{where} must be of type {kind.__name__} (as its default, {default!r}), not {value!r}.")


def select(name: str, pool: Pool, *, budget: int, seed: int = 0, **hyperparameters: Any) -> np.ndarray:
    """The `budget` unlabelled examples that a strategy wants labelled, best first: (budget,) int64 dataset indices.

    pool: Pool.from_arrays(...) or Pool.open(...)
    seed: of the draws, for a strategy that draws

    Raises AllroundError, in one line and before any work, for an unknown strategy or hyperparameter, a value of the
    wrong type, a view that the pool lacks, or a budget that it cannot meet; and as soon as it reads a value that is
    not finite.
    """
    return run(name, pool, budget, np.random.default_rng(seed), **hyperparameters).index


def run(name: str, pool: Pool, budget: int, rng: np.random.Generator, **hyperparameters: Any) -> Picks:
    """As select, with a generator of one's own, and with the scores: score is (budget,) float64 or None."""
    chosen = settings(name, hyperparameters)
    _check_budget(budget, len(pool.unlabelled))
    if missing := sorted(set(chosen["needs"]) - pool.views):
        has = ", ".join(sorted(pool.views)) or "none"
        raise AllroundError(f"strategy '{name}' needs view '{missing[0]}', which the pool lacks; it has: {has}.")
    picks = import_module(f"allround.strategies.{name}").select(pool, budget, rng, **chosen["hyperparameters"])
    return _checked(name, picks, pool, budget)


def _check_budget(budget: int, left: int) -> None:
    if isinstance(budget, bool) or not isinstance(budget, (int, np.integer)) or budget < 1:
        raise AllroundError(f"budget must be a whole number of 1 or more, not {budget!r}.")
    if budget > left:
        raise AllroundError(
            f"budget {budget} is larger than the pool: {left} unlabelled examples are left; lower budget or rounds."
        )


def _checked(name: str, picks: Any, pool: Pool, budget: int) -> Picks:
    """A strategy's answer as numpy arrays, held to the contract."""
    from allround.pool import Picks

    index, score = picks if isinstance(picks, Picks) else (picks, None)
    index, score = _array(index, np.int64), None if score is None else _array(score, np.float64)
    if score is not None and not np.isfinite(score).all():
        raise AllroundError(f"strategy '{name}' computed a score that is not finite; check its settings.")
    fresh = np.isin(index, pool.unlabelled)
    if index.shape != (budget,) or len(np.unique(index)) != budget or not fresh.all():
        fault = f"{len(np.unique(index[fresh]))} distinct unlabelled examples where {budget} were asked for"
        raise AllroundError(f"strategy '{name}' returned {fault}; that is a fault in its file.")
    return Picks(index, score)


def _array(values: Any, dtype: type) -> np.ndarray:
    if hasattr(values, "detach"):  # a tensor, without importing torch to know it
        values = values.detach().cpu().numpy()
    return np.asarray(values).astype(dtype, copy=False)
