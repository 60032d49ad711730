"""Statistics of a study: curves over seeds, their area and end, and paired differences against random.

Everything starts from the tidy table of rounds: one row a dataset, learner, start, budget, strategy, seed and round.
Arms that share a seed share its seed set and first model, so strategies are compared seed by seed: the difference of
two arms varies less between seeds than either arm does. Intervals are 95 %, Student's t over seeds; with one seed
there is no interval and no test (NaN), never one of zero width. Tests of several strategies against random are
adjusted by Holm's method (Holm 1979, Scand. J. Stat.) within a group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from allround.errors import AllroundError

BASELINE = "random"
GROUP = ["dataset", "learner", "start", "budget"]  # curves within a group are comparable
ARM = [*GROUP, "strategy"]
REQUIRED = [*ARM, "seed", "round", "n_labels", "accuracy"]
AT_THE_END = ["nll", "ece", "balanced_accuracy", "worst_class_accuracy"]
MEASURED = [*AT_THE_END, "seconds_train", "seconds_embed", "seconds_query", "seconds_label"]
MEASURED += ["query_memory_mb", "query_gpu_memory_mb"]
LEVEL = 0.95


def read_rounds(path: Path) -> pd.DataFrame:
    """The table of rounds, checked; sorted by arm, seed and round. AllroundError names the file and its fault."""
    text = dict.fromkeys(["dataset", "learner", "start", "strategy", "device", "host", "precision"], str)
    try:
        # a name such as "NA" or "007" is a name, so only numeric columns know missing values
        rounds = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=_NUMERIC_NA)
    except FileNotFoundError:
        raise AllroundError(f"{path}: no such table of rounds; make it with allround.stages.collect") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise AllroundError(f"{path}: not a table of rounds ({error}); delete it and run collect again") from None
    return check_rounds(rounds, path)


_NUMERIC_NA = {name: ["", "nan", "NaN"] for name in [*REQUIRED[5:], *MEASURED, "budget", "epochs"]} | {
    name: [""] for name in ["peak_memory_mb", "peak_gpu_memory_mb"]
}


def check_rounds(rounds: pd.DataFrame, where: object = "rounds") -> pd.DataFrame:
    """The table with every column that the evaluation reads, sorted; missing measurements become NaN columns."""
    missing = [name for name in REQUIRED if name not in rounds.columns]
    if missing:
        raise AllroundError(f"{where}: column {', '.join(missing)} is missing; delete the file and run collect again")
    if rounds.empty:
        raise AllroundError(f"{where}: holds no rounds; is the study's grid empty?")
    rounds = rounds.copy()
    for name in ["budget", "seed", "round", "n_labels", "accuracy", *MEASURED]:
        try:
            rounds[name] = pd.to_numeric(rounds[name]) if name in rounds.columns else np.nan
        except (ValueError, TypeError) as error:
            raise AllroundError(f"{where}: column {name} is not a number ({error})") from None
    for name in ["budget", "seed", "round", "n_labels"]:
        if rounds[name].isna().any():
            raise AllroundError(f"{where}: column {name} has empty fields; delete the file and run collect again")
    key = [*ARM, "seed", "round"]
    twice = rounds[rounds.duplicated(key)]
    if len(twice):
        cell = ", ".join(f"{name} {twice.iloc[0][name]}" for name in key)
        raise AllroundError(f"{where}: the same round twice ({cell}); delete the file and run collect again")
    outside = rounds[(rounds["accuracy"] < 0) | (rounds["accuracy"] > 1)]
    if len(outside):
        raise AllroundError(f"{where}: accuracy {outside['accuracy'].iloc[0]} is not within 0 and 1")
    return rounds.sort_values(key, kind="stable").reset_index(drop=True)


def groups(rounds: pd.DataFrame) -> Iterator[tuple[dict, pd.DataFrame]]:
    """(group as a dict, its rows) in the table's order."""
    for key, rows in rounds.groupby(GROUP, sort=False):
        yield dict(zip(GROUP, key, strict=True)), rows


def matrix(rows: pd.DataFrame, value: str = "accuracy") -> dict[str, pd.DataFrame]:
    """strategy -> (rounds, seeds) table of `value`, for the rows of one group."""
    return {
        str(name): part.pivot(index="round", columns="seed", values=value) for name, part in rows.groupby("strategy")
    }


def interval(values: np.ndarray) -> tuple[float, float]:
    """Student's t interval of the mean; NaN with fewer than two values."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return np.nan, np.nan
    half = stdtrit(len(values) - 1, (1 + LEVEL) / 2) * values.std(ddof=1) / np.sqrt(len(values))
    return values.mean() - half, values.mean() + half


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences: n pairs, its interval, and the p-value of the paired t-test (two-sided)."""

    n: int
    mean: float
    low: float
    high: float
    p: float


def paired(values: pd.Series, baseline: pd.Series) -> Difference:
    """values - baseline, paired on the index (seeds); seeds that one side lacks are left out.

    p is NaN with fewer than two pairs, and where all differences are equal: then there is no spread to test against.
    """
    difference = (values - baseline).dropna().to_numpy(float)
    n = len(difference)
    if not n:
        return Difference(0, np.nan, np.nan, np.nan, np.nan)
    low, high = interval(difference)
    spread = difference.std(ddof=1) if n > 1 else 0.0
    if spread <= 1e-12:  # rounding of equal differences, far below one test example
        return Difference(n, difference.mean(), low, high, np.nan)
    p = 2 * stdtr(n - 1, -abs(difference.mean()) / (spread / np.sqrt(n)))
    return Difference(n, difference.mean(), low, high, float(p))


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values; NaN stays NaN and does not count as a comparison."""
    p = np.asarray(p, float)
    adjusted = np.full(len(p), np.nan)
    order = [i for i in np.argsort(p, kind="stable") if np.isfinite(p[i])]
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p[i]))
        adjusted[i] = running
    return adjusted


def area(n_labels: np.ndarray, accuracy: np.ndarray) -> float:
    """Area under a learning curve divided by its width: the mean accuracy over the labels, by trapezoids.

    NaN points are skipped, but not at either end: half a curve is not comparable with a whole one.
    """
    n_labels, accuracy = np.asarray(n_labels, float), np.asarray(accuracy, float)
    if not len(accuracy) or not np.isfinite(accuracy[[0, -1]]).all():
        return np.nan
    if len(accuracy) == 1:
        return float(accuracy[0])
    known = np.isfinite(accuracy)
    return float(np.trapezoid(accuracy[known], n_labels[known]) / (n_labels[-1] - n_labels[0]))


def curves(rounds: pd.DataFrame) -> pd.DataFrame:
    """Learning curves over seeds: one row an arm and round.

    Columns: group, strategy, round, n_labels, n (seeds), mean, std, low, high, and the paired difference to random at
    the same round: gain, gain_low, gain_high, gain_n (NaN and 0 without a random arm). Accuracies are fractions.
    """
    found = []
    for group, rows in groups(rounds):
        tables = matrix(rows)
        labels = rows.groupby(["strategy", "round"])["n_labels"].max()
        random = tables.get(BASELINE)
        for strategy, table in tables.items():
            for number, values in table.iterrows():
                low, high = interval(values)
                no_pair = pd.Series(dtype=float)
                against = random.loc[number] if random is not None and number in random.index else no_pair
                gain = paired(values, against)
                known = values.dropna()
                row = {"strategy": strategy, "round": number, "n_labels": labels[strategy, number], "n": len(known)}
                row |= {"mean": known.mean(), "std": known.std(ddof=1), "low": low, "high": high}
                row |= {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high, "gain_n": gain.n}
                found.append(group | row)
    return pd.DataFrame(found)


def per_seed(rounds: pd.DataFrame) -> pd.DataFrame:
    """One row an arm and seed: final (accuracy after the group's last round), area, the others AT_THE_END, rounds.

    A curve that stops before the group's last round, or that ends in NaN, has final and area NaN.
    """
    found = []
    for group, rows in groups(rounds):
        last = rows["round"].max()
        for (strategy, seed), part in rows.groupby(["strategy", "seed"]):
            end = part.iloc[-1]
            whole = end["round"] == last and part["round"].iloc[0] == rows["round"].min()
            row = {"strategy": strategy, "seed": seed, "rounds": len(part), "n_labels": end["n_labels"]}
            row["final"] = end["accuracy"] if whole else np.nan
            row |= {name: end[name] if whole else np.nan for name in AT_THE_END}
            row["area"] = area(part["n_labels"], part["accuracy"]) if whole else np.nan
            found.append(group | row)
    return pd.DataFrame(found)


def summary(rounds: pd.DataFrame) -> pd.DataFrame:
    """One row an arm: what it reached at the end and over the whole curve, and its paired differences to random.

    Columns: group, strategy, n (seeds with a whole curve), n_labels, final, final_std, final_low, final_high,
    final_gain, final_gain_low, final_gain_high, final_gain_n, final_p, final_p_holm, the same for area, AT_THE_END, and
    seconds_<stage>, the mean over seeds of the whole curve's seconds (round 0 included, though strategies share it);
    of one query the mean query_seconds, and the most query_memory_mb and query_gpu_memory_mb.
    """
    seeds = per_seed(rounds)
    found = []
    for group, rows in groups(seeds):
        by_strategy = {str(name): part.set_index("seed") for name, part in rows.groupby("strategy")}
        random = by_strategy.get(BASELINE)
        block = []
        for strategy, part in by_strategy.items():
            row = group | {
                "strategy": strategy,
                "n": int(part["final"].notna().sum()),
                "n_labels": part["n_labels"].max(),
            }
            for measure in ["final", "area"]:
                low, high = interval(part[measure])
                row |= {measure: part[measure].mean(), f"{measure}_std": part[measure].std(ddof=1)}
                row |= {f"{measure}_low": low, f"{measure}_high": high}
                no_pair = pd.Series(dtype=float)
                against = no_pair if random is None or strategy == BASELINE else random[measure]
                gain = paired(part[measure], against)
                row |= {
                    f"{measure}_gain": gain.mean,
                    f"{measure}_gain_low": gain.low,
                    f"{measure}_gain_high": gain.high,
                }
                row |= {f"{measure}_gain_n": gain.n, f"{measure}_p": gain.p}
            block.append(row | {name: part[name].mean() for name in AT_THE_END})
        for measure in ["final", "area"]:
            for row, p in zip(block, holm([row[f"{measure}_p"] for row in block]), strict=True):
                row[f"{measure}_p_holm"] = p
        found += block
    table = pd.DataFrame(found)
    return table.merge(seconds(rounds), on=ARM, how="left").merge(one_query(rounds), on=ARM, how="left")


def seconds(rounds: pd.DataFrame) -> pd.DataFrame:
    """Seconds of a whole curve per stage, the mean over seeds; NaN where no cost was recorded."""
    columns = [f"seconds_{stage}" for stage in ("train", "embed", "query", "label")]
    total = rounds.groupby([*ARM, "seed"], sort=False)[columns].sum(min_count=1)
    return total.groupby(ARM, sort=False).mean().reset_index()


def one_query(rounds: pd.DataFrame) -> pd.DataFrame:
    """What one query costs: its mean seconds and its largest peak of memory; NaN where no cost was recorded."""
    arms = rounds.groupby(ARM, sort=False)
    found = {"query_seconds": arms["seconds_query"].mean()}
    found |= {name: arms[name].max() for name in ("query_memory_mb", "query_gpu_memory_mb")}
    return pd.DataFrame(found).reset_index()


def seconds_spent(rounds: pd.DataFrame) -> float:
    """Seconds that the study's jobs took together: what round 0 shares between strategies counts once.

    Strategies may read different views of round 0; the dearest set of one strategy stands for all of them.
    """
    first = rounds["round"] == rounds["round"].min()
    common = ["seconds_train", "seconds_embed", "seconds_label"]
    # the first training, embedding and seed set have no strategy and no budget in their path
    shared = rounds[first].groupby(["dataset", "learner", "start", "seed"])[common].max()
    parts = [shared, rounds.loc[~first, common], rounds["seconds_query"]]  # every strategy asks for itself
    return float(sum(np.nansum(part.to_numpy(float)) for part in parts))
