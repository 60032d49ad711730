"""What a user would lose: GPU hours, to jobs that a killed run left in SLURM's queue. (tests/slurm has a real one.)"""

from __future__ import annotations

import pytest

from allround.errors import AllroundError
from allround.slurm import plain_states, queued_jobs, refuse_orphans

RUN = "86d8203d-6053-4f2d-a31f-2ab282852330"


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """Puts a squeue (or another program) on the PATH that runs the given shell commands."""

    def write(script, program="squeue"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        file = tmp_path / "bin" / program
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")

    return write


def test_jobs_of_this_folder_are_refused_with_the_ids_to_cancel(queue, tmp_path):
    jobs = f"7|tiny_{RUN}|{tmp_path}\n8_3|{RUN}|{tmp_path}/\n9|{RUN}|/elsewhere\n10|allround-pilot|{tmp_path}"
    queue(f"cat <<'END'\n{jobs}\nEND")
    assert queued_jobs(tmp_path) == ["7", "8_3"]
    with pytest.raises(AllroundError, match=r"2 SLURM jobs of an earlier.* scancel 7 8_3\. ") as error:
        refuse_orphans(tmp_path)
    assert "\n" not in str(error.value)


def test_a_local_run_where_slurm_was_used_looks_into_its_queue_too(queue, copy):
    """One can go on where the other stopped; not while its jobs are queued, which would make finished results again."""
    (copy.root / "results/digits/tiny/random20/margin@5/seed0/round002/metrics.json").unlink()
    queue(f"echo '7|tiny_{RUN}|{copy.root}'")
    (copy.root / ".snakemake/slurm_logs").mkdir()
    output = copy.snakemake(ok=False)
    assert "1 SLURM job of an earlier, killed run" in output
    assert "Traceback" not in output
    queue("echo 'Unable to contact slurm controller' >&2; exit 1")
    output = copy.snakemake()
    assert "squeue does not answer (Unable to contact slurm controller), so jobs of an earlier run in" in output


def test_an_empty_queue_refuses_nothing(queue, tmp_path):
    queue("true")
    refuse_orphans(tmp_path)


def test_a_queue_that_does_not_answer_is_no_empty_queue(queue, tmp_path):
    queue("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(AllroundError, match=r"squeue does not answer \(.*Unable to contact slurm controller\)"):
        refuse_orphans(tmp_path)


def test_a_cancelled_job_is_not_waited_for_and_one_killed_for_memory_is_called_so(queue):
    queue("echo '2|FAILED'; echo '2.0|OUT_OF_MEMORY'; echo '3|FAILED'; echo '3.batch|FAILED'", program="sacct")
    states = {"1": "CANCELLED by 1000", "2": "FAILED", "3": "FAILED", "4": "RUNNING"}
    assert plain_states(states) == {"1": "CANCELLED", "2": "OUT_OF_MEMORY", "3": "FAILED", "4": "RUNNING"}


def test_without_an_answer_of_sacct_a_failed_job_is_still_failed(queue):
    queue("exit 1", program="sacct")
    assert plain_states({"2": "FAILED"}) == {"2": "FAILED"}
