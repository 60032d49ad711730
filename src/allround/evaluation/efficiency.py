"""Labelling efficiency: how many times fewer labels than random sampling a strategy needs.

    LE(a) = labels random needs to reach accuracy a / labels the strategy needs

for a from the initial accuracy to random's best (Beck et al. 2021, arXiv 2106.15324). Here per seed, so that both arms
share their seed set and first model. Decisions where the definition is silent:

- A curve is the straight lines between its rounds. It *needs* the number of labels at which it first reaches a; that it
  may fall below a again later does not count. (The same as making the interpolated curve monotone by its running
  maximum. The running maximum of the rounds alone would differ: it cuts a corner after every dip.)
- An accuracy that the strategy never reaches needs more labels than it was given: LE(a) < labels of random / last
  labels of the strategy, an upper bound, flagged "upper". An accuracy that it passed before its first measured round
  gives a lower bound, "lower"; that cannot happen between arms that share round 0.
- Ratios are averaged as logarithms (2 and 1/2 make 1), over the accuracies at which every seed is defined. A mean with
  an upper bound in it is an upper bound, and its interval has no lower end.
- Intervals are percentile bootstraps over seeds, from a fixed stream. With one seed there is none; with n <= 3 it is no
  more than the range of the seeds, because resampling cannot leave it.
- The peak is a maximum over a noisy curve: it starts at 1, since both arms start at the same point, and a second run of
  random sampling would score above 1 too. LE at random's best accuracy has no such bias upwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from allround.evaluation.statistics import ARM, BASELINE, LEVEL, groups

RESAMPLES = 4000
POINTS = 81  # accuracies of an aggregated curve


@dataclass(frozen=True)
class Curve:
    """One arm's curve in one seed: labels (r,) increasing, accuracy (r,), both finite."""

    labels: np.ndarray
    accuracy: np.ndarray

    @classmethod
    def of(cls, rows: pd.DataFrame) -> Curve:
        """From the rows of one arm and seed; rounds without an accuracy are left out."""
        rows = rows[rows["accuracy"].notna()].sort_values("n_labels")
        return cls(rows["n_labels"].to_numpy(float), rows["accuracy"].to_numpy(float))


def labels_to_reach(curve: Curve, accuracy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels at which the interpolated curve first reaches each accuracy.

    Returns (labels, bound), both the shape of `accuracy`. bound 0: exact. +1: never reached, more than these (the last)
    labels. -1: already above at the first round, at most these (the first) labels.
    """
    accuracy = np.atleast_1d(np.asarray(accuracy, float))
    record = np.maximum.accumulate(curve.accuracy)  # (r,) sorted, so the first round at or above a is a search
    at = np.searchsorted(record, accuracy, side="left")  # (a,)
    bound = np.where(at == len(record), 1, np.where((at == 0) & (accuracy < record[0]), -1, 0))
    inside = np.clip(at, 1, len(record) - 1) if len(record) > 1 else np.zeros_like(at)
    before, after = np.maximum(inside - 1, 0), inside
    low, high = curve.accuracy[before], curve.accuracy[after]  # low < a <= high where the crossing lies inside
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.clip((accuracy - low) / (high - low), 0, 1)
    crossing = curve.labels[before] + share * (curve.labels[after] - curve.labels[before])
    labels = np.where(at == 0, curve.labels[0], np.where(bound == 1, curve.labels[-1], crossing))
    return labels, bound


def ratio(random: Curve, strategy: Curve, accuracy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(LE, bound) at accuracies that random reaches. bound +1: LE is an upper bound; -1: a lower one; 0: exact."""
    of_random, _ = labels_to_reach(random, accuracy)
    of_strategy, bound = labels_to_reach(strategy, accuracy)
    return of_random / of_strategy, bound


@dataclass(frozen=True)
class Peak:
    """The largest LE of one seed and the accuracy at which it is reached; exact, or at least that much."""

    efficiency: float
    accuracy: float
    exact: bool


def peak(random: Curve, strategy: Curve) -> Peak:
    """Supremum of LE over the accuracies from random's first to random's best.

    Between the accuracies of rounds LE is a ratio of two straight lines, hence monotone; it can jump just above a round
    that a dip follows. So rounds and their right-hand limits are all that has to be looked at.
    """
    first, best = random.accuracy[0], random.accuracy.max()
    knots = np.concatenate([random.accuracy, strategy.accuracy])
    knots = np.unique(np.concatenate([knots, np.nextafter(knots, np.inf)]))
    knots = knots[(knots >= first) & (knots <= best)]
    value, bound = ratio(random, strategy, knots)
    sure = value[bound <= 0]  # exact, or reached even earlier
    if not len(sure):
        return Peak(np.nan, np.nan, False)
    top = int(np.argmax(np.where(bound <= 0, value, -np.inf)))
    doubtful = (bound[top] == -1) or (value[bound == 1] > sure.max()).any()
    return Peak(float(value[top]), float(knots[top]), not doubtful)


def bootstrap(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval of the mean over the first axis: values (seeds, ...) -> low (...), high (...).

    Every call draws the same resamples, so that tables and figures are the same each time.
    """
    values = np.asarray(values, float)
    n = len(values)
    if n < 2:
        return np.full(values.shape[1:], np.nan), np.full(values.shape[1:], np.nan)
    share = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n  # (resamples, seeds)
    means = np.tensordot(share, values, axes=1)  # (resamples, ...)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return low, high


def pairs(rows: pd.DataFrame) -> dict[str, dict[int, tuple[Curve, Curve]]]:
    """strategy -> seed -> (random's curve, its curve), for one group; seeds that either side lacks are left out."""
    found = {
        (str(strategy), int(seed)): Curve.of(part) for (strategy, seed), part in rows.groupby(["strategy", "seed"])
    }
    found = {key: curve for key, curve in found.items() if len(curve.labels)}
    paired: dict[str, dict[int, tuple[Curve, Curve]]] = {}
    for (strategy, seed), curve in found.items():
        if strategy != BASELINE and (BASELINE, seed) in found:
            paired.setdefault(strategy, {})[seed] = (found[BASELINE, seed], curve)
    return paired


def efficiency(rounds: pd.DataFrame) -> pd.DataFrame:
    """Labelling efficiency over seeds: one row an arm and accuracy; empty (with its columns) without a random arm.

    Columns: group, strategy, accuracy, n (seeds), n_censored (seeds that never reach it), labels_random and
    labels_strategy (means; a censored seed counts with its last labels), efficiency (geometric mean), low, high, bound
    ("", "upper", "lower"). Accuracies run from the highest initial one of all seeds to the lowest of random's bests.
    """
    found = []
    for group, rows in groups(rounds):
        for strategy, by_seed in pairs(rows).items():
            first = max(random.accuracy[0] for random, _ in by_seed.values())
            best = min(random.accuracy.max() for random, _ in by_seed.values())
            if best < first:
                continue  # no accuracy at which all seeds are defined: the peaks of single seeds remain
            accuracy = np.unique(np.linspace(first, best, POINTS))
            of_random = np.stack([labels_to_reach(random, accuracy)[0] for random, _ in by_seed.values()])
            reached = [labels_to_reach(curve, accuracy) for _, curve in by_seed.values()]
            of_strategy, bound = (np.stack(part) for part in zip(*reached, strict=True))  # (seeds, a)
            logs = np.log(of_random / of_strategy)
            low, high = bootstrap(logs)
            upper, lower = (bound == 1).any(0), (bound == -1).any(0)
            part = {"accuracy": accuracy, "n": len(by_seed), "n_censored": (bound == 1).sum(0)}
            part |= {"labels_random": of_random.mean(0), "labels_strategy": of_strategy.mean(0)}
            part |= {"efficiency": np.exp(logs.mean(0))}
            part |= {"low": np.where(upper, np.nan, np.exp(low)), "high": np.where(lower, np.nan, np.exp(high))}
            part |= {
                "bound": np.where(upper & lower, "unknown", np.where(upper, "upper", np.where(lower, "lower", "")))
            }
            found.append(pd.DataFrame(group | {"strategy": strategy} | part))
    columns = [
        *ARM,
        "accuracy",
        "n",
        "n_censored",
        "labels_random",
        "labels_strategy",
        "efficiency",
        "low",
        "high",
        "bound",
    ]
    return pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)


def peaks(rounds: pd.DataFrame) -> pd.DataFrame:
    """One row an arm: its peak LE, and its LE at random's best accuracy, with intervals over seeds.

    Columns: group, strategy, n, peak, peak_low, peak_high, peak_at (mean accuracy of the seeds' peaks), peak_bound
    ("" or "lower"), at_best, at_best_low, at_best_high, at_best_bound ("" or "upper"), n_reached (seeds that reach
    random's best).
    """
    found = []
    for group, rows in groups(rounds):
        for strategy, by_seed in pairs(rows).items():
            tops = [peak(random, curve) for random, curve in by_seed.values()]
            ends = [ratio(random, curve, random.accuracy.max()) for random, curve in by_seed.values()]
            row = group | {"strategy": strategy, "n": len(by_seed)}
            row |= _mean("peak", np.array([top.efficiency for top in tops]))
            row |= {"peak_at": float(np.mean([top.accuracy for top in tops]))}
            row |= {"peak_bound": "" if all(top.exact for top in tops) else "lower"}
            row |= _mean("at_best", np.array([value[0] for value, _ in ends]))
            missed = sum(int(bound[0] == 1) for _, bound in ends)
            row |= {"at_best_bound": "upper" if missed else "", "n_reached": len(ends) - missed}
            if missed:
                row["at_best_low"] = np.nan
            found.append(row)
    columns = [*ARM, "n", "peak", "peak_low", "peak_high", "peak_at", "peak_bound"]
    columns += ["at_best", "at_best_low", "at_best_high", "at_best_bound", "n_reached"]
    return pd.DataFrame(found, columns=columns)


def _mean(name: str, values: np.ndarray) -> dict[str, float]:
    """Geometric mean over seeds and its interval, as columns."""
    logs = np.log(values)
    low, high = bootstrap(logs)
    return {name: float(np.exp(logs.mean())), f"{name}_low": float(np.exp(low)), f"{name}_high": float(np.exp(high))}
