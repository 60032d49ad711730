"""How a strategy looks: one colour, marker and dash in every figure and chart.

Colours are Okabe and Ito's, made for colour-blind readers; their yellow is darkened, as it cannot be seen on white.
Random sampling is always black (light grey on a dark page). The strategies of the paper's baseline own a colour, so
that they look alike in every study; others take what is left, and beyond seven strategies marker and dash tell them
apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from allround.evaluation.statistics import BASELINE


@dataclass(frozen=True)
class Look:
    """light, dark: colour on a white and on a dark page; marker, dash: matplotlib's names; symbol, stroke: plotly's."""

    light: str
    dark: str
    marker: str
    dash: str | tuple
    symbol: str
    stroke: str


COLOURS = [  # on white, on dark
    ("#D55E00", "#F0803C"),  # vermilion
    ("#0072B2", "#4A9FDD"),  # blue
    ("#009E73", "#2FC49A"),  # bluish green
    ("#CC79A7", "#E29CC2"),  # reddish purple
    ("#E69F00", "#F2B73A"),  # orange
    ("#56B4E9", "#9AD7F7"),  # sky blue
    ("#A89C00", "#E6DC5A"),  # yellow
]
MARKERS = [  # matplotlib, plotly; with seven colours, marker and colour repeat together only after 7 x 6 strategies
    ("o", "circle"),
    ("s", "square"),
    ("^", "triangle-up"),
    ("D", "diamond"),
    ("v", "triangle-down"),
    ("P", "cross"),
]
DASHES = [("-", "solid"), ((0, (5, 1.5)), "dash"), ((0, (1.2, 1.2)), "dot"), ((0, (5, 1.5, 1.2, 1.5)), "dashdot")]
BASELINES = ["badge", "margin", "entropy", "coreset", "glister", "least_confidence", "fass"]  # in the order of COLOURS
RANDOM = Look("#1A1A1A", "#D8D8D8", "X", (0, (4, 1.6)), "x", "dash")


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for every strategy; depends on the set of names alone, not on their order."""
    names = sorted({str(name) for name in names} - {BASELINE})
    slots = {name: BASELINES.index(name) for name in names if name in BASELINES}
    free = iter([slot for slot in range(len(names) + len(COLOURS)) if slot not in slots.values()])
    slots |= {name: next(free) for name in names if name not in slots}
    return {BASELINE: RANDOM} | {name: _look(slot) for name, slot in slots.items()}


def _look(slot: int) -> Look:
    lap, colour = divmod(slot, len(COLOURS))
    marker, symbol = MARKERS[(colour + lap) % len(MARKERS)]
    dash, stroke = DASHES[lap % len(DASHES)]
    return Look(*COLOURS[colour], marker, dash, symbol, stroke)
