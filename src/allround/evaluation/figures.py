"""Figures for papers, one set a group (dataset, learner, start, budget): svg and pdf, the same bytes each time.

    <group>-curves       accuracy over labels, with the spread of the seeds, and the paired difference to random
    <group>-gains        that difference, where there are too many strategies for a second panel
    <group>-efficiency   labelling efficiency over accuracy; where it is only a bound, dotted with arrows
    <group>-ranking      every strategy's difference to random with its interval, best first

Up to eight strategies share one panel and are labelled at the ends of their lines. More get a panel each, the others in
grey behind, because nobody can tell twelve overlapping lines apart.
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from allround.evaluation.axes import gain_limits, ratio_limits, ratio_ticks, title
from allround.evaluation.drawing import (
    ARROW,
    MUTED,
    STYLE,
    WIDTH,
    Panel,
    head,
    label_axis,
    label_ends,
    multiples,
    save,
    settle,
)
from allround.evaluation.looks import RANDOM, Look, looks
from allround.evaluation.statistics import BASELINE, GROUP

CUT = ", cut at the frame"  # of bars that are longer than their panel
TOGETHER = 8  # strategies in one panel


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
                settle(figure)
                for suffix in ("svg", "pdf"):
                    path = folder / f"{name}-{kind}.{suffix}"
                    save(figure, path)
                    written.append(path)
    return written


def slug(group: dict) -> str:
    """A group's name in files: 'digits-mlp-random20@20'."""
    return re.sub(r"[^\w.@+-]", "_", "{dataset}-{learner}-{start}@{budget}".format(**group))


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
        return multiples(group, lines, look, CURVE, _seeds_note(seeds))
    figure = Figure((WIDTH, 5.2 if paired else 3.6), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True, height_ratios=[1.55, 1]) if paired else [figure.subplots()]
    for name in _baseline_first(lines):
        _draw_curve(axes[0], lines[name], look[name], 0.13 if len(lines) <= 4 else 0.08)
    axes[0].set_ylabel("test accuracy (%)")
    head(axes[0], title(group), _seeds_note(seeds))
    if paired:
        _draw_gains(axes[1], lines, look)
    label_axis(axes[-1], curves)
    known = {name: line.dropna(subset="mean") for name, line in lines.items()}
    ends = {name: (line["n_labels"].iloc[-1], 100 * line["mean"].iloc[-1]) for name, line in known.items() if len(line)}
    label_ends(axes[0], ends, look)
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
    head(ax, "", _pairs_note(pairs, "bars") + (CUT if cut else ""))


def gains_figure(group: dict, curves: pd.DataFrame, look: dict[str, Look]) -> Figure:
    """Paired differences to random, a panel a strategy: the lower panel of `curve_figure` for many strategies."""
    lines = {name: line[line["round"] > 0] for name, line in _lines(curves).items() if name != BASELINE}
    figure = multiples(group, lines, look, GAIN, _pairs_note(int(curves["gain_n"].max()), "band"))
    low, high = gain_limits(pd.concat(lines.values()))
    figure.axes[0].set_ylim(100 * low, 100 * high)
    return figure


def _draw_gain(ax: Axes, line: pd.DataFrame, look: Look) -> None:
    if line["gain_low"].notna().any():
        band = 100 * line["gain_low"], 100 * line["gain_high"]
        ax.fill_between(line["n_labels"], *band, color=look.light, alpha=0.16, linewidth=0)
    ax.plot(line["n_labels"], 100 * line["gain"], color=look.light, linestyle=look.dash, marker=look.marker)


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
        figure = multiples(group, dict(sorted(lines.items(), key=lambda item: ends[item[0]])), look, EFFICIENCY, note)
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
    head(ax, title(group), note)
    ends = {name: (100 * line["accuracy"].iloc[-1], line["efficiency"].iloc[-1]) for name, line in lines.items()}
    label_ends(ax, ends | {BASELINE: (100 * efficiency["accuracy"].max(), 1.0)}, look)
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


def _end_gain(line: pd.DataFrame) -> str:
    """The last paired difference in points; nothing without one."""
    gain = line["gain"].iloc[-1] if len(line) else np.nan
    return f"{100 * gain:+.1f}".replace("-", "−") if np.isfinite(gain) else ""


def _end_efficiency(line: pd.DataFrame) -> str:
    end = line.iloc[-1]
    return f"{'< ' if end['bound'] == 'upper' else ''}{end['efficiency']:.2f}×"


AT_END = "; numbers: at the end, minus random (points)"
CURVE = Panel("n_labels", 1, "mean", 100, "labels", "test accuracy (%)", _draw_curve, _end_gain, AT_END)
GAIN = Panel("n_labels", 1, "gain", 100, "labels", "minus random (points)", _draw_gain, _end_gain, AT_END, zero=True)
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
    black="",
)
