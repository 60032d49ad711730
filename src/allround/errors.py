"""The one exception that users see: a line that says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AllroundError(Exception):
    """Bad input or a failed run, described in one line for the person who has to mend it.

    One line whatever it quotes: a name from a file may hold line breaks, or codes that a terminal obeys.
    """

    def __init__(self, line: str):
        super().__init__("".join(one if one.isprintable() else ascii(one)[1:-1] for one in line))


def unknown(what: str, name: object, allowed: Iterable[str], where: str = "") -> AllroundError:
    """An unknown name: the error lists what is allowed and the nearest match."""
    allowed = sorted(map(str, allowed))
    near = difflib.get_close_matches(str(name), allowed, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return AllroundError(
        f"{where + ': ' if where else ''}unknown {what} '{name}'.{hint} Allowed: {', '.join(allowed)}."
    )
