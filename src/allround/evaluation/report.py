"""The report of a study: one HTML file that opens offline, begins with what was found, and says how far to trust it.

Every sentence with a number in it is computed here from the tables; the template only arranges. A claim is as strong as
its evidence: a lead is called a lead when its 95 % interval excludes zero, one seed never supports one, and the best of
several strategies is held against Holm's correction, because the best of several is flattered.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from allround.evaluation.axes import gain_limits, ratio_limits, ratio_ticks, title
from allround.evaluation.efficiency import efficiency, peaks
from allround.evaluation.looks import looks
from allround.evaluation.pairwise import both_ways, pairwise, wins
from allround.evaluation.statistics import ARM, BASELINE, GROUP, curves, groups, matrix, seconds_spent, summary

STAGES = {"train": "training", "embed": "embedding the pool", "query": "querying", "label": "labelling"}
SHOWN = 8  # strategies that the charts show at first
ALPHA = 0.05
UNEVEN = 0.005  # between accuracy and its mean over the classes: from here on the page shows it


def summarise(rounds: pd.DataFrame) -> pd.DataFrame:
    """One row an arm: statistics.summary with the columns of efficiency.peaks."""
    best = peaks(rounds).rename(columns={"n": "peak_n"})
    return summary(rounds).merge(best, on=ARM, how="left")


def render(rounds: pd.DataFrame, provenance: Mapping) -> str:
    """The report as HTML.

    rounds: the table of statistics.read_rounds
    provenance: what collect wrote beside it; any of its keys may be missing. Its "notes" open the warnings
    """
    from plotly.offline import get_plotlyjs  # 0.5 s to import, and needed here alone

    table, lines, ratios, pairs = summarise(rounds), curves(rounds), efficiency(rounds), pairwise(rounds)
    look = looks(rounds["strategy"])
    sections = [_section(*part, lines, ratios, table, pairs) for part in groups(rounds)]
    study = provenance.get("study", {})
    environment = Environment(
        loader=PackageLoader("allround", "evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, points=points, duration=duration, number=number, settings=flat)
    return environment.get_template("report.html.j2").render(
        name=study.get("name", "study"),
        description=study.get("description", ""),
        study=study,
        provenance=provenance,
        sections=sections,
        overview=overview(sections) if len(sections) > 1 else None,
        across=_across(sections) if len(sections) > 1 else None,
        wins=_wins(sections, pairs) if len(sections) > 1 else None,
        warnings=warnings(rounds, provenance),
        looks=look,
        baseline=BASELINE,
        stages=STAGES,
        facts=facts(rounds, sections),
        spent=seconds_spent(rounds),
        data=Markup(_script_json(_payload(sections, look, table))),
        plotly=Markup(get_plotlyjs().replace("</script", "<\\/script")),
    )


def _section(
    group: dict,
    rows: pd.DataFrame,
    lines: pd.DataFrame,
    ratios: pd.DataFrame,
    table: pd.DataFrame,
    pairs: pd.DataFrame,
) -> dict:
    """Everything the report says about one group."""
    block, mine, efficiencies, mine_paired = (_of(part, group) for part in (table, lines, ratios, pairs))
    paired = bool(block["final_gain_n"].max() > 0)
    block = block.sort_values(
        ["area_gain" if paired else "area", "strategy"], ascending=[False, True], na_position="last"
    )
    by_end = block["final_gain" if paired else "final"].fillna(0 if paired else -1)  # random's own difference is 0
    block = block.assign(order=by_end.rank(method="first", ascending=False))
    cost = block[[f"seconds_{stage}" for stage in STAGES]].sum(axis=1)
    return {
        "group": group,
        "title": title(group),
        "rows": rows,
        "lines": mine,
        "ratios": efficiencies,
        "paired": paired,
        "names": list(block["strategy"]),
        "classes": bool(block["worst_class_accuracy"].notna().any()),
        "uneven": bool((block["balanced_accuracy"] - block["final"]).abs().max() > UNEVEN),
        "head_to_head": _head_to_head(list(block.sort_values("order")["strategy"]), mine_paired),
        "arms": block.to_dict("records"),
        "finding": finding(group, block, rows),
        "longest": float(cost.max()) if len(cost) else 0.0,
        "reach": {name: _reach(block, name) for name in ("final", "area")},
    }


def _head_to_head(names: list[str], pairs: pd.DataFrame) -> dict | None:
    """Strategies against each other at the end, the best first; None where less than two seeds or three strategies."""
    cells = {pair: cell for pair, cell in both_ways(pairs).items() if cell["n"] > 1}
    if len(names) < 3 or not cells:
        return None
    tested = pairs[pairs["final_n"] > 1]
    apart = (tested["final_difference_low"] > 0) | (tested["final_difference_high"] < 0)
    return {
        "names": names,
        "cells": cells,
        "largest": max(1e-9, *(abs(cell["difference"]) for cell in cells.values())),
        "pairs": len(tested),
        "apart": int(apart.sum()),
        "significant": int((tested["final_p_holm"] < ALPHA).sum()),
    }


def _wins(sections: list[dict], pairs: pd.DataFrame) -> dict | None:
    """In how many settings a strategy ends clearly ahead of another, the most wins first; None where none can tell."""
    names = sorted({name for part in sections for name in part["names"]})
    cells = {pair: cell for pair, cell in wins(pairs, names).items() if cell[1]}
    if len(names) < 3 or not cells:
        return None
    won = {name: sum(cell[0] for pair, cell in cells.items() if pair[0] == name) for name in names}
    return {"names": sorted(names, key=lambda name: (-won[name], name)), "cells": cells, "won": won}


def _of(table: pd.DataFrame, group: Mapping) -> pd.DataFrame:
    return table[np.logical_and.reduce([table[key] == value for key, value in group.items()])]


def _reach(block: pd.DataFrame, measure: str) -> float:
    """Half the width of the small interval plots in a table, in points."""
    low, high = gain_limits(block.rename(columns=lambda name: name.removeprefix(f"{measure}_")))
    return 100 * max(abs(low), abs(high))


# --- words ------------------------------------------------------------------------------------------------------------


def finding(group: Mapping, block: pd.DataFrame, rows: pd.DataFrame) -> Markup:
    """What the curves of one group say, in a few sentences. block: its rows of `summarise`."""
    labels = f"{int(rows['n_labels'].max()):,}"
    seeds = _count(int(block["n"].max()), "seed")
    others = block[(block["strategy"] != BASELINE) & block["final_gain"].notna()]
    done = block[block["final"].notna()]
    if not len(done):
        return Markup("No arm has a whole learning curve yet, so there is nothing to compare.")
    top = done.loc[done["final"].idxmax()]
    if rows["round"].nunique() == 1:
        return Markup(
            "Only round 0 was run: all strategies share its model, which reaches {} with {} labels over {}. There is "
            "nothing to compare yet."
        ).format(percent(top["final"]), labels, seeds)
    if not (block["strategy"] == BASELINE).any():
        return Markup(
            "After {} labels <b>{}</b> is the most accurate of {}, at {} over {}. The study has no arm called "
            "<i>random</i>, so nothing here says whether choosing the examples paid."
        ).format(labels, top["strategy"], _count(len(block), "strategy"), percent(top["final"]), seeds)
    if (block["strategy"] == BASELINE).all():
        return Markup("Only random sampling was run: after {} labels it reaches {} over {}.").format(
            labels, percent(top["final"]), seeds
        )
    if not len(others):
        return Markup("No strategy has a whole curve on a seed that random has too, so there is nothing to compare.")
    return Markup(" ").join(_compared(labels, block, others))


def _compared(labels: str, block: pd.DataFrame, others: pd.DataFrame) -> Iterable[Markup]:
    """Sentences about strategies and random, each as strong as its evidence."""
    best = others.loc[others["final_gain"].idxmax()]
    if others["final_gain_n"].max() == 1:
        side = "above" if best["final_gain"] > 0 else "below"
        yield Markup(
            "With one seed, <b>{}</b> ends highest of the strategies after {} labels, {} points {} random ({}). One "
            "seed cannot tell skill from luck: run more before believing it."
        ).format(best["strategy"], labels, number(100 * abs(best["final_gain"])), side, percent(best["final"]))
        return
    clear = others[others["final_gain_low"] > 0]
    if len(clear):
        lead = clear.loc[clear["final_gain"].idxmax()]
        yield Markup("After {} labels <b>{}</b> leads random by {} over {}.").format(
            labels, lead["strategy"], points(lead, "final_gain"), _count(int(lead["final_gain_n"]), "seed")
        )
        if best["strategy"] != lead["strategy"]:
            yield Markup("({} has a higher mean, {}, but its interval includes zero.)").format(
                best["strategy"], points(best, "final_gain")
            )
        if len(others) > 1 and not lead["final_p_holm"] < ALPHA:
            yield Markup("As the best of {} strategies it is flattered: corrected for that (Holm), p = {}.").format(
                len(others), _p(lead["final_p_holm"])
            )
        yield from _saved(lead)
    elif best["final_gain"] > 0:
        yield Markup(
            "After {} labels no strategy is clearly ahead of random. <b>{}</b> comes out highest, {} over {}: the "
            "interval includes zero."
        ).format(labels, best["strategy"], points(best, "final_gain"), _count(int(best["final_gain_n"]), "seed"))
    else:
        yield Markup("After {} labels no strategy ends ahead of random; the closest is <b>{}</b>, {}.").format(
            labels, best["strategy"], points(best, "final_gain")
        )
    over = others[others["area_gain_low"] > 0]
    if len(over):
        early = over.loc[over["area_gain"].idxmax()]
        if not len(clear) or early["strategy"] != clear.loc[clear["final_gain"].idxmax(), "strategy"]:
            yield Markup("Averaged over the whole curve <b>{}</b> is ahead, {}.").format(
                early["strategy"], points(early, "area_gain")
            )
    behind = others[others["final_gain_high"] < 0].sort_values("final_gain")
    if len(behind):
        names = [f"{row['strategy']} ({points(row, 'final_gain')})" for _, row in behind.head(3).iterrows()]
        more = f" and {len(behind) - 3} more" if len(behind) > 3 else ""
        yield Markup("Below random: {}{}.").format(", ".join(names), more)


def _saved(arm: pd.Series) -> Iterable[Markup]:
    """How many labels the leading arm saves on the way to random's best accuracy."""
    if arm["at_best_bound"] == "upper":
        yield Markup("It reaches random's best accuracy in {} of {}.").format(
            int(arm["n_reached"]), _count(int(arm["peak_n"]), "seed")
        )
    elif arm["at_best"] > 1:
        low, high = (100 * (1 - 1 / arm[end]) for end in ("at_best_low", "at_best_high"))
        yield Markup("It reaches random's best accuracy with {:.0f} % fewer labels [{}, {}].").format(
            100 * (1 - 1 / arm["at_best"]), number(low, 0), number(high, 0)
        )


def overview(sections: list[dict]) -> Markup:
    """One sentence or two over all groups of a study."""
    comparable = [part for part in sections if part["paired"] and max(arm["final_gain_n"] for arm in part["arms"]) > 1]
    if not comparable:
        return Markup(
            "{} settings were run. None of them has two seeds shared with random, so nothing below is a verdict."
        ).format(len(sections))
    wins: dict[str, int] = {}
    for part in comparable:
        for arm in part["arms"]:
            wins[arm["strategy"]] = wins.get(arm["strategy"], 0) + bool(arm["final_gain_low"] > 0)
    some = sum(any(arm["final_gain_low"] > 0 for arm in part["arms"]) for part in comparable)
    whole = Markup(
        "In {} of {} settings at least one strategy ends ahead of random with a 95 % interval above zero."
    ).format(some, len(comparable))
    if not some:
        return whole
    most = max(wins.values())
    names = sorted(name for name, n in wins.items() if n == most)
    return whole + Markup(" Most often, in {} of them: <b>{}</b>{}.").format(
        most, ", ".join(names[:3]), f" and {len(names) - 3} more" if len(names) > 3 else ""
    )


def _across(sections: list[dict]) -> dict:
    """Final differences to random, strategies by groups, for studies of several groups."""
    found = {part["title"]: {arm["strategy"]: arm for arm in part["arms"]} for part in sections}
    names = sorted({name for arms in found.values() for name in arms} - {BASELINE})
    gain = pd.DataFrame(
        {group: {name: arm["final_gain"] for name, arm in arms.items()} for group, arms in found.items()}
    )
    mean = gain.mean(axis=1).fillna(-np.inf)
    names.sort(key=lambda name: (-mean[name], name))
    largest = max(np.nan_to_num(gain.abs().to_numpy(), nan=0.0).max(), 1e-9)
    return {"groups": list(found), "names": names, "arms": found, "largest": largest}


def warnings(rounds: pd.DataFrame, provenance: Mapping) -> list[str]:
    """What the reader has to know before believing the figures, one sentence each."""
    found = [*provenance.get("notes", ()), *_missing(rounds, provenance.get("study", {}))]
    lost = rounds[rounds["accuracy"].isna()]
    if len(lost):
        found.append(f"{_count(len(lost), 'round')} without an accuracy (NaN), left out of all means: {_cells(lost)}.")
    for group, rows in groups(rounds):
        where = f" ({title(group)})" if rounds.groupby(GROUP).ngroups > 1 else ""
        tables = matrix(rows)
        seeds = {name: set(table.columns) for name, table in tables.items()}
        if BASELINE not in tables:
            found.append(f"No arm is called random: no differences, no labelling efficiency{where}.")
        else:
            for name, own in seeds.items():
                if own != seeds[BASELINE]:
                    odd = ", ".join(map(str, sorted(own ^ seeds[BASELINE])))
                    found.append(
                        f"{name} and random do not share seed {odd}, which their comparison leaves out{where}."
                    )
        if max(map(len, seeds.values())) == 1:
            found.append(f"One seed: there is no spread to show, and no difference below is a finding{where}.")
        first = rows[rows["round"] == 0].groupby("seed")["accuracy"]
        if (first.nunique() > 1).any():
            found.append(f"Arms of a seed differ in round 0, which they should share: pairs are broken{where}.")
        found += [f"{words}{where}." for words in _mixed(rows)]
    sizes = rounds.groupby(ARM)["seed"].nunique()
    if 1 < sizes.max() <= 3:
        few = "Two" if sizes.max() == 2 else "Three"
        found.append(
            f"{few} seeds: intervals of differences are wide, and those of labelling efficiency (bootstrap) are no "
            "more than the range of the seeds."
        )
    if len(provenance.get("devices", [])) > 1:
        found.append("Jobs ran on different devices: compare their seconds with care.")
    for name, values in sorted(provenance.get("versions", {}).items()):
        if len(values) > 1:
            found.append(f"Jobs ran with different versions of {name}: {', '.join(values)}.")
    found += [f"Artifacts of {jobs} come from several versions of its code." for jobs in provenance.get("mixed", [])]
    return found


def _mixed(rows: pd.DataFrame) -> Iterable[str]:
    """How the models of one group were not trained alike; the device kind and precision change what is learned."""
    columns = [name for name in ("device", "precision") if name in rows.columns]
    kinds = rows[columns].fillna("").map(lambda value: str(value).split(":")[0])  # cuda:1 is cuda; empty is unknown
    varied = {name: sorted(set(kinds[name]) - {""}) for name in columns}
    words = {"device": "on {}", "precision": "in {}"}
    mixed = [words[name].format(" and ".join(found)) for name, found in varied.items() if len(found) > 1]
    if mixed:
        yield f"Models were trained {', '.join(mixed)}: pairs across devices are not comparable"


def _missing(rounds: pd.DataFrame, study: Mapping) -> Iterable[str]:
    """Cells of the study's grid that the table lacks."""
    if not {"datasets", "learners", "strategies", "seeds", "rounds"} <= study.keys():
        return
    axes = [list(study[name]) for name in ("datasets", "learners", "strategies", "seeds")] + [range(study["rounds"])]
    names = ["dataset", "learner", "strategy", "seed", "round"]
    whole = pd.MultiIndex.from_product(axes, names=names)
    lost = whole.difference(pd.MultiIndex.from_frame(rounds[names])).to_frame(index=False)
    if len(lost):
        yield f"{_count(len(lost), 'round')} of {len(whole):,} in the study's grid missing: {_cells(lost)}."


def _cells(rows: pd.DataFrame) -> str:
    text = "{row.dataset}/{row.learner}/{row.strategy} seed {row.seed} round {row.round}"
    names = [text.format(row=row) for row in rows.head(3).itertuples()]
    return "; ".join(names) + (f"; and {len(rows) - 3:,} more" if len(rows) > 3 else "")


def facts(rounds: pd.DataFrame, sections: list[dict]) -> list[tuple[str, str]]:
    """The study in numbers: (value, unit)."""
    spent = seconds_spent(rounds)
    counts = {
        "strategy": rounds["strategy"].nunique(),
        "seed": rounds["seed"].nunique(),
        "round": rounds["round"].nunique(),
    }
    counts |= {"setting": len(sections)} if len(sections) > 1 else {}
    found = [(f"{n:,}", noun if n == 1 else _plural(noun)) for noun, n in counts.items()]
    found.append((f"{int(rounds['n_labels'].max()):,}", "labels at the end"))
    return found + ([(duration(spent), "of computing")] if spent else [])


# --- numbers ----------------------------------------------------------------------------------------------------------


def number(value: float, digits: int = 1) -> str:
    """A number with a true minus sign; an em dash for NaN."""
    if value is None or not math.isfinite(value):
        return "—"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def percent(value: float, digits: int = 1) -> str:
    """A fraction as a percentage."""
    return f"{number(100 * value, digits)} %" if math.isfinite(value) else "—"


def points(row: Mapping, name: str) -> str:
    """A difference of accuracies and its interval: '3.1 points [1.2, 5.0]'."""
    text = f"{number(100 * row[name])} points"
    if not math.isfinite(row[f"{name}_low"]):
        return text
    return f"{text} [{number(100 * row[f'{name}_low'])}, {number(100 * row[f'{name}_high'])}]"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds is None or not math.isfinite(seconds):
        return "—"
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 360_000 else f"{seconds / 86_400:.1f} days"


def flat(settings: Mapping, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, value as JSON), for a table."""
    found = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            found += flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)))
    return found


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else number(value, 3 if value < 0.1 else 2)


def _count(n: int, noun: str) -> str:
    return f"one {noun}" if n == 1 else f"{n:,} {_plural(noun)}"


def _plural(noun: str) -> str:
    return noun.removesuffix("y") + "ies" if noun.endswith("y") else noun + "s"


# --- what the charts draw ---------------------------------------------------------------------------------------------


def _payload(sections: list[dict], look: Mapping, table: pd.DataFrame) -> dict:
    """The data of the interactive charts: accuracies in percent, differences in points, four decimals, null for NaN."""
    mean = table.groupby("strategy")["area"].mean()
    best = [name for name in mean.sort_values(ascending=False, kind="stable").index if name != BASELINE]
    return {
        "baseline": BASELINE,
        "looks": {
            name: {key: getattr(each, key) for key in ("light", "dark", "symbol", "stroke")}
            for name, each in look.items()
        },
        "shown": [BASELINE, *best[: SHOWN - 2]] if len(best) >= SHOWN else [BASELINE, *best],
        "groups": [_charts(part) for part in sections],
    }


def _charts(part: dict) -> dict:
    found = {"names": part["names"], "curves": {}, "efficiency": {}}
    for name, line in part["lines"].groupby("strategy"):
        seeds = part["rows"][part["rows"]["strategy"] == name].pivot(index="round", columns="seed", values="accuracy")
        values = {
            key: _list(100 * line[key]) for key in ("mean", "std", "low", "high", "gain", "gain_low", "gain_high")
        }
        values |= {"x": _list(line["n_labels"]), "round": _list(line["round"]), "n": _list(line["n"])}
        found["curves"][str(name)] = values | {"seeds": {str(seed): _list(100 * seeds[seed]) for seed in seeds}}
    for name, line in part["ratios"].groupby("strategy"):
        values = {"x": _list(100 * line["accuracy"])} | {key: _list(line[key]) for key in ("efficiency", "low", "high")}
        values |= {key: _list(line[key]) for key in ("n", "n_censored", "labels_random", "labels_strategy")}
        found["efficiency"][str(name)] = values | {"bound": list(line["bound"])}
    if part["paired"]:
        found["gain_range"] = [
            100 * limit for limit in gain_limits(part["lines"][part["lines"]["strategy"] != BASELINE])
        ]
    if len(part["ratios"]):
        low, high = ratio_limits(part["ratios"])
        found |= {"ratio_range": [math.log10(low), math.log10(high)], "ratio_ticks": ratio_ticks(low, high)}
    return found


def _list(values: pd.Series) -> list:
    """Four decimals are a hundredth of the smallest step that 10,000 test images can make."""
    return [None if not math.isfinite(value) else round(float(value), 4) for value in values]


def _script_json(value: object) -> str:
    """JSON that may stand inside a script element: no way to close it from within."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
