"""Start a stage: forked from this run's server, which has torch imported already, or as a process of its own.

    python -m allround.launch train --dataset ... --identity ...

ends as `python -m allround.stages.train --dataset ... --identity ...` would: same files, same log, same exit code or
signal. `import torch` costs seconds and a fork costs milliseconds, and a study is thousands of stages. The first stage
of a run finds no server, starts one (`allround.fork_server`) in the background and runs as a process of its own; so
does every stage where there is no server to be had: outside a local run, or on platforms other than Linux.

This file imports next to nothing, because it runs once a stage: `socket` alone would double what it costs.
"""

import _socket
import os
import sys
import zlib

RUN = "ALLROUND_RUN"  # set by the Snakefile: <process id of snakemake>-<random>
PATIENCE = 300.0  # seconds to wait for a server that is busy importing


def offer() -> None:
    """Let the stages that this process starts share a server, which ends with this process."""
    os.environ[RUN] = f"{os.getpid()}-{os.urandom(8).hex()}"


def withdraw() -> None:
    """Let the stages that this process starts be processes of their own."""
    os.environ.pop(RUN, None)


def address(environment: dict[str, str]) -> bytes:
    """Name of the server's socket. Abstract: it leaves no file, and is free again when the server ends.

    One server for each interpreter and number of threads, which numerical libraries read when they are imported.
    """
    kind = zlib.crc32(f"{environment.get('OMP_NUM_THREADS')} {sys.executable}".encode())  # names have 107 bytes at most
    return f"\0allround-{environment[RUN]}-{kind:08x}".encode()


def main(stage: str, arguments: list[str]) -> None:
    """Run a stage to its end, somewhere, and end as it did."""
    try:
        status = forked(stage, arguments) if sys.platform == "linux" and os.environ.get(RUN) else None
    except KeyboardInterrupt:
        status = -2  # SIGINT, without a traceback in the stage's log
    if status is None:
        os.execv(sys.executable, [sys.executable, "-m", f"allround.stages.{stage}", *arguments])
    if status < 0:
        die_of(-status)
    os._exit(status)


def die_of(number: int) -> None:
    """End by the signal that ended the stage."""
    import signal

    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def forked(stage: str, arguments: list[str]) -> int | None:
    """Exit status of the stage (negative: killed by that signal), or None if no server ran it to its end."""
    child = 0
    try:
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            connection.connect(address(os.environ))
        except ConnectionRefusedError:
            start_server()
            return None
        if uid_of(connection) != os.getuid():
            return None
        send(connection, request(stage, arguments))
        connection.settimeout(PATIENCE)
        child = receive(connection)
        connection.settimeout(None)
        return receive(connection) if child > 0 else None
    except OSError:  # the server is gone, and the child with it: wait until it is, for both would write the same files
        if child:
            wait_for_end(child)
        return None


def request(stage: str, arguments: list[str]) -> bytes:
    """What the server needs to know: folder, environment, stage and arguments, separated by zero bytes."""
    environment = [b"%b=%b" % pair for pair in os.environb.items()]
    words = [os.fsencode(word) for word in (stage, *arguments)]
    folder = os.getcwdb()  # noqa: PTH109 (pathlib is slow to import)
    return b"\0".join([folder, b"%d" % len(environment), *environment, *words])


def send(connection: _socket.socket, message: bytes) -> None:
    """The message's length, the message and this process's standard streams."""
    streams = b"".join(number.to_bytes(4, sys.byteorder) for number in (0, 1, 2))
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)]
    connection.sendmsg([len(message).to_bytes(8, "little")], ancillary)
    connection.sendall(message)


def receive(connection: _socket.socket) -> int:
    """One number from the server."""
    answer = b""
    while len(answer) < 8:
        part = connection.recv(8 - len(answer))
        if not part:
            raise ConnectionResetError
        answer += part
    return int.from_bytes(answer, "little", signed=True)


def uid_of(connection: _socket.socket) -> int:
    """Who is at the other end; abstract sockets have no permissions."""
    return int.from_bytes(connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)[4:8], sys.byteorder)


def start_server() -> None:
    """Start the server in a session of its own, with nothing of ours open: it must hold no log and no pipe."""
    if os.fork():
        os.wait()
        return
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        for stream in range(3):
            os.close(stream)
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        os.dup2(0, 1)
        os.dup2(0, 2)
        os.closerange(3, 1024)
        os.execv(sys.executable, [sys.executable, "-m", "allround.fork_server"])
    finally:
        os._exit(1)  # whatever fails: the stage is the first process's


def wait_for_end(process: int) -> None:
    """Wait until a process that is dying is gone."""
    import select

    try:
        end = os.pidfd_open(process)
    except OSError:
        return
    select.select([end], [], [], PATIENCE)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
