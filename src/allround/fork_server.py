"""The server behind `allround.launch`: it has the imports done, and forks a child for every stage of one run.

It has one thread, computes nothing and leaves CUDA alone, so that its children start from a clean state. It ends with
the snakemake that it serves, or when nothing has run for a while (the next stage starts another). What holds for a
process of its own holds for its children: if whoever asked for a stage is killed, so is the stage; if the server is
killed, so are its children, and whoever asked runs the stage itself.
"""

from __future__ import annotations

import array
import ctypes
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module

from allround.launch import RUN, address, uid_of

IDLE = 60.0  # seconds without a stage, after which the server ends
ROUND = ("seed_set", "train", "embed", "query", "label")  # the stages that run over and over
LIBRARIES = {"resnet18": "torchvision.models", "torchvision": "torchvision.models", "timm": "timm"}  # of architectures
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


@dataclass(frozen=True)
class Request:
    """A stage to run: where, and with which environment, arguments and standard streams."""

    folder: bytes
    environment: dict[bytes, bytes]
    stage: str
    arguments: list[str]
    streams: list[int]


@dataclass(frozen=True)
class Job:
    """A child, and the connection of who waits for it."""

    process: int
    connection: socket.socket


def serve() -> Request | None:
    """Serve until the run is over. Returns None then, and in every child what it is to run."""
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as events:
        try:
            listener.bind(address(os.environ))
            run = os.pidfd_open(int(os.environ[RUN].partition("-")[0]))
        except OSError:  # another stage has just started a server, or the run is over already
            return None
        listener.listen(1024)
        added = prepare()
        events.register(listener, selectors.EVENT_READ, "request")
        events.register(run, selectors.EVENT_READ, "over")
        jobs: dict[int, Job] = {}  # file descriptor of the process -> job
        over = False
        while jobs or not over:
            ready = events.select(None if jobs else IDLE)
            if not ready:
                return None
            for key, _ in ready:
                if key.data == "request":
                    connection, _ = listener.accept()
                    request = read(connection)
                    job = request and fork(request, connection)
                    if job and job.process == 0:
                        for file in (run, *jobs, *(other.connection.detach() for other in jobs.values())):
                            os.close(file)
                        return replace(request, environment={**added, **request.environment})
                    if job:
                        process = os.pidfd_open(job.process)
                        jobs[process] = job
                        events.register(process, selectors.EVENT_READ, "ended")
                        events.register(connection, selectors.EVENT_READ, job)
                elif key.data == "over":
                    over = True
                    events.unregister(run)
                elif key.data == "ended":
                    report(jobs.pop(key.fd), key.fd, events)
                elif key.data in jobs.values():  # who asked for this job has gone
                    os.kill(key.data.process, signal.SIGKILL)
                    events.unregister(key.fileobj)
    return None


def prepare() -> dict[bytes, bytes]:
    """Import what the stages of a round import, but for their own modules, which each child runs as its main one.

    Returns the environment variables that the imports have set.
    """
    before = dict(os.environb)
    from allround import strategies, views  # after the socket listens: whoever comes waits for the imports

    names = [f"allround.stages.{stage}" for stage in ROUND]
    names += [f"allround.strategies.{name}" for name in strategies.names()]
    names += [views.module(name) for name in views.names()]
    names += ["allround.learners.model"]
    for name in names:
        bring(name)
    for stage in ROUND:
        sys.modules.pop(f"allround.stages.{stage}", None)
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page that it looks at
    return {name: value for name, value in os.environb.items() if before.get(name) != value}


def bring(module: str) -> None:
    """Import a module; an error in it is for the stage that needs it to tell."""
    with suppress(Exception):
        import_module(module)


def read(connection: socket.socket) -> Request | None:
    """What a stage's starter asks for; None from strangers, and from one that is gone again."""
    connection.settimeout(5)
    streams: list[int] = []
    try:
        if uid_of(connection) != os.getuid():
            raise PermissionError
        length, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_LEN(12))
        for _, _, numbers in ancillary:
            streams += array.array("i", numbers).tolist()
        rest, message = int.from_bytes(length, "little"), b""
        while len(message) < rest:
            part = connection.recv(rest - len(message))
            if not part:
                raise ConnectionResetError
            message += part
        connection.settimeout(None)
        folder, count, *words = message.split(b"\0")
        environment = dict(word.split(b"=", 1) for word in words[: int(count)])
        stage, *arguments = map(os.fsdecode, words[int(count) :])
        return Request(folder, environment, stage, arguments, streams)
    except (OSError, ValueError):
        for stream in streams:
            os.close(stream)
        connection.close()
        return None


def fork(request: Request, connection: socket.socket) -> Job | None:
    """Fork a child and tell who asked its process id; in the child, Job.process is 0. None where that failed."""
    if request.stage == "train":
        with suppress(ValueError, LookupError, AttributeError):
            identity = json.loads(request.arguments[request.arguments.index("--identity") + 1])
            bring(LIBRARIES[identity["settings"]["architecture"].partition(":")[0]])
    server = os.getpid()
    try:
        process = os.fork()
    except OSError:  # no memory, or too many processes: closing the connection says that this one is on its own
        process = -1
    if process == 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != server:
            os._exit(1)
        connection.close()
        return Job(0, connection)
    for stream in request.streams:
        os.close(stream)
    if process < 0:
        connection.close()
        return None
    tell(connection, process)
    return Job(process, connection)


def report(job: Job, file: int, events: selectors.BaseSelector) -> None:
    """Tell who asked how the child ended."""
    events.unregister(file)
    os.close(file)
    with suppress(KeyError):  # who asked has gone
        events.unregister(job.connection)
    _, status = os.waitpid(job.process, 0)
    tell(job.connection, os.waitstatus_to_exitcode(status))
    job.connection.close()


def tell(connection: socket.socket, number: int) -> None:
    with suppress(OSError):
        connection.sendall(number.to_bytes(8, "little", signed=True))


def run(request: Request) -> None:
    """Be the process that `python -m allround.stages.<stage>` would have been, to its end."""
    for number, stream in enumerate(request.streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request.folder)
    os.environb.clear()
    os.environb.update(request.environment)
    sys.argv[1:] = request.arguments
    code = 0
    try:
        runpy.run_module(f"allround.stages.{request.stage}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, int) or end.code is None:
            code = (end.code or 0) & 0xFF
        else:
            print(end.code, file=sys.stderr)
            code = 1
    except BaseException as error:
        traceback.print_exception(error.with_traceback(error.__traceback__.tb_next))
        code = 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = 120  # as the interpreter says it
    os._exit(code)  # taking torch down costs a child more than a second


if __name__ == "__main__":
    if request := serve():
        run(request)
