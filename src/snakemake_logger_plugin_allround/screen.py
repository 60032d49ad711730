"""Where the progress line goes: one row of a terminal, written over again and again, or lines of a log file."""

from __future__ import annotations

import os
from typing import TextIO

ERASE = "\x1b[K"  # the rest of the row
BELOW = "\x1b[J"  # the rest of the screen


class Screen:
    """The last row of a terminal. On anything else (a file, a pipe, TERM=dumb) `in_place` is false: lines only."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.in_place = stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
        self._shown = ""

    def width(self) -> int | None:
        """Columns that a line may take: one less than there are, so that it never wraps; None where it may be long."""
        if not self.in_place:
            return None
        try:
            return max(os.get_terminal_size(self.stream.fileno()).columns - 1, 1)
        except (OSError, ValueError):
            return 79

    def show(self, text: str) -> None:
        """Put a line into the last row, in place of the one that is there."""
        text = self._plain(text)
        if text != self._shown:
            self.stream.write(f"{self._back()}{text}{ERASE}")
            self.stream.flush()
            self._shown = text

    def clear(self) -> None:
        """Take the line away, so that something else can be printed."""
        if self._shown:
            self.stream.write(f"{self._back()}{ERASE}")
            self.stream.flush()
            self._shown = ""

    def say(self, text: str) -> None:
        """Print a line that stays, above the one in the last row."""
        self.clear()
        self.stream.write(self._plain(text) + "\n")
        self.stream.flush()

    def _back(self) -> str:
        """To the start of the line that is shown, even if the window has become narrower and wrapped it."""
        rows = (max(len(self._shown), 1) - 1) // (self.width() + 1)
        return f"\x1b[{rows}A\r{BELOW}" if rows else "\r"

    def _plain(self, text: str) -> str:
        """Without what the stream cannot encode."""
        coding = getattr(self.stream, "encoding", None) or "utf-8"
        for fancy, plain in (("·", "|"), ("…", "~")):
            try:
                fancy.encode(coding)
            except UnicodeError:
                text = text.replace(fancy, plain)
        return text.encode(coding, "replace").decode(coding)
