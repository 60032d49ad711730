"""Why a job failed, from its log and from what Snakemake knows of its end."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

CAUSE = re.compile(r"^allround [a-z_]+: ")
EXIT = re.compile(r"returned non-zero exit status (\d+)|died with <Signals\.(\w+)")


def cause_in(logs: Sequence[str]) -> str | None:
    """The line in which a stage says why it failed, the last one in its logs; None for a bug or a kill."""
    for log in logs:
        for text in reversed(_lines(log)):
            if CAUSE.match(text):
                return text
    return None


def last_words(logs: Sequence[str], message: str) -> str:
    """What is known of a failure without such a line: how the process ended, and the last line of its log."""
    found = EXIT.search(message)
    status, signal = (found[1], found[2]) if found else (None, None)
    if signal == "SIGKILL" or status == "137":
        return "killed: by hand, or because memory ran out"
    written = [text for log in logs for text in _lines(log) if text.strip()]
    how = f"exit status {status}" if status else (signal or "no exit status")
    return written[-1].strip() if written else f"{how}, and nothing in its log"


def told(head: str, logs: Sequence[str], message: str, aux: Mapping[str, object] | None, whole: bool) -> str:
    """What is printed of a failure: the names of its logs, then the cause, or all that is known where there is none.

    aux: what an executor adds (a cluster's job id); whole: print logs without a cause in full
    """
    lines = [f"{head}{'; log: ' + ', '.join(logs) if logs else ''}"]
    if causes := list(dict.fromkeys(filter(None, (cause_in([log]) for log in logs)))):
        lines += causes
    else:
        from snakemake.logging import show_logs  # imports this plugin

        lines += [last_words(logs, message), *(text for log in logs if whole for text in show_logs([log]))]
    return "\n".join([*lines, *(f"{key}: {value}" for key, value in (aux or {}).items())])


def _lines(log: str) -> list[str]:
    try:
        return Path(log).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
