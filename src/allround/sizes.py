"""Sizes that have to fit each other; known to the planner and to the stages."""

from __future__ import annotations

from allround.errors import AllroundError


def check_size(where: str, start: int, classes: int, needed: int, size: int) -> None:
    """A seed set as large as the number of classes, and a pool that lasts for all rounds."""
    if start < classes:
        raise AllroundError(
            f"{where}: a seed set of {start} is smaller than the number of classes ({classes}); raise start: size to "
            f"{classes} or more."
        )
    if needed > size:
        raise AllroundError(
            f"{where}: start: size + (rounds - 1) x budget = {needed} labels, but there are only {size} training "
            "examples; lower budget, rounds or start: size."
        )
