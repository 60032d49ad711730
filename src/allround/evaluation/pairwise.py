"""Every strategy against every other, seed by seed, and who beats whom over all settings of a study.

`statistics.summary` holds each strategy against random; this is for questions such as "is BADGE better than entropy?".
Tests of all pairs of a group are adjusted by Holm's method. Counting wins over settings follows the pairwise penalty
matrix of Ash et al. (2020, "Deep batch active learning by diverse, uncertain gradient lower bounds", ICLR).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

import pandas as pd

from allround.evaluation.statistics import GROUP, groups, holm, paired, per_seed

MEASURES = ("final", "area")


def pairwise(rounds: pd.DataFrame) -> pd.DataFrame:
    """One row a pair of strategies within a group; both orders are one pair.

    rounds: the table of statistics.read_rounds
    Columns: group, strategy, other, and of both measures (final: accuracy after the last round; area: mean accuracy
    over the curve) strategy minus other as fractions: <measure>_difference, <measure>_difference_low and _high (95 %
    interval), <measure>_n (seeds that both have), <measure>_p (paired t-test) and <measure>_p_holm.
    """
    found = []
    for group, rows in groups(per_seed(rounds)):
        tables = {measure: rows.pivot(index="seed", columns="strategy", values=measure) for measure in MEASURES}
        block = []
        for one, other in combinations(rows["strategy"].unique(), 2):
            row = group | {"strategy": one, "other": other}
            for measure, table in tables.items():
                gap = paired(table[one], table[other])
                row[f"{measure}_difference"] = gap.mean
                row |= {f"{measure}_difference_low": gap.low, f"{measure}_difference_high": gap.high}
                row |= {f"{measure}_n": gap.n, f"{measure}_p": gap.p}
            block.append(row)
        for measure in MEASURES:
            for row, p in zip(block, holm([row[f"{measure}_p"] for row in block]), strict=True):
                row[f"{measure}_p_holm"] = p
        found += block
    return pd.DataFrame(found, columns=COLUMNS)


FIELDS = ("difference", "difference_low", "difference_high", "n", "p", "p_holm")
COLUMNS = [*GROUP, "strategy", "other", *(f"{measure}_{field}" for measure in MEASURES for field in FIELDS)]


def both_ways(pairs: pd.DataFrame, measure: str = "final") -> dict[tuple[str, str], dict]:
    """(strategy, other), in either order -> FIELDS of one measure, for one group's rows of `pairwise`."""
    found = {}
    for row in pairs.to_dict("records"):
        cell = {key.removeprefix(f"{measure}_"): value for key, value in row.items() if key.startswith(f"{measure}_")}
        turned = {"difference": -cell["difference"]}
        turned |= {"difference_low": -cell["difference_high"], "difference_high": -cell["difference_low"]}
        found[row["strategy"], row["other"]] = cell
        found[row["other"], row["strategy"]] = cell | turned
    return found


def wins(pairs: pd.DataFrame, names: Iterable[str], measure: str = "final") -> dict[tuple[str, str], tuple[int, int]]:
    """(strategy, other) -> in how many groups strategy is ahead with an interval above zero, and of how many."""
    names = list(names)
    found = {(one, other): (0, 0) for one in names for other in names if one != other}
    for _, rows in pairs.groupby(GROUP, sort=False):
        for key, cell in both_ways(rows, measure).items():
            if cell["n"] > 1:
                ahead, of = found[key]
                found[key] = ahead + bool(cell["difference_low"] > 0), of + 1
    return found
