"""What a user would lose if a forked stage were not the stage: results, causes of failures, or control of a run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from allround.artifacts import identity_of
from allround.launch import RUN, address

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fork server needs Linux")
SOURCE = Path(__file__).parents[1] / "src"
FORKED = [sys.executable, "-m", "allround.launch"]
PLAIN = [sys.executable, "-m"]
SLEEPER = "import time\nprint('begun', flush=True)\ntime.sleep(1000)\n"


def until(condition, seconds=600):
    """Wait until condition() holds; return what it gave."""
    limit = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)
    return found


class Run:
    """A run whose 'snakemake' is a process that sleeps, over a copy of the package with stages of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        package = folder / "src/allround"
        (package / "stages").mkdir(parents=True)
        for path in SOURCE.joinpath("allround").iterdir():
            if path.name not in ("stages", "__pycache__"):
                (package / path.name).symlink_to(path)
        for path in SOURCE.joinpath("allround/stages").glob("*.py"):
            (package / "stages" / path.name).symlink_to(path)
        self.snakemake = subprocess.Popen(["sleep", "100000"])
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(folder / "src"),
            "PYTHONDONTWRITEBYTECODE": "1",  # a stage is written anew faster than the bytecode of the last one ages
            RUN: f"{self.snakemake.pid}-{os.urandom(4).hex()}",
        }

    def stage(self, name: str, text: str) -> None:
        (self.folder / f"src/allround/stages/{name}.py").write_text(text)

    def start(self, name: str, *arguments: str, **options: object) -> subprocess.Popen:
        settings = {"cwd": self.folder, "env": self.environment, "text": True, **options}
        return subprocess.Popen([*FORKED, name, *arguments], **settings)

    def end(self, name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        """Run a stage to its end."""
        return subprocess.run(
            [*FORKED, name, *arguments], cwd=self.folder, env={**self.environment, **environment}, text=True,
            capture_output=True, check=False,
        )  # fmt: skip

    def servers(self) -> list[psutil.Process]:
        """The servers of this run, ready or not; their children look like them."""
        mine, parents = {}, {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # it may end at any moment, and its environment is empty then
                if (
                    process.cmdline()[-1:] == ["allround.fork_server"]
                    and process.environ().get(RUN) == self.environment[RUN]
                ):
                    parents[process.pid] = process.ppid()
                    mine[process.pid] = process
        return [process for pid, process in mine.items() if parents[pid] not in mine]

    def ready(self) -> psutil.Process:
        """Start the server, and wait until it forks stages."""
        self.stage("parent", "import os\nprint(os.getppid())\n")
        until(lambda: self.end("parent").stdout.strip() != str(os.getpid()))
        (server,) = self.servers()
        return server

    def close(self) -> None:
        self.snakemake.kill()
        self.snakemake.wait()
        for process in self.servers():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.fixture
def run(tmp_path):
    one = Run(tmp_path)
    yield one
    one.close()


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A run whose server is there already."""
    one = Run(tmp_path_factory.mktemp("run"))
    one.ready()
    yield one
    one.close()


def gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("print('done')", 0),
        ("import sys\nprint('no', file=sys.stderr)\nsys.exit(7)", 7),
        ("raise SystemExit('allround x: one line')", 1),
        ("import sys\nsys.exit(-1)", 255),
        ("1 / 0", 1),
        ("import nothing_of_this_name", 1),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("import os\nos.abort()", -signal.SIGABRT),
        ("import sys, os\nprint(sys.argv[1:], os.environ['X'], os.getcwd(), __name__, len(sys.stdin.read()))", 0),
    ],
)
def test_a_forked_stage_prints_and_ends_as_a_process_of_its_own_does(ready, text, status):
    (server,) = ready.servers()
    ready.stage("mine", text)
    ready.environment["X"] = "a b\nc"
    options = {"cwd": ready.folder, "env": ready.environment, "text": True, "capture_output": True, "input": "four"}
    plain = subprocess.run([*PLAIN, "allround.stages.mine", "a b", "", "c"], check=False, **options)
    forked = subprocess.run([*FORKED, "mine", "a b", "", "c"], check=False, **options)
    assert forked.returncode == plain.returncode == status
    assert forked.stdout == plain.stdout
    lines = forked.stderr.splitlines()
    assert lines[-1:] == plain.stderr.splitlines()[-1:]
    assert not any("fork_server" in line for line in lines)
    assert server.is_running()


def test_the_first_stage_waits_for_no_server_and_the_next_ones_share_one(run):
    run.stage("mine", "import os, sys\nprint(os.getppid(), 'torch' in sys.modules)")
    first = run.end("mine").stdout.split()
    assert first == [str(os.getpid()), "False"]
    until(lambda: run.end("mine").stdout.split()[1] == "True")
    parents = {run.end("mine").stdout.split()[0] for _ in range(3)}
    assert parents == {str(run.servers()[0].pid)}


def test_a_bug_keeps_its_traceback(ready):
    ready.stage("mine", "def broken():\n    1 / 0\n\nbroken()\n")
    error = ready.end("mine").stderr
    assert "in broken" in error
    assert error.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killing_who_asked_for_a_stage_kills_the_stage(ready, number):
    (server,) = ready.servers()
    ready.stage("mine", SLEEPER)
    asked = ready.start("mine", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert asked.stdout.readline() == "begun\n"
    child = server.children()[0]
    asked.send_signal(number)
    assert asked.wait() != 0
    until(lambda: gone(child))
    assert ready.end("parent").stdout.strip() == str(server.pid)


def test_a_killed_server_takes_its_stages_along_and_they_run_as_processes_of_their_own(run):
    server = run.ready()
    run.stage(
        "mine", "import os, time\nprint(os.getppid(), flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)"
    )
    asked = run.start("mine", stdout=subprocess.PIPE)
    assert asked.stdout.readline().strip() == str(server.pid)
    child = server.children()[0]
    server.kill()
    assert asked.stdout.readline().strip() == str(os.getpid())
    assert gone(child)
    (run.folder / "go").touch()
    assert asked.wait() == 0
    assert run.ready().pid != server.pid


def test_the_server_ends_with_its_run_but_not_before_its_last_stage(run):
    server = run.ready()
    run.stage(
        "mine",
        "import os, time\nprint('begun', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)\nprint('done')",
    )
    asked = run.start("mine", stdout=subprocess.PIPE)
    assert asked.stdout.readline() == "begun\n"
    run.snakemake.kill()
    run.snakemake.wait()
    time.sleep(0.5)
    assert server.is_running()
    (run.folder / "go").touch()
    assert asked.communicate()[0] == "done\n"
    assert asked.returncode == 0
    until(lambda: gone(server))


def test_a_lock_on_the_log_is_held_by_the_stage_and_not_by_the_server(ready):
    ready.stage(
        "mine", "import fcntl\nfcntl.flock(1, fcntl.LOCK_EX | fcntl.LOCK_NB)\nprint('mine', flush=True)\ninput()"
    )
    with (ready.folder / "log").open("w") as log:
        asked = ready.start("mine", stdout=log, stdin=subprocess.PIPE)
    until(lambda: (ready.folder / "log").read_text() == "mine\n")
    with (ready.folder / "log").open("a") as log:
        with pytest.raises(BlockingIOError):
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        asked.communicate("\n")
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_who_is_gone_again_does_not_take_the_server_along(ready):
    (server,) = ready.servers()
    for words in (b"", b"\x09", (99).to_bytes(8, "little") + b"x"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(address(ready.environment))
            connection.send(words) if words else None
    assert ready.end("parent").stdout.strip() == str(server.pid)


def test_an_end_and_a_farewell_at_the_same_time_do_not_take_the_server_along(ready):
    (server,) = ready.servers()
    ready.stage("mine", SLEEPER)
    asked = ready.start("mine", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert asked.stdout.readline() == "begun\n"
    child = server.children()[0]
    server.suspend()
    child.kill()
    asked.kill()
    asked.wait()
    server.resume()
    assert ready.end("parent").stdout.strip() == str(server.pid)


def test_without_a_run_or_with_other_threads_nothing_is_shared(ready):
    (server,) = ready.servers()
    environment = {**ready.environment}
    del ready.environment[RUN]
    assert ready.end("parent").stdout.strip() == str(os.getpid())
    ready.environment = environment
    assert ready.end("parent", OMP_NUM_THREADS="7").stdout.strip() != str(server.pid)
    assert address({**environment, "OMP_NUM_THREADS": "7"}) != address({**environment, "OMP_NUM_THREADS": "1"})


def test_a_training_writes_the_same_bytes_forked_or_not(ready, finished):
    cell = finished.root / "results/digits/tiny/random20/margin@5/seed0/round001"
    identity = identity_of(cell / "metrics.json")
    found = []
    for command in ([*FORKED, "train"], [*PLAIN, "allround.stages.train"]):
        out = ready.folder / str(len(found))
        out.mkdir()
        files = {"dataset": finished.root / "results/datasets/digits.h5", "labels": cell / "labels.csv"}
        files |= {"checkpoint": out / "checkpoint.pt", "metrics": out / "metrics.json"}
        flags = [f"--{name}={path}" for name, path in files.items()]
        done = subprocess.run(
            [*command, *flags, "--identity", identity],
            env=ready.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.append([done.stdout, *(path.read_bytes() for path in sorted(out.iterdir()))])
    assert found[0][1:] == found[1][1:]
    assert (cell / "metrics.json").read_bytes() in found[0]
