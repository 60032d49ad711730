"""Kills a process at an exact point of its life, from within: Python imports this file when it starts.

A point is the n-th of Python's audit events: every import, open, rename, removal, lock and subprocess is one, so that
"before the rename of checkpoint.pt" is a number that another run meets again. Only tests put this folder on PYTHONPATH.
A child of the fork server counts from its fork on, and takes its orders from the environment that it was sent.

ALLROUND_FAULT holds JSON:
    who: the stage (or "snakemake") that dies, or causes the death
    record: a folder for lists of the events of every process; or, to kill:
    at: number of the event; delay: seconds after it; victim: "stage", "snakemake", "both" or "server"
    fired: file that is made when the point is met, so that it is met once; it ends in STRUCK if the process lived on
        until it was killed
"""

import json
import os
import signal
import sys
import threading
import time

STRUCK = b" -> killed"
count = 0
out = None  # where the events of this process are listed
fault = None  # what this process has to do, once it is known who it is


def who():
    """The stage that this process runs, or "snakemake", or None as long as a fork does not know."""
    arguments = sys.orig_argv
    if arguments[-1:] == ["allround.fork_server"]:
        identity = sys.argv[sys.argv.index("--identity") + 1] if "--identity" in sys.argv else "{}"
        return json.loads(identity).get("stage") if forked else "server"
    module = next((argument for argument in arguments if argument.startswith("allround.stages.")), "")
    return module.rpartition(".")[2] or ("snakemake" if arguments[1:3] == ["-m", "snakemake"] else "nobody")


def begin_again():
    global count, out, fault, forked
    count, out, fault, forked = 0, None, None, True


def orders():
    """What to do, by the environment as it is now."""
    found = json.loads(os.environ.get("ALLROUND_FAULT", "{}"))
    if "record" in found or found.get("who") == me:
        return found
    return {}


def hook(event, arguments):
    global count, out, fault, me
    if fault is None:
        me = who()
        if me is None:
            return
        fault = orders()
    if not fault:
        return
    count += 1
    if "record" in fault:
        if out is None:
            out = -1  # opening the list is an event as well
            kind = "forked" if forked else "plain"
            out = os.open(f"{fault['record']}/{me}-{kind}-{os.getpid()}", os.O_CREAT | os.O_WRONLY, 0o600)
        if out >= 0:
            os.write(out, f"{event} {arguments!r:.300}".replace("\n", " ").encode(errors="replace") + b"\n")
    elif count == fault["at"]:
        meet(event, arguments)


def meet(event, arguments):
    """The point is reached: leave a mark and strike, now or a little later."""
    try:
        mark = os.open(fault["fired"], os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return
    os.write(mark, f"{'forked' if forked else 'plain'} {event} {arguments!r:.200}".encode(errors="replace"))
    os.close(mark)
    if fault["delay"]:
        threading.Thread(target=later, daemon=True).start()
    else:
        strike()


def later():
    time.sleep(fault["delay"])
    strike()


def strike():
    mark = os.open(fault["fired"], os.O_APPEND | os.O_WRONLY)
    os.write(mark, STRUCK)
    os.close(mark)
    snakemake = int(os.environ.get("ALLROUND_RUN", str(os.getpgid(0))).partition("-")[0])
    server = os.getppid() if forked else None
    if fault["victim"] in ("snakemake", "both") and snakemake != os.getpid():
        os.kill(snakemake, signal.SIGKILL)
    if fault["victim"] == "both":
        if server:
            os.kill(server, signal.SIGKILL)
        os.killpg(snakemake if me != "snakemake" else 0, signal.SIGKILL)
    if fault["victim"] == "server" and server:
        os.kill(server, signal.SIGKILL)
    if fault["victim"] in ("stage", "both") or me == "snakemake":
        os.kill(os.getpid(), signal.SIGKILL)


if os.environ.get("ALLROUND_FAULT"):
    forked, me = False, None
    os.register_at_fork(after_in_child=begin_again)
    sys.addaudithook(hook)
