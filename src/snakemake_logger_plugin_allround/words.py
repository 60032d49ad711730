"""The words of the progress line. Nothing here knows Snakemake or a terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

SHOWN = 3  # running jobs that a line names where its width is not limited


def line(progress: dict, now: float, width: int | None = None) -> str:
    """One line of how far a run is: rounds done, what runs, when it will end.

    progress: as in the state file (see `run.Run.progress`); width: cut to so many characters, leaving out the jobs that
        started last, then the percentage, the time of day, and all jobs but their number
    """
    head = f"{progress['study']}  {done(progress)}"
    share = [f"{math.floor(100 * progress['done'] / progress['total'])} %"] if progress["total"] else []
    running = [job["name"] for job in progress["running"]]
    many = progress.get("running_count", len(running))  # of many, the state names the first
    failed = [f"{len(progress['failed'])} failed"] if progress["failed"] else []
    ends = end(progress["ends"], now) if progress["ends"] else ""
    brief = ends.partition(",")[0]
    for parts, last in ((share, ends), ([], ends), ([], brief)):
        for shown in range(len(running) if width else min(SHOWN, len(running)), 0, -1):
            more = [f"+{many - shown} more"] if shown < many else []
            text = _joined(head, *parts, ", ".join([*running[:shown], *more]), *failed, last)
            if not width or len(text) <= width:
                return text
    number = f"{many} running" if running else ""
    texts = [_joined(head, *share, number, *failed, ends), _joined(head, number, *failed, ends)]
    texts += [_joined(head, number, *failed, brief), _joined(head, *failed, brief)]
    return next((text for text in texts if not width or len(text) <= width), cut(texts[-1], width or 0))


def _joined(*parts: str) -> str:
    return " · ".join(filter(None, parts))


def done(progress: dict) -> str:
    """How much is done: rounds where the workflow has rounds, else jobs."""
    finished, total, what = progress["done"], progress["total"], progress["unit"]
    return f"{finished} of {total} {what}"


def end(ends: float, now: float) -> str:
    """'3 min left, ends 14:32'."""
    return f"{span(max(ends - now, 1), coarse=True)} left, ends {clock(ends, now)}"


def clock(when: float, now: float | None = None) -> str:
    """A time of day, with the day where it is not today's."""
    now = time.time() if now is None else now
    today = time.strftime("%j %Y", time.localtime(when)) == time.strftime("%j %Y", time.localtime(now))
    shape = "%H:%M" if today else ("%a %H:%M" if abs(when - now) < 6 * 86400 else "%d %b %H:%M")
    return time.strftime(shape, time.localtime(when))


def span(seconds: float, coarse: bool = False) -> str:
    """A length of time for people: 8 s, 40 s, 3 min, 2 h 10 min, 4 d 3 h; finer than a coarse one: 2 min 8 s."""
    if seconds < 60:
        return f"{max(1, math.ceil(seconds / 10) * 10 if coarse and seconds > 15 else round(seconds))} s"
    if seconds < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes + (rest >= 30)} min" if coarse or not rest else f"{minutes} min {rest} s"
    minutes = round(seconds / 60)
    if coarse:
        minutes = round(minutes, -1) if minutes >= 120 else 5 * round(minutes / 5)
    if minutes < 1440:
        return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h" if hours % 24 else f"{hours // 24} d"


def count(number: int, word: str) -> str:
    """'1 job', '2 jobs'."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def cut(text: str, width: int) -> str:
    """Text of at most so many characters."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"[:width]


def failures(failed: Sequence[dict], most: int = 10) -> list[str]:
    """Two lines a failed job: its name and cause, its log."""
    lines = []
    for job in failed[:most]:
        lines.append(f"  {job['name']}: {job['cause']}")
        lines += [f"    log: {log}" for log in job["logs"]]
    return [*lines, *([f"  and {len(failed) - most} more"] if len(failed) > most else [])]
