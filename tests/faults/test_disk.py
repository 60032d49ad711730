"""What a user would lose: results to a full disk, or an hour to finding out that it was one."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from allround import artifacts
from faults import kills

SEED = int(os.environ.get("ALLROUND_SEED", "0"))
POINTS = 8 if os.environ.get("ALLROUND_KILLS") else 2
PAGE = 4096
stages = pytest.mark.parametrize("stage", kills.OUTPUTS)


def mount(*arguments: str) -> None:
    """Mount something, or skip the test with the reason why it cannot be."""
    if os.getuid() != 0:
        pytest.skip("mounting needs root")
    result = subprocess.run(["mount", *arguments], text=True, capture_output=True, check=False)
    if result.returncode != 0:
        pytest.skip(f"cannot mount here: {result.stderr.strip()}")


@pytest.fixture
def small(work, tmp_path):
    """The finished study on a disk of its own, of 24 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk))
    shutil.move(work.root, disk / "work")
    yield type(work)(disk / "work")
    kills.kill_all(disk / "work")
    kills.wait_until_quiet(disk / "work")
    subprocess.run(["umount", str(disk)], check=True)


def leave_free(root: Path, pages: int) -> None:
    """Fill the disk but for some pages. Whoever still writes there meanwhile makes it start again."""
    for attempt in range(20):
        (root / "ballast").write_bytes(b"")
        free = os.statvfs(root).f_bavail - pages
        try:
            (root / "ballast").write_bytes(bytes(free * PAGE))
        except OSError:
            assert attempt < 19
            time.sleep(0.1)
        else:
            return


def size(path: Path) -> int:
    """Pages of a file or a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(-(-file.stat().st_size // PAGE) for file in files)


@stages
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(stage, small, reference):
    root, rng = small.root, random.Random(f"{SEED} {stage}")
    need = sum(size(root / name) for name in kills.OUTPUTS[stage])
    log = root / reference.commands[stage].split(" > ")[1].split()[0]
    full = 0
    with kills.idle_run() as run:
        for pages in [1, 0, *(rng.randint(1, need) for _ in range(POINTS - 2))]:
            kills.remove(root, stage)
            log.unlink()
            leave_free(root, pages)
            result = kills.stage(small, reference.commands[stage], None, run)
            where = f"{stage}, {pages} of {need} pages free"
            wrong = kills.differences(kills.contents(root), reference.files)
            halves = [name for name in wrong if (root / name).exists() and not name.endswith(".resume")]
            assert halves == [], where
            if result.returncode:
                full += 1
                said = log.read_text(errors="replace")
                assert "the disk is full" in said or (pages <= 1 and not said), f"{where}: {said}"  # no room for it
                assert "Traceback" not in said, f"{where}: {said}"
            (root / "ballast").unlink()
            again = kills.stage(small, reference.commands[stage], None, run)
            assert again.returncode == 0, log.read_text()
            assert kills.differences(kills.contents(root), reference.files) == [], where
    assert full


def test_snakemake_on_a_full_disk_says_so_and_goes_on_once_there_is_space(small, reference):
    target, full = kills.OUTPUTS["train"][0], 0
    for pages in (0, 2, 6):
        kills.remove(small.root, "train")
        leave_free(small.root, pages)
        first = kills.snakemake(small, target)
        (small.root / "ballast").unlink()
        if first.returncode:
            full += 1
            assert "the disk of results/ is full" in first.stdout, first.stdout
            assert "the same command goes on" in first.stdout, first.stdout
        again = kills.snakemake(small, target)
        assert again.returncode == 0, f"{first.stdout}\n{again.stdout}"
        assert kills.differences(kills.contents(small.root), reference.files) == []
    assert full


@stages
def test_read_only_results_are_one_line(stage, work, reference):
    results = work.root / "results"
    mount("--bind", str(results), str(results))
    try:
        kills.remove(work.root, stage)
        mount("-o", "remount,ro,bind", str(results))
        command, log = reference.commands[stage].split(" > ")[0], work.root / "stage.log"
        with kills.idle_run() as run:
            result = kills.stage(work, f"{command} > {log} 2>&1", None, run)
        said = log.read_text()
        assert result.returncode == 1
        assert "no permission to write" in said and "results/" in said and "Traceback" not in said, said
    finally:
        subprocess.run(["umount", str(results)], check=True)
    with kills.idle_run() as run:
        assert kills.stage(work, reference.commands[stage], None, run).returncode == 0
    assert kills.differences(kills.contents(work.root), reference.files) == []


def test_snakemake_over_read_only_results_says_so(work, reference):
    results = work.root / "results"
    mount("--bind", str(results), str(results))
    try:
        kills.remove(work.root, "label")
        mount("-o", "remount,ro,bind", str(results))
        first = kills.snakemake(work, kills.OUTPUTS["label"][0])
    finally:
        subprocess.run(["umount", str(results)], check=True)
    assert first.returncode != 0
    assert "Read-only file system" in first.stdout or "no permission to write" in first.stdout, first.stdout
    assert kills.snakemake(work, kills.OUTPUTS["label"][0]).returncode == 0
    assert kills.differences(kills.contents(work.root), reference.files) == []


@pytest.mark.parametrize("pages", [0, 1, 2, 3, 6, 12, 18, 19, 20, 25, 30])
def test_a_disk_too_full_for_hdf5_leaves_no_broken_file(pages, tmp_path):
    """HDF5 keeps some failed writes to itself, and crashes on others: in a process of its own, and read afterwards."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk))
    try:
        leave_free(disk, pages)
        path, tests = disk / "outputs.h5", Path(__file__).parents[1]
        code = (
            f"import sys; sys.path.insert(0, {str(tests)!r}); from pathlib import Path\n"
            "import numpy as np; import test_artifacts as made; from allround import artifacts\n"
            f"with artifacts.create_view(Path({str(path)!r}), 'outputs', rows=300, fields={{'features': (16,)}},"
            " dtypes={'features': 'float16'}, identity=made.IDENTITY, digest='d') as out:\n"
            "    out.write(0, features=np.ones((300, 16)))"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (result.returncode == 0) == path.exists(), result.stderr
        if path.exists():
            assert artifacts.open_view(path).read("features").sum() == 4800
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
