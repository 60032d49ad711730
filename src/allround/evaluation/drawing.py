"""The look of the figures for papers, and the parts that they are put together from.

Text becomes outlines in svg and embedded TrueType in pdf, so that a figure looks the same everywhere.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from allround.artifacts import replacing
from allround.evaluation.axes import title
from allround.evaluation.looks import RANDOM, Look
from allround.evaluation.statistics import BASELINE

WIDTH = 6.4  # inches: the text width of most journals and theses
ARROW = r"$\downarrow$"  # an upper bound
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


def save(figure: Figure, path: Path) -> None:
    """Write one figure, atomically and without the date, so that equal figures are equal files."""
    body = io.BytesIO()
    stamp = {"Date": None} if path.suffix == ".svg" else {"CreationDate": None}
    figure.savefig(body, format=path.suffix[1:], metadata=stamp)
    with replacing(path) as partial:
        partial.write_bytes(body.getvalue())


def settle(figure: Figure) -> None:
    """Lay the figure out for good: what is placed and saved afterwards does not move it again."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def head(ax: Axes, text: str, note: str) -> None:
    """A title, and a quiet line below it on how to read the panel."""
    ax.set_title(text, loc="left", pad=15 if text else 6)
    ax.annotate(note, (0, 1), (0, 4), "axes fraction", "offset points", color=MUTED, fontsize=7)


def label_axis(ax: Axes, curves: pd.DataFrame) -> None:
    ax.set_xlabel("labels")
    rounds = np.unique(curves["n_labels"])
    ax.xaxis.set_major_locator(FixedLocator(rounds) if len(rounds) <= 10 else MaxNLocator(8, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    if curves["n_labels"].nunique() > 1:
        ax.margins(x=0.02)


def label_ends(ax: Axes, ends: dict[str, tuple[float, float]], look: dict[str, Look]) -> None:
    """Name every line at its end, in the margin; names that would overlap are pushed apart and tied to their end.

    To be called last: it needs the final limits and fixes the layout.
    """
    figure = ax.figure
    if not ends:
        return
    margin = 0.34 + max(_inches(name) for name in ends)
    figure.get_layout_engine().set(rect=(0, 0, 1 - margin / figure.get_figwidth(), 1))
    settle(figure)
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

    x, y: columns; times_x, times_y: their factors; remark: a number beside a line's name, which aside explains; black:
    what the black line is; zero: whether that lies at 0 where random has no line of its own
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
    black: str = "black: random, "
    zero: bool = False


def multiples(group: dict, lines: dict[str, pd.DataFrame], look: dict[str, Look], panel: Panel, note: str) -> Figure:
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
        elif panel.zero:
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
    figure.text(0.05 / width, 1 - 0.08 / height, title(group), fontsize=8.5, va="top")
    note = f"{panel.black}grey: the others; {note}{panel.aside}"
    figure.text(0.05 / width, 1 - 0.26 / height, note, fontsize=7, color=MUTED, va="top")
    return figure
