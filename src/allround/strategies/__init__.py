"""Strategies: which examples to have labelled next. One file an algorithm; the folder is the registry.

    from allround.strategies import names, select
    select("badge", pool, budget=100, seed=0)       # (100,) int64 dataset indices, best first

What a file has to define is in allround.strategies._settings, and docs/strategies.md shows how to write one.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from allround import example_sets, views
from allround.errors import AllroundError
from allround.strategies._settings import describe, names, options, settings

if TYPE_CHECKING:
    from allround.pool import Picks, Pool

__all__ = ["check_partitions", "describe", "names", "options", "run", "select", "settings"]


def select(name: str, pool: Pool, *, budget: int, seed: int = 0, **hyperparameters: Any) -> np.ndarray:
    """The `budget` unlabelled examples that a strategy wants labelled, best first: (budget,) int64 dataset indices.

    pool: Pool.from_arrays(...) or Pool.open(...)
    seed: of the draws, for a strategy that draws
    hyperparameters: the strategy's own, and the options of every strategy that needs them: `partitions`, `posterior`,
        `samples`, `validation`, `query`, `private`

    Raises AllroundError, in one line and before any work, for an unknown strategy or hyperparameter, a value of the
    wrong type, something it needs that the pool lacks, or a budget that it cannot meet; and as soon as it reads a
    value that is not finite.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise AllroundError(f"seed must be a whole number of 0 or more, not {seed!r}.")
    return run(name, pool, budget, np.random.default_rng(seed), **hyperparameters).index


def run(name: str, pool: Pool, budget: int, rng: np.random.Generator, **hyperparameters: Any) -> Picks:
    """As select, with a generator of one's own, and with the scores: score is (budget,) float64 or None."""
    if not hasattr(pool, "prepared"):
        raise AllroundError(f"pool must be Pool.from_arrays(...) or Pool.open(...), not of type {type(pool).__name__}.")
    chosen = settings(name, hyperparameters, sets=pool.sets)
    own = chosen["hyperparameters"]
    _check_needs(name, pool, chosen["needs"])
    partitions, posterior, _ = own.pop("partitions", 1), own.pop("posterior", "point"), own.pop("samples", None)
    sets = {key: own.pop(key) for key in example_sets.NAMES if key in own}
    pool = pool.prepared(posterior=posterior, sets=sets, where=f"strategy '{name}'")
    _check_budget(budget, len(pool.unlabelled))
    check_partitions(partitions, budget)
    strategy = import_module(f"allround.strategies.{name}").select
    if partitions == 1:
        return _checked(name, strategy(pool, budget, rng, **own), pool, budget)

    def part(one: tuple) -> Picks:
        rows, share, generator = one
        some = pool.part(rows)
        return _checked(name, strategy(some, share, generator, **own), some, share)

    return _interleaved(_side_by_side(part, _split(len(pool), budget, partitions, rng), pool))


def _split(n: int, budget: int, partitions: int, rng: np.random.Generator) -> list[tuple]:
    """(rows, share of the budget, generator) of every random part; parts, and shares, differ by 1 at most."""
    parts = np.array_split(rng.permutation(n), partitions)
    shares = [budget // partitions + (place < budget % partitions) for place in range(partitions)]
    generators = rng.spawn(partitions)
    return [(np.sort(rows), share, own) for rows, share, own in zip(parts, shares, generators, strict=True) if share]


def _side_by_side(work: Any, parts: list[tuple], pool: Pool) -> list[Picks]:
    """The picks of all parts: on the CPU a thread each, as many at once as torch has threads."""
    if not pool.views or pool.device != "cpu":  # a GPU is kept busy by one part, and captures one graph at a time
        return [work(part) for part in parts]
    import torch

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as executor:
            return list(executor.map(work, parts))
    finally:
        torch.set_num_threads(threads)


def _interleaved(parts: list[Picks]) -> Picks:
    """The picks of all parts, first all best ones, then all second ones, ..."""
    from allround.pool import Picks

    order = np.argsort(np.concatenate([np.arange(len(picks.index)) for picks in parts]), kind="stable")
    scored = all(picks.score is not None for picks in parts)
    score = np.concatenate([picks.score for picks in parts])[order] if scored else None
    return Picks(np.concatenate([picks.index for picks in parts])[order], score)


def _check_needs(name: str, pool: Pool, needs: list[str]) -> None:
    for need in needs:
        if need not in example_sets.NAMES and views.base(need) not in pool.has:
            has = ", ".join(sorted(pool.has)) or "none"
            raise AllroundError(f"strategy '{name}' needs '{views.base(need)}', which the pool lacks; it has: {has}.")
        if views.samples(need) > 1 and pool.fields["mc_logits"].row[0] < 2:
            raise AllroundError(f"strategy '{name}' needs 2 draws or more, and mc_logits (t, N, c) hold one.")


def check_partitions(partitions: int, budget: int, where: str = "") -> None:
    """More parts than picks would leave some of the pool unseen."""
    if partitions > budget:
        raise AllroundError(f"{where}partitions {partitions} is more than the budget {budget}; allowed: 1 to {budget}.")


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
