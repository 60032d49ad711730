"""Kills a process at an exact point of its life, from within: Python imports this file when it starts.

A point is the n-th of Python's audit events: every import, open, rename, removal, lock and subprocess is one, so that
"before the rename of checkpoint.pt" is a number that another run meets again. Only tests put this folder on PYTHONPATH.

ALLROUND_FAULT holds JSON:
    who: the stage that dies, or triggers the death of its snakemake, or "snakemake"
    record: file to list the process's events in, or, to kill
    at: number of the event; delay: seconds after it; victim: "stage", "snakemake" or "both"
    fired: file that is made when the kill happens, so that it happens once
"""

import json
import os
import signal
import sys
import threading
import time


def role():
    """The stage that this process runs, or "snakemake", or nothing that matters."""
    arguments = sys.orig_argv
    for argument in arguments:
        if argument.startswith("allround.stages."):
            return argument.rpartition(".")[2]
    return "snakemake" if arguments[1:3] == ["-m", "snakemake"] else None


def recorder(path):
    out = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)

    def record(event, arguments):
        os.write(out, f"{event} {arguments!r:.300}".replace("\n", " ").encode(errors="replace") + b"\n")

    return record


def killer(fault):
    seen = 0

    def count(event, arguments):
        nonlocal seen
        seen += 1
        if seen != fault["at"]:
            return
        try:
            mark = os.open(fault["fired"], os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return
        os.write(mark, f"{event} {arguments!r:.200}".encode(errors="replace"))
        os.close(mark)
        if fault["delay"]:
            threading.Thread(target=later, daemon=True).start()
        else:
            strike()

    def later():
        time.sleep(fault["delay"])
        strike()

    def strike():
        if fault["victim"] == "both":
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpgid(0) if fault["victim"] == "snakemake" else os.getpid(), signal.SIGKILL)

    return count


if os.environ.get("ALLROUND_FAULT"):
    _fault = json.loads(os.environ["ALLROUND_FAULT"])
    if role() == _fault["who"]:
        sys.addaudithook(recorder(_fault["record"]) if "record" in _fault else killer(_fault))
