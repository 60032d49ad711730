"""What the figures and the charts of the page have in common: titles, limits and ticks of their axes."""

from __future__ import annotations

import numpy as np
import pandas as pd


def title(group: dict) -> str:
    """A group's name for readers: 'digits · mlp · random20 + 20 a round'."""
    return "{dataset} · {learner} · {start} + {budget:,} a round".format(**group)


def gain_limits(line: pd.DataFrame) -> tuple[float, float]:
    """Limits of an axis of differences: all means, and intervals up to a point (of two seeds they are enormous)."""
    means = line["gain"].to_numpy(float)
    means = means[np.isfinite(means)]
    low, high = (min(means.min(), 0), max(means.max(), 0)) if len(means) else (0, 0)
    span = max(high - low, 0.01)
    floor, ceiling = np.nanmin([low, line["gain_low"].min()]), np.nanmax([high, line["gain_high"].max()])
    return max(floor, low - 0.8 * span) - 0.06 * span, min(ceiling, high + 0.8 * span) + 0.06 * span


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
