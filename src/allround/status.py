"""Where a study stands, seen from outside: rounds done, what runs, when it will end, what failed, what is left.

    python -m allround.status            the study that runs here, else the one that config/config.yaml names
    python -m allround.status <study>    another one, by name or by path

Reads a few small files and changes nothing. Run it where Snakemake runs.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import platform
import sys
import time
from collections import Counter
from pathlib import Path

import psutil

from allround.errors import AllroundError
from allround.layout import START, Cell
from snakemake_logger_plugin_allround import state, words

SNAKEMAKE = Path(".snakemake")
SILENCE = 300.0  # seconds without a sign of life after which a run on another host is dead; clocks differ
NAMED = 6  # strategies whose open rounds are counted one by one


def main() -> None:
    """Print the status of a study; exit with one line where it cannot be told."""
    parser = argparse.ArgumentParser("python -m allround.status", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", nargs="?", help="name under config/studies/ or path; default: see config/config.yaml")
    asked = parser.parse_args().study
    try:
        print(status(asked, time.time()))
    except AllroundError as error:
        sys.exit(f"allround status: {error}")


def status(asked: str | None, now: float) -> str:
    """What there is to say about a study, or about those that run here where none is asked for."""
    lasts = state.read(SNAKEMAKE)
    runs = [last for last in lasts if is_alive(last) and (asked is None or _name(asked) == last["study"])]
    if runs:
        return "\n".join(line for last in runs for line in [words.line(last, now), *_failed(last)])
    from allround import finished, study  # here, because they take longer than all else, and a run tells without them

    found = study.load(study.site(asked), Path(), look=False)
    cells = found.cells()
    done, outdated = finished.cells(found)
    counts = {"study": found.name, "unit": "rounds", "done": len(done), "total": len(cells)}
    line = words.line({**counts, "running": [], "failed": [], "ends": None}, now)
    if len(done) == len(cells):
        report = Path(f"results/studies/{found.name}/report.html")
        lines = [f"{line} · {f'the report: {report}' if report.exists() else 'the report is left to make'}"]
    else:
        silent = is_locked() and not any(is_alive(last) for last in lasts)
        at_work = "a snakemake runs here that was not started with --logger allround" if silent else "not running"
        lines = [f"{line} · {at_work}", f"left: {_left(cells, done)}"]
    if outdated:
        lines.append(f"{words.count(outdated, 'round')} of these made by other settings or code: to be made again")
    last = next((last for last in lasts if last["study"] == found.name), None)
    if last:
        lines += [_last(last), *_failed(last)]
    elif lasts:
        lines.append(f"the last run here was of another study: {lasts[0]['study']}")
    return "\n".join(lines)


def running(study: str) -> str | None:
    """Where a study is being run from this folder, by another process than this: `process 4711 on node3`, or None."""
    for last in state.read(SNAKEMAKE):
        if last["study"] == study and last["pid"] != os.getpid() and is_alive(last):
            return f"process {last['pid']} on {last['host']}"
    return None


def is_alive(last: dict) -> bool:
    """Whether the run of a state file goes on: by its process on this host; elsewhere by its sign of life, while any
    run holds the folder's lock."""
    if last["ended"]:
        return False
    if last["host"] == platform.node():
        try:
            process = psutil.Process(last["pid"])
            return process.create_time() <= last["began"] and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False
    return time.time() - last["updated"] < SILENCE and is_locked()


def is_locked() -> bool:
    """Whether any snakemake is alive in this folder, wherever the folder is seen from."""
    for _ in range(2):  # another who asks holds the lock for a moment
        try:
            with (SNAKEMAKE / "alive").open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            time.sleep(0.05)
        except OSError:
            return False
    return True


def _name(asked: str) -> str:
    """The study's name, of a name or the path of a file; as `study.load` tells them apart."""
    return Path(asked).stem if asked.endswith((".yaml", ".yml")) or "/" in asked else asked


def _left(cells: list[Cell], done: set[Cell]) -> str:
    """Open rounds by strategy, the most first."""
    rounds = Counter("first round" if cell.arm == START else cell.arm.partition("@")[0] for cell in set(cells) - done)
    named = [f"{name} {number}" for name, number in rounds.most_common(NAMED)]
    more = [f"{len(rounds) - NAMED} more strategies"] if len(rounds) > NAMED else []
    return f"{words.count(rounds.total(), 'round')} ({', '.join([*named, *more])})"


def _last(last: dict) -> str:
    """How the last run ended."""
    if not last["ended"]:
        when = words.clock(last["updated"])
        return f"the last run was killed (last sign of life {when}); the same command goes on where it stopped"
    how = f" with {words.count(len(last['failed']), 'failed job')}" if last["failed"] else ""
    verb, rest = "ended", how
    if last.get("interrupted"):
        verb, rest = "was interrupted", f"{how}; the same command goes on where it stopped"
    return f"the last run {verb} {words.clock(last['ended'])}{rest}"


def _failed(last: dict) -> list[str]:
    if not last["failed"]:
        return []
    return ["failed:", *words.failures(last["failed"])]


if __name__ == "__main__":
    main()
