"""Figures for papers, one set a group (dataset, learner, start, budget): svg and pdf, the same bytes each time.

    <group>-curves       accuracy over labels, with the spread of the seeds, and the paired difference to random
    <group>-gains        that difference, where there are too many strategies for a second panel
    <group>-efficiency   labelling efficiency over accuracy; where it is only a bound, dotted with arrows
    <group>-ranking      every strategy's difference to random with its interval, best first

Up to eight strategies share one panel and are labelled at the ends of their lines. More get a panel each, the others in
grey behind, because nobody can tell twelve overlapping lines apart. Text becomes outlines in svg and embedded
TrueType in pdf, so that a figure looks the same everywhere.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from allround.artifacts import replacing
from allround.evaluation.looks import RANDOM, Look, looks
from allround.evaluation.statistics import BASELINE, GROUP

CUT = ", cut at the frame"  # of bars that are longer than their panel
ARROW = r"$\downarrow$"  # an upper bound
TOGETHER = 8  # strategies in one panel
WIDTH = 6.4  # inches: the text width of most journals and theses
INK, MUTED, FAINT, GRID = "#222222", "#6B6B6B", "#C9C9C9", "#ECECEC"
STYLE = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same everywhere
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.6,
    "lines.markeredgewidth": 0,
    "lines.solid_capstyle": "round",
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "allround",
    "text.color": INK,
    "figure.dpi": 100,
}


def write_figures(folder: Path, curves: pd.DataFrame, efficiency: pd.DataFrame, summary: pd.DataFrame) -> list[Path]:
    """Write every figure of a study into `folder`; returns the files.

    The tables are those of statistics.curves, efficiency.efficiency and report.summarise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    look = looks(summary["strategy"])
    written, names = [], set()
    with matplotlib.rc_context(STYLE):
        for key, block in summary.groupby(GROUP, sort=False):
            group = dict(zip(GROUP, key, strict=True))
            name = _free(slug(group), names)
            parts = [_of(table, group) for table in (curves, efficiency, block)]
            figures = {"curves": curve_figure(group, parts[0], look)}
            figures["ranking"] = ranking_figure(group, parts[2], look)
            if (
                block["strategy"].nunique() > TOGETHER
                and block["final_gain_n"].max() > 0
                and parts[0]["round"].max() > 0
            ):
                figures["gains"] = gains_figure(group, parts[0], look)
            if len(parts[1]):
                figures["efficiency"] = efficiency_figure(group, parts[1], look)
            for kind, figure in figures.items():
                _settle(figure)
                for suffix in ("svg", "pdf"):
                    path = folder / f"{name}-{kind}.{suffix}"
                    save(figure, path)
                    written.append(path)
    return written


def slug(group: dict) -> str:
    """A group's name in files: 'digits-mlp-random20@20'."""
    return re.sub(r"[^\w.@+-]", "_", "{dataset}-{learner}-{start}@{budget}".format(**group))


def title(group: dict) -> str:
    """A group's name for readers: 'digits · mlp · random20 + 20 a round'."""
    return "{dataset} · {learner} · {start} + {budget:,} a round".format(**group)


def save(figure: Figure, path: Path) -> None:
    """Write one figure, atomically and without the date, so that equal figures are equal files."""
    body = io.BytesIO()
    stamp = {"Date": None} if path.suffix == ".svg" else {"CreationDate": None}
    figure.savefig(body, format=path.suffix[1:], metadata=stamp)
    with replacing(path) as partial:
        partial.write_bytes(body.getvalue())


def _settle(figure: Figure) -> None:
    """Lay the figure out for good: what is placed and saved afterwards does not move it again."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def _of(table: pd.DataFrame, group: dict) -> pd.DataFrame:
    return table[np.logical_and.reduce([table[key] == value for key, value in group.items()])]


def _free(name: str, taken: set[str]) -> str:
    """`name`, or with a number where another group has it already ('a-b' + 'c' against 'a' + 'b-c')."""
    found = next(each for k in range(1, len(taken) + 2) if (each := name if k == 1 else f"{name}-{k}") not in taken)
    taken.add(found)
    return found


# --- learning curves --------------------------------------------------------------------------------------------------


def curve_figure(group: dict, curves: pd.DataFrame, look: dict[str, Look]) -> Figure:
    """Accuracy over labels. curves: rows of one group of statistics.curves."""
    lines = _lines(curves)
    seeds = int(curves["n"].max())
    paired = BASELINE in lines and len(lines) > 1 and curves["gain_n"].max() > 0 and curves["round"].nunique() > 1
    if len(lines) > TOGETHER:
        return _multiples(group, lines, look, CURVE, _seeds_note(seeds))
    figure = Figure((WIDTH, 5.2 if paired else 3.6), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True, height_ratios=[1.55, 1]) if paired else [figure.subplots()]
    for name in _baseline_first(lines):
        _draw_curve(axes[0], lines[name], look[name], 0.13 if len(lines) <= 4 else 0.08)
    axes[0].set_ylabel("test accuracy (%)")
    _head(axes[0], title(group), _seeds_note(seeds))
    if paired:
        _draw_gains(axes[1], lines, look)
    _label_axis(axes[-1], curves)
    known = {name: line.dropna(subset="mean") for name, line in lines.items()}
    ends = {name: (line["n_labels"].iloc[-1], 100 * line["mean"].iloc[-1]) for name, line in known.items() if len(line)}
    _label_ends(axes[0], ends, look)
    return figure


def _draw_curve(ax: Axes, line: pd.DataFrame, look: Look, alpha: float = 0.13) -> None:
    x, mean, std = line["n_labels"], 100 * line["mean"], 100 * line["std"]
    if std.notna().any():
        ax.fill_between(x, mean - std, mean + std, color=look.light, alpha=alpha, linewidth=0)
    ax.plot(x, mean, color=look.light, linestyle=look.dash, marker=look.marker)


def _draw_gains(ax: Axes, lines: dict[str, pd.DataFrame], look: dict[str, Look]) -> None:
    """Paired differences to random with their intervals, side by side rather than on top of each other."""
    names = [name for name in lines if name != BASELINE]
    step = np.diff(np.unique(np.concatenate([line["n_labels"] for line in lines.values()]))).min()
    ax.axhline(0, color=RANDOM.light, linestyle=RANDOM.dash, linewidth=1.2)
    for place, name in enumerate(names):
        line = lines[name][lines[name]["round"] > 0]
        x = line["n_labels"] + step * 0.07 * (place - (len(names) - 1) / 2)
        ax.plot(x, 100 * line["gain"], color=look[name].light, linewidth=0.7, alpha=0.45)
        ax.vlines(x, 100 * line["gain_low"], 100 * line["gain_high"], color=look[name].light, linewidth=1.1, alpha=0.75)
        ax.plot(x, 100 * line["gain"], color=look[name].light, linestyle="", marker=look[name].marker, markersize=3.2)
    together = pd.concat([lines[name] for name in names])
    low, high = gain_limits(together)
    ax.set_ylim(100 * low, 100 * high)
    ax.set_ylabel("minus random (points)")
    pairs = max(int(lines[name]["gain_n"].max()) for name in names)
    cut = together["gain_low"].min() < low or together["gain_high"].max() > high
    _head(ax, "", _pairs_note(pairs, "bars") + (CUT if cut else ""))


def gains_figure(group: dict, curves: pd.DataFrame, look: dict[str, Look]) -> Figure:
    """Paired differences to random, a panel a strategy: the lower panel of `curve_figure` for many strategies."""
    lines = {name: line[line["round"] > 0] for name, line in _lines(curves).items() if name != BASELINE}
    figure = _multiples(group, lines, look, GAIN, _pairs_note(int(curves["gain_n"].max()), "band"))
    low, high = gain_limits(pd.concat(lines.values()))
    figure.axes[0].set_ylim(100 * low, 100 * high)
    return figure


def _draw_gain(ax: Axes, line: pd.DataFrame, look: Look) -> None:
    if line["gain_low"].notna().any():
        band = 100 * line["gain_low"], 100 * line["gain_high"]
        ax.fill_between(line["n_labels"], *band, color=look.light, alpha=0.16, linewidth=0)
    ax.plot(line["n_labels"], 100 * line["gain"], color=look.light, linestyle=look.dash, marker=look.marker)


def gain_limits(line: pd.DataFrame) -> tuple[float, float]:
    """Limits of an axis of differences: all means, and intervals up to a point (of two seeds they are enormous)."""
    means = line["gain"].to_numpy(float)
    means = means[np.isfinite(means)]
    low, high = (min(means.min(), 0), max(means.max(), 0)) if len(means) else (0, 0)
    span = max(high - low, 0.01)
    floor, ceiling = np.nanmin([low, line["gain_low"].min()]), np.nanmax([high, line["gain_high"].max()])
    return max(floor, low - 0.8 * span) - 0.06 * span, min(ceiling, high + 0.8 * span) + 0.06 * span


# --- labelling efficiency ---------------------------------------------------------------------------------------------


def efficiency_figure(group: dict, efficiency: pd.DataFrame, look: dict[str, Look]) -> Figure:
    """LE over accuracy on a logarithmic axis. efficiency: rows of one group of efficiency.efficiency."""
    lines = {str(name): part for name, part in efficiency.groupby("strategy", sort=False)}
    seeds = int(efficiency["n"].max())
    note = "one seed" if seeds == 1 else f"{seeds} seeds, band: 95 % bootstrap"
    if (efficiency["bound"] == "upper").any():
        note += ", dotted with arrows: upper bound"
    if len(lines) >= TOGETHER:
        ends = {name: -line["efficiency"].iloc[-1] for name, line in lines.items()}
        figure = _multiples(group, dict(sorted(lines.items(), key=lambda item: ends[item[0]])), look, EFFICIENCY, note)
        for ax in figure.axes:
            _ratio_axis(ax, efficiency)
        return figure
    figure = Figure((WIDTH, 3.6), layout="constrained")
    ax = figure.subplots()
    for name, line in lines.items():
        _draw_efficiency(ax, line, look[name])
    _ratio_axis(ax, efficiency)
    ax.set_xlabel("test accuracy (%)")
    ax.set_ylabel("labels random needs / labels needed")
    ax.margins(x=0.02)
    _head(ax, title(group), note)
    ends = {name: (100 * line["accuracy"].iloc[-1], line["efficiency"].iloc[-1]) for name, line in lines.items()}
    _label_ends(ax, ends | {BASELINE: (100 * efficiency["accuracy"].max(), 1.0)}, look)
    return figure


def _draw_efficiency(ax: Axes, line: pd.DataFrame, look: Look) -> None:
    x, y = 100 * line["accuracy"].to_numpy(), line["efficiency"].to_numpy()
    sure = (line["bound"] == "").to_numpy()
    if line["low"].notna().any():
        ax.fill_between(x, line["low"], line["high"], color=look.light, alpha=0.13, linewidth=0)
    solid = "-" if look.stroke == "dot" else look.dash  # dots mean a bound here
    ax.plot(x, np.where(sure, y, np.nan), color=look.light, linestyle=solid)
    if not sure.all():
        joined = ~sure | np.append(~sure[1:], False)  # from the last exact point on, so that the line has no gap
        ax.plot(x, np.where(joined, y, np.nan), color=look.light, linestyle=(0, (1, 1.4)))
        arrows = np.flatnonzero(~sure)[:: max(1, len(x) // 12)]
        ax.plot(x[arrows], y[arrows], color=look.light, linestyle="", marker=ARROW, markersize=5.5)
    if len(x) == 1:
        ax.plot(x, y, color=look.light, marker=look.marker)


def _ratio_axis(ax: Axes, efficiency: pd.DataFrame) -> None:
    low, high = ratio_limits(efficiency)
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    ax.yaxis.set_major_locator(FixedLocator(ratio_ticks(low, high)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}×"))
    ax.axhline(1, color=RANDOM.light, linestyle=RANDOM.dash, linewidth=1.2, zorder=1.5)


def ratio_ticks(low: float, high: float) -> list[float]:
    """Round ratios from low to high, 1 always among them, about eight at most."""
    for step in (
        [1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2],
        [1.25, 1.5, 2, 2.5, 3, 4, 5],
        [1.5, 2, 3, 5, 10],
        [2, 5, 10, 100],
    ):
        above = [tick for tick in step if tick <= high]
        below = [tick for tick in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.01) if tick >= low]
        below = below[:: 1 if step[0] < 1.5 else 2 if step[0] < 2 else 4]
        if len(above) + len(below) <= 7:
            break
    return sorted([*below, 1, *above])


def ratio_limits(efficiency: pd.DataFrame) -> tuple[float, float]:
    """Limits of an axis of ratios: all means and most of every interval, at least 0.8 to 1.25."""
    mean = efficiency["efficiency"]
    low = min(0.8, mean.min(), max(efficiency["low"].min(), mean.min() / 1.6))
    high = max(1.25, mean.max(), min(efficiency["high"].max(), mean.max() * 1.6))
    low, high = (np.nanmin([low, 0.8]), np.nanmax([high, 1.25]))
    return float(low / 1.04), float(high * 1.04)


# --- ranking ----------------------------------------------------------------------------------------------------------


def ranking_figure(group: dict, summary: pd.DataFrame, look: dict[str, Look]) -> Figure:
    """Every strategy's result with its interval, one row each, the best mean over the curve on top."""
    paired = summary["area_gain_n"].max() > 0
    order = summary.sort_values(["area_gain" if paired else "area", "strategy"], ascending=[False, True])
    if paired:
        order = order[order["strategy"] != BASELINE]
        panels = [("final_gain", "at the end (points)", 100), ("area_gain", "mean over the curve (points)", 100)]
        panels += [("peak", "peak labelling efficiency", 1)] if order["peak"].notna().any() else []
    else:
        panels = [("final", "accuracy at the end (%)", 100), ("area", "mean accuracy over the curve (%)", 100)]
    figure = Figure((WIDTH, 0.85 + 0.2 * len(order)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08)
    axes = figure.subplots(1, len(panels), sharey=True)
    rows = np.arange(len(order))[::-1]
    cut = False
    for ax, (name, label, scale) in zip(axes, panels, strict=True):
        value, low, high = (scale * order[f"{name}{end}"].to_numpy(float) for end in ("", "_low", "_high"))
        for row, strategy, *bar in zip(rows, order["strategy"], value, low, high, strict=True):
            colour = look[strategy].light
            ax.plot(bar[1:], [row, row], color=colour, linewidth=1.5, alpha=0.8)
            ax.plot(bar[0], row, color=colour, marker=look[strategy].marker, markersize=4.5)
        if paired:
            ax.axvline(1 if name == "peak" else 0, color=RANDOM.light, linestyle=RANDOM.dash, linewidth=1.1, zorder=1.5)
        ax.set_xlabel(label)
        ax.set_ylim(-0.6, len(order) - 0.4)
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        limits = _bar_limits(value, low, high, 1 if name == "peak" else 0 if paired else None)
        if limits:
            ax.set_xlim(*limits)
            cut |= np.nanmin([*low, limits[1]]) < limits[0] or np.nanmax([*high, limits[0]]) > limits[1]
    axes[0].set_yticks(rows, order["strategy"])
    n = int(summary["n"].max())
    what = "minus random, " if paired else ""
    note = f"{what}{'one seed' if n == 1 else f'{n} seeds, bars: 95 % confidence'}{CUT if cut else ''}"
    figure.suptitle(title(group), fontsize=8.5, x=0.01, ha="left")
    axes[-1].set_title(note, loc="right", color=MUTED, fontsize=7)
    return figure


def _bar_limits(value: np.ndarray, low: np.ndarray, high: np.ndarray, zero: float | None) -> tuple[float, float] | None:
    """Room for all values and for most of their intervals: those of two seeds would squeeze everything else."""
    known = value[np.isfinite(value)]
    if not len(known):
        return None
    least, most = known.min(), known.max()
    if zero is not None:
        least, most = min(least, zero), max(most, zero)
    span = max(most - least, 0.02 * max(abs(most), 1))
    left = max(np.nanmin([least, *low]), least - 1.2 * span)
    right = min(np.nanmax([most, *high]), most + 1.2 * span)
    return left - 0.06 * span, right + 0.06 * span


# --- shared -----------------------------------------------------------------------------------------------------------


def _lines(curves: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """strategy -> its rows, the highest end first."""
    lines = {str(name): part.sort_values("n_labels") for name, part in curves.groupby("strategy")}
    return dict(sorted(lines.items(), key=lambda item: -np.nan_to_num(item[1]["mean"].iloc[-1], nan=-1.0)))


def _baseline_first(lines: dict[str, pd.DataFrame]) -> list[str]:
    """Drawn first, random lies below the others."""
    return sorted(lines, key=lambda name: name != BASELINE)


def _seeds_note(seeds: int) -> str:
    return "one seed, so no band" if seeds == 1 else f"mean of {seeds} seeds, band: ± 1 standard deviation"


def _pairs_note(pairs: int, mark: str) -> str:
    return "paired on the seed; one seed" if pairs == 1 else f"paired on the seed, {mark}: 95 % confidence"


def _head(ax: Axes, text: str, note: str) -> None:
    """A title, and a quiet line below it on how to read the panel."""
    ax.set_title(text, loc="left", pad=15 if text else 6)
    ax.annotate(note, (0, 1), (0, 4), "axes fraction", "offset points", color=MUTED, fontsize=7)


def _label_axis(ax: Axes, curves: pd.DataFrame) -> None:
    ax.set_xlabel("labels")
    rounds = np.unique(curves["n_labels"])
    ax.xaxis.set_major_locator(FixedLocator(rounds) if len(rounds) <= 10 else MaxNLocator(8, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    if curves["n_labels"].nunique() > 1:
        ax.margins(x=0.02)


def _label_ends(ax: Axes, ends: dict[str, tuple[float, float]], look: dict[str, Look]) -> None:
    """Name every line at its end, in the margin; names that would overlap are pushed apart and tied to their end.

    To be called last: it needs the final limits and fixes the layout.
    """
    figure = ax.figure
    if not ends:
        return
    margin = 0.34 + max(_inches(name) for name in ends)
    figure.get_layout_engine().set(rect=(0, 0, 1 - margin / figure.get_figwidth(), 1))
    _settle(figure)
    box = ax.get_window_extent()
    names = sorted(ends, key=lambda name: (ends[name][1], name))
    at = np.array([ax.transAxes.inverted().transform(ax.transData.transform(ends[name])) for name in names])  # (k, 2)
    gap = min(9 * figure.dpi / 72 / box.height, 1 / max(len(names) - 1, 1))  # 9 points, or what there is room for
    for name, end, y in zip(names, at, _spread(at[:, 1], gap, 0.01, 1.0), strict=True):
        style = {"transform": ax.transAxes, "clip_on": False, "color": look[name].light}
        right = [1 + inches * figure.dpi / box.width for inches in (0.04, 0.15, 0.17, 0.24)]
        ax.plot([end[0], right[0], right[1]], [end[1], y, y], linewidth=0.6, alpha=0.6, **style)
        ax.plot(right[2], y, marker=look[name].marker, markersize=4, **style)
        ax.text(right[3], y, name, transform=ax.transAxes, va="center_baseline", fontsize=7.5)


def _inches(text: str) -> float:
    """Width of a label of 7.5 points."""
    font = FontProperties(family=STYLE["font.family"], size=7.5)
    return TextPath((0, 0), text, prop=font).get_extents().width / 72


def _spread(wanted: np.ndarray, gap: float, bottom: float, top: float) -> np.ndarray:
    """Places at least `gap` apart within bottom..top, as close to the (sorted) wanted ones as least squares allows."""
    # blocks of touching labels sit at the mean of their wishes: pool adjacent violators
    blocks = [[y - gap * k, 1] for k, y in enumerate(wanted)]
    pooled: list[list[float]] = []
    for block in blocks:
        pooled.append(block)
        while len(pooled) > 1 and pooled[-2][0] >= pooled[-1][0]:
            mean, n = pooled.pop()
            pooled[-1] = [(pooled[-1][0] * pooled[-1][1] + mean * n) / (pooled[-1][1] + n), pooled[-1][1] + n]
    base = np.repeat([mean for mean, _ in pooled], [int(n) for _, n in pooled])
    ceiling = top - gap * (len(wanted) - 1)
    return np.clip(base, bottom, max(bottom, ceiling)) + gap * np.arange(len(wanted))


@dataclass(frozen=True)
class Panel:
    """What a small panel shows.

    x, y: columns; times_x, times_y: their factors; remark: a number beside a line's name, which aside explains
    """

    x: str
    times_x: float
    y: str
    times_y: float
    xlabel: str
    ylabel: str
    draw: Callable[[Axes, pd.DataFrame, Look], None]
    remark: Callable[[pd.DataFrame], str]
    aside: str


def _multiples(group: dict, lines: dict[str, pd.DataFrame], look: dict[str, Look], panel: Panel, note: str) -> Figure:
    """One small panel a strategy, all the others in grey behind and random in black; shared axes."""
    names = [name for name in lines if name != BASELINE]
    longest = max(map(len, names))
    columns = 5 if len(names) > 20 and longest <= 12 else 4
    rows = -(-len(names) // columns)
    figure = Figure((WIDTH + 0.6, 0.95 + 1.3 * rows))
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    width, height = figure.get_size_inches()  # placed by hand: constrained layout takes seconds for forty panels
    figure.subplots_adjust(0.55 / width, 0.45 / height, 1 - 0.08 / width, 1 - 0.62 / height, wspace=0.1, hspace=0.28)
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    scale = np.array([panel.times_x, panel.times_y])
    points = {name: scale * line[[panel.x, panel.y]].to_numpy(float) for name, line in lines.items()}  # (r, 2) each
    for ax, name in zip(axes.flat, names, strict=False):
        ax.add_collection(LineCollection([points[other] for other in names], colors=FAINT, linewidths=0.5))
        if BASELINE in lines:
            ax.plot(*points[BASELINE].T, color=RANDOM.light, linestyle=RANDOM.dash, linewidth=0.9)
        elif panel is GAIN:
            ax.axhline(0, color=RANDOM.light, linestyle=RANDOM.dash, linewidth=0.9)
        panel.draw(ax, lines[name], look[name])
        for drawn in ax.lines:
            drawn.set_markersize(min(drawn.get_markersize(), 4.5 if drawn.get_marker() == ARROW else 2.6))
        ax.set_title(name, loc="left", fontsize=min(7.5, 7.5 * 18 / longest), pad=3)
        ax.set_title(panel.remark(lines[name]), loc="right", fontsize=6.5, color=MUTED, pad=3)
        ax.tick_params(labelsize=6.5)
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(3, integer=panel.x == "n_labels"))
    axes[0, 0].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    figure.text(0.5, 0.08 / height, panel.xlabel, fontsize=8, ha="center", va="bottom")
    figure.text(0.05 / width, 0.5, panel.ylabel, fontsize=8, ha="left", va="center", rotation="vertical")
    baseline = "grey: the others" if panel is EFFICIENCY else "black: random, grey: the others"
    figure.text(0.05 / width, 1 - 0.08 / height, title(group), fontsize=8.5, va="top")
    figure.text(0.05 / width, 1 - 0.26 / height, f"{baseline}; {note}{panel.aside}", fontsize=7, color=MUTED, va="top")
    return figure


def _end_gain(line: pd.DataFrame) -> str:
    """The last paired difference in points; nothing without one."""
    gain = line["gain"].iloc[-1] if len(line) else np.nan
    return f"{100 * gain:+.1f}".replace("-", "−") if np.isfinite(gain) else ""


def _end_efficiency(line: pd.DataFrame) -> str:
    end = line.iloc[-1]
    return f"{'< ' if end['bound'] == 'upper' else ''}{end['efficiency']:.2f}×"


AT_END = "; numbers: at the end, minus random (points)"
CURVE = Panel("n_labels", 1, "mean", 100, "labels", "test accuracy (%)", _draw_curve, _end_gain, AT_END)
GAIN = Panel("n_labels", 1, "gain", 100, "labels", "minus random (points)", _draw_gain, _end_gain, AT_END)
EFFICIENCY = Panel(
    x="accuracy",
    times_x=100,
    y="efficiency",
    times_y=1,
    xlabel="test accuracy (%)",
    ylabel="labelling efficiency",
    draw=_draw_efficiency,
    remark=_end_efficiency,
    aside="; numbers: at the right end",
)
