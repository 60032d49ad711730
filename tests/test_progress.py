"""What a user would lose: knowing how far a run is, when it ends, and why something failed."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import os
import platform
import pty
import random
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yte
from conftest import REPOSITORY
from snakemake_interface_logger_plugins.common import LogEvent
from test_resume import wait_for

from allround import status
from snakemake_logger_plugin_allround import handler as handlers
from snakemake_logger_plugin_allround import state, words
from snakemake_logger_plugin_allround.forecast import Durations
from snakemake_logger_plugin_allround.handler import LogHandler
from snakemake_logger_plugin_allround.plan import Job, Plan, name
from snakemake_logger_plugin_allround.run import Run
from snakemake_logger_plugin_allround.watch import places

CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
SETTINGS = SimpleNamespace(
    printshellcmds=False, nocolor=False, quiet=None, debug_dag=False, verbose=False, show_failed_logs=True,
    stdout=False, dryrun=False,
)  # fmt: skip


# --- the line ---------------------------------------------------------------------------------------------------------


def progress(running=(), failed=(), ends=None, done=23):
    return {
        "study": "quickstart", "unit": "rounds", "done": done, "total": 57, "ends": ends,
        "running": [{"name": job, "since": 0} for job in running], "failed": list(failed),
    }  # fmt: skip


def test_the_line_says_rounds_jobs_and_the_end():
    now = time.mktime((2026, 11, 22, 14, 29, 0, 0, 0, -1))
    jobs = ["train margin seed 1 round 3", "embed badge seed 0 round 2"]
    assert words.line(progress(jobs, ends=now + 181), now) == (
        "quickstart  23 of 57 rounds · 40 % · train margin seed 1 round 3, embed badge seed 0 round 2 · "
        "3 min left, ends 14:32"
    )
    assert "left" not in words.line(progress(jobs), now)
    assert "2 failed" in words.line(progress(failed=[{}, {}]), now)
    assert words.line(progress(done=56), now).startswith("quickstart  56 of 57 rounds · 98 %")
    assert "· 99 %" in words.line({**progress(done=569), "total": 570}, now)  # 100 only when all are done


def test_on_a_narrow_terminal_the_line_names_fewer_jobs_and_is_cut_not_wrapped():
    now, jobs = 0.0, [f"train margin seed {seed} round 3" for seed in range(12)]
    for width in range(1, 500):
        line = words.line(progress(jobs, ends=180), now, width)
        assert len(line) <= width
        if "margin" in line:
            assert "3 min left" in line
    assert "+10 more" in words.line(progress(jobs, ends=180), now, 140)
    assert words.line(progress(jobs[:2], ends=180), now, 79) == (
        "quickstart  23 of 57 rounds · train margin seed 0 round 3, +1 more · 3 min left"
    )
    assert words.line(progress(jobs, ends=180), now, 60) == "quickstart  23 of 57 rounds · 12 running · 3 min left"
    assert words.line(progress(jobs), now).endswith("train margin seed 2 round 3, +9 more")


def test_lengths_of_time_are_no_finer_than_what_is_known():
    coarse = {8: "8 s", 41: "50 s", 61: "1 min", 3500: "58 min", 7700: "2 h 10 min", 90000: "1 d 1 h", 86400: "1 d"}
    assert {seconds: words.span(seconds, coarse=True) for seconds in coarse} == coarse
    assert words.span(128) == "2 min 8 s"


def test_a_job_has_the_name_that_people_use():
    cell = {"dataset": "digits", "learner": "mlp", "start": "random20", "arm": "margin@20", "seed": "1", "round": "003"}
    assert name("train", cell) == "train margin seed 1 round 3"
    assert name("train", {**cell, "arm": "start", "round": "000"}) == "train seed 1 round 0"
    assert name("train_member", {**cell, "member": "2"}) == "train margin seed 1 round 3 member 2"
    assert name("embed", {**cell, "view": "mc_dropout10"}) == "embed margin seed 1 round 3 mc_dropout10"
    assert name("query", cell, frozenset({"dataset"})) == "query digits margin seed 1 round 3"
    assert name("dataset", {"dataset": "digits"}) == "dataset digits"
    assert name("report", {}) == "report"


# --- the end ----------------------------------------------------------------------------------------------------------


def study(arms, rounds, start=20, budget=20, chained=True):
    """A plan like allround's: a shared round 0, then for every arm embed -> query -> label -> train, and the report."""
    jobs, last = {}, 0

    def add(rule, *needs, labels=0, what=""):
        jobs[len(jobs)] = Job(rule, (rule, "digits", "mlp", what), labels, needs)
        return len(jobs) - 1

    data = add("dataset")
    first = add("train", add("seed_set", data), labels=start)
    shared = add("embed", first, labels=start)
    trained = [first]
    for arm in range(arms):
        view = shared
        for number in range(1, rounds):
            query = add("query", view if chained else data, labels=start + (number - 1) * budget, what=f"arm{arm}")
            last = add("train", add("label", query), labels=start + number * budget)
            trained.append(last)
            if number < rounds - 1:
                view = add("embed", last, labels=start + number * budget)
    add("report", add("collect", *trained))
    return jobs


def seconds(job, noise, growth):
    """How long a job takes; growth: share of a training's time that is proportional to its labels."""
    base = {"dataset": 5, "seed_set": 1, "label": 0.5, "embed": 3, "query": 2, "collect": 3, "report": 6}.get(job.rule)
    if base is None:
        base = 8 * (1 - growth + growth * job.labels / 60)
    elif job.rule == "query":
        base *= 1 + int(job.kind[3].removeprefix("arm")) % 3
    return base * noise.lognormvariate(0, 0.2)


def schedule(jobs, cores, noise, growth):
    """(start, end) of every job on so many cores, ready jobs in an order of chance: what Snakemake might do."""
    waits = {number: len(job.needs) for number, job in jobs.items()}
    ready, running, now, times = [number for number in jobs if not waits[number]], {}, 0.0, {}
    while ready or running:
        while ready and len(running) < cores:
            number = ready.pop(noise.randrange(len(ready)))
            running[number] = now + seconds(jobs[number], noise, growth)
            times[number] = (now, running[number])
        number = min(running, key=running.get)
        now = running.pop(number)
        for other, job in jobs.items():
            if number in job.needs:
                waits[other] -= 1
                if not waits[other]:
                    ready.append(other)
    return times


def foretold(jobs, times, share, cores, prior=()):
    """What a run expects, as seconds since its start, when this share of its time has gone by."""
    moment = share * max(end for _, end in times.values())
    run = Run(Plan("study", jobs, total=1, prior=list(prior)), 0.0, cores)
    events = [(begin, 1, number) for number, (begin, _) in times.items()]
    events += [(end, 0, number) for number, (_, end) in times.items()]
    for when, starts, number in sorted(events):
        if when > moment:
            break
        if starts:
            run.job_starts(number, jobs[number].rule, {}, when)
        else:
            run.job_ends(number, when)
    run.forecast(moment)
    return run.ends


SCHEDULES = {  # arms, rounds, cores, growth
    "two cores": (9, 6, 2, 0.5),
    "trainings that do not grow": (9, 6, 2, 0.0),
    "trainings that are all growth": (9, 6, 2, 1.0),
    "more cores than arms": (4, 12, 16, 0.7),
    "a cluster": (40, 10, 30, 0.7),
    "many rounds": (3, 40, 4, 0.8),
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_the_end_is_foretold_within_bounds(case):
    arms, rounds, cores, growth = SCHEDULES[case]
    jobs = study(arms, rounds)
    errors = {0.25: [], 0.5: [], 0.75: []}
    for seed in range(5):
        times = schedule(jobs, cores, random.Random(seed), growth)
        total = max(end for _, end in times.values())
        for share, found in errors.items():
            if (ends := foretold(jobs, times, share, cores)) is not None:
                found.append(abs(ends - total) / total)
    assert len(errors[0.5]) == len(errors[0.75]) == 5
    assert max(errors[0.25], default=0) < 0.45, errors
    assert max(errors[0.5]) < 0.2, errors
    assert max(errors[0.75]) < 0.1, errors


def test_no_end_is_told_before_there_is_evidence():
    jobs = study(9, 11)
    times = schedule(jobs, 2, random.Random(0), 0.5)
    after_first = max(end for number, (_, end) in times.items() if jobs[number].labels <= 20) + 0.1
    total = max(end for _, end in times.values())
    assert foretold(jobs, times, 0.0, 2) is None
    assert foretold(jobs, times, after_first / total, 2) is None or after_first / total > 0.2
    durations, train = Durations(), ("train", "digits", "mlp", "")
    for _ in range(9):
        durations.add(train, 20, 5.0)
    assert durations.expect(train, 40) == pytest.approx(5.0, rel=0.5)
    assert durations.expect(train, 120) is None  # how trainings grow is not known yet
    for labels in (40, 60):
        durations.add(train, labels, 5.0)
    assert durations.expect(train, 120) == pytest.approx(5.0, rel=0.5)


def test_a_running_job_counts_with_what_is_left_of_it():
    run = Run(
        Plan("study", {0: Job("embed", ("embed", "", "", ""), 0), 1: Job("embed", ("embed", "", "", ""), 0)}), 0.0
    )
    run.job_starts(0, "embed", {}, 0.0)
    run.job_ends(0, 10.0)
    run.job_starts(1, "embed", {}, 10.0)
    run.forecast(13.0)
    assert run.ends == pytest.approx(20.0)
    run.forecast(40.0)
    assert run.ends > 41.0  # overdue: longer still, never in the past


def test_costs_of_finished_rounds_tell_the_end_from_the_start_and_yield_to_what_is_seen():
    jobs = study(9, 6)
    noise = random.Random(1)
    prior = [(job.kind, job.labels, seconds(job, noise, 0.5)) for job in jobs.values() if job.rule in
             ("train", "embed", "query")]  # fmt: skip
    times = schedule(jobs, 2, noise, 0.5)
    total = max(end for _, end in times.values())
    early = foretold(jobs, times, 0.06, 2, prior)
    assert abs(early - total) / total < 0.2
    slow = {number: (3 * begin, 3 * end) for number, (begin, end) in times.items()}  # a machine with other work
    later = foretold(jobs, slow, 0.4, 2, prior)
    assert abs(later - 3 * total) / (3 * total) < 0.2


def test_what_a_failed_job_holds_up_is_not_waited_for():
    jobs = study(2, 3)
    run = Run(Plan("study", jobs, total=5), 0.0, 2)
    for number in (0, 1, 2, 3):
        run.job_starts(number, jobs[number].rule, {}, 0.0)
        run.job_ends(number, 10.0)
    queries = [number for number, job in jobs.items() if job.rule == "query" and job.needs == (3,)]
    for number in queries:
        run.job_starts(number, "query", {"seed": "0", "arm": "margin@20", "round": "000"}, 10.0)
        run.job_fails(number, "query", "query: no", ["query.log"])
    run.forecast(20.0)
    assert run.ends == 20.0
    assert [job["name"] for job in run.progress(20.0)["failed"]] == ["query margin seed 0 round 0"] * 2
    run.job_starts(queries[0], "query", {}, 21.0)  # a retry
    assert len(run.progress(21.0)["failed"]) == 1


def test_events_cost_the_same_in_a_large_study_and_forecasts_are_rare():
    run = Run(Plan("study", study(100, 20), total=1), 0.0, 8)
    calls = []
    run.order = None  # an event that looked at the graph would fail
    for number, job in run.plan.jobs.items():
        run.job_starts(number, job.rule, {}, number * 0.02)
        run.job_ends(number, number * 0.02 + 0.1)
    whole = Run(Plan("study", run.plan.jobs, total=1), 0.0, 8)
    for tick in range(400):  # 100 seconds
        before = whole.forecast_at
        whole.forecast(tick * 0.25)
        calls.append(whole.forecast_at != before)
    assert sum(calls) <= 101


def test_jobs_side_by_side_are_what_cores_and_gpus_allow():
    assert places(4, {}, []) == 4
    assert places(8, {"gpu": 2}, [{"threads": 1, "gpu": 1}, {"threads": 1, "gpu": 0}]) == 2
    assert places(8, {"gpu": SimpleNamespace(value=4)}, [{"threads": 3, "gpu": 0}]) == 2
    assert places(None, {}, [{"threads": 2}]) == 1


# --- the handler ------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def handler(monkeypatch, tmp_path):
    """A function that makes a handler writing to a stream, with a plan in place of a workflow's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["snakemake"])
    Path(".snakemake").mkdir()
    made = []

    def make(stream, jobs=None, **settings):
        monkeypatch.setattr(sys, "stderr", stream)
        plan = Plan("tiny", study(1, 2) if jobs is None else jobs, total=2)
        monkeypatch.setattr("snakemake_logger_plugin_allround.watch.running_workflow", object)
        monkeypatch.setattr("snakemake_logger_plugin_allround.watch.read_plan", lambda workflow: plan)
        made.append(LogHandler(SimpleNamespace(**{**vars(SETTINGS), **settings}), None))
        return made[-1]

    yield make
    for one in made:
        one.close()


def send(handler, text=None, level=logging.INFO, **fields):
    record = logging.LogRecord("snakemake", level, __file__, 0, str(text), None, None)
    record.__dict__.update(fields)
    handler.handle(record)


def job_info(handler, number, rule="train", **fields):
    fields = {"wildcards": {"seed": "0", "round": "001", "arm": "margin@5"}, "resources": {}, "threads": 1, **fields}
    usual = {key: [] for key in ("input", "output", "log")} | dict.fromkeys(("rule_msg", "benchmark", "reason"))
    send(
        handler, event=LogEvent.JOB_INFO, jobid=number, rule_name=rule, local=True, is_checkpoint=False, priority=0,
        indent=False, **usual, **fields,
    )  # fmt: skip


def job_error(handler, number, log, shellcmd="python -m stage", **fields):
    send(
        handler, level=logging.ERROR, event=LogEvent.JOB_ERROR, jobid=number, rule_name="train", log=[str(log)],
        shellcmd=shellcmd, input=[], output=[], conda_env=None, indent=False,
        **{"aux": {}, "rule_msg": None, **fields},
    )  # fmt: skip


def test_noise_of_jobs_is_left_out_and_warnings_are_not(handler):
    out = io.StringIO()
    one = handler(out)
    send(one, "Building DAG of jobs...")
    send(one, "the disk is nearly full", level=logging.WARNING)
    send(one, "Job stats: ...", event=LogEvent.RUN_INFO)
    job_info(one, 2)
    send(one, "Execute 1 jobs...", event=LogEvent.JOB_STARTED, jobs=[2])
    send(one, "A message of the Snakefile")
    send(one, "Finished jobid: 2", event=LogEvent.JOB_FINISHED, job_id=2)
    send(one, event=LogEvent.PROGRESS, done=1, total=8)
    one.close()
    jobs = len(study(1, 2))
    *lines, last = out.getvalue().splitlines()
    assert lines == [
        "the disk is nearly full",
        f"tiny: 0 of 2 rounds done, {jobs} jobs to run",
        "A message of the Snakefile",
    ]
    end = r"tiny: 1 of 2 rounds done, in \d+ s; not finished: the same command goes on where it stopped"
    assert re.fullmatch(end, last)


def test_what_a_cluster_says_of_a_failure_is_told(handler, tmp_path):
    out = io.StringIO()
    one = handler(out)
    send(one, event=LogEvent.RUN_INFO)
    job_info(one, 2)
    said = "SLURM-job '3' failed, SLURM status is: 'TIMEOUT'"
    job_error(one, 2, tmp_path / "none.log", rule_msg=said, aux={"external_jobid": 3})
    one.close()
    assert f"message: {said}\nexternal_jobid: 3" in out.getvalue()


def test_a_failure_is_told_once_with_its_cause_and_its_log(handler, tmp_path):
    out, log = io.StringIO(), tmp_path / "train.log"
    log.write_text("a warning\nallround train: labels.csv: not a whole labels file; delete it.\n")
    one = handler(out)
    send(one, event=LogEvent.RUN_INFO)
    job_info(one, 2)
    command = "CalledProcessError in file ...: Command 'set -e; python -m stage' returned non-zero exit status 1."
    send(one, command, level=logging.ERROR, event=LogEvent.ERROR, exception="RuleException")
    job_error(one, 2, log)
    send(one, "Exiting because a job execution failed. Look above for error messages", level=logging.ERROR)
    one.close()
    lines = out.getvalue().splitlines()
    assert lines[1:3] == [
        f"train margin seed 0 round 1 failed; log: {log}",
        "allround train: labels.csv: not a whole labels file; delete it.",
    ]
    assert lines[3].endswith(f"1 job failed: {log}")
    assert len(lines) == 4
    assert state.read(tmp_path / ".snakemake")[0]["failed"][0]["cause"].startswith("train: labels.csv: not a whole")


@pytest.mark.parametrize(
    ("text", "message", "expected"),
    [
        ("Traceback ...\nValueError: bad\n", "returned non-zero exit status 1.", ["ValueError: bad", "Traceback ..."]),
        ("", "returned non-zero exit status 137.", ["killed: by hand, or because memory ran out"]),
        ("", "died with <Signals.SIGKILL: 9>.", ["killed: by hand, or because memory ran out"]),
        (None, "returned non-zero exit status 2.", ["exit status 2, and nothing in its log"]),
    ],
)
def test_a_failure_without_a_cause_shows_all_that_is_known(handler, tmp_path, text, message, expected):
    out, log = io.StringIO(), tmp_path / "train.log"
    if text is not None:
        log.write_text(text)
    one = handler(out)
    send(one, event=LogEvent.RUN_INFO)
    job_info(one, 2)
    send(one, f"CalledProcessError: 'python -m stage' {message}", level=logging.ERROR, event=LogEvent.ERROR)
    job_error(one, 2, log)
    for words_ in expected:
        assert words_ in out.getvalue().splitlines()


def test_an_exception_that_belongs_to_no_job_is_printed(handler):
    out = io.StringIO()
    one = handler(out)
    send(one, event=LogEvent.RUN_INFO)
    send(one, "CalledProcessError: onstart: command failed", level=logging.ERROR, event=LogEvent.ERROR)
    one.close()
    assert "onstart: command failed" in out.getvalue()


def test_jobs_that_an_interruption_stops_have_not_failed(handler, tmp_path):
    out, log = io.StringIO(), tmp_path / "train.log"
    log.write_text("")
    one = handler(out)
    send(one, event=LogEvent.RUN_INFO)
    job_info(one, 2)
    job_info(one, 3)
    send(one, "Terminating processes on user request, this might take some time.")
    died = "CalledProcessError: 'python -m stage' died with <Signals.SIGINT: 2>."
    send(one, died, level=logging.ERROR, event=LogEvent.ERROR)
    job_error(one, 2, log)
    info = [{"jobid": 3, "rule_name": "train", "log": [str(log)]}]
    send(one, level=logging.ERROR, event=LogEvent.GROUP_ERROR, groupid="g", aux_logs=[], job_error_info=info)
    one.close()
    printed = out.getvalue()
    assert "failed" not in printed
    assert "SIGINT" not in printed
    assert printed.endswith("interrupted: the same command goes on where it stopped\n")
    (found,) = state.read(tmp_path / ".snakemake")
    assert found["interrupted"]
    assert found["failed"] == found["running"] == []


def test_a_failed_group_is_told_once(handler, tmp_path):
    logs = [tmp_path / "embed.log", tmp_path / "query.log"]
    logs[0].write_text("")
    logs[1].write_text("allround query: out of memory; run fewer jobs at once.\n")
    out = io.StringIO()
    one = handler(out)
    send(one, event=LogEvent.RUN_INFO)
    job_info(one, 3, rule="embed")
    job_info(one, 4, rule="query")
    info = [{"jobid": 3 + i, "rule_name": rule, "log": [str(logs[i])]} for i, rule in enumerate(("embed", "query"))]
    send(one, level=logging.ERROR, event=LogEvent.GROUP_ERROR, groupid="g", aux_logs=[], job_error_info=info)
    for number, log in zip((3, 4), logs, strict=True):
        job_error(one, number, log)
    assert out.getvalue().count("out of memory") == 1
    assert "a group of jobs failed: embed margin seed 0 round 1, query margin seed 0 round 1" in out.getvalue()
    assert len(one.watch.run.failed) == 2


def test_what_never_becomes_a_run_is_printed_in_full(handler):
    out = io.StringIO()
    one = handler(out)
    messages = ["Building DAG of jobs...", "Using shell: /bin/bash", "Nothing to be done (all files are present)."]
    for text in messages:
        send(one, text)
    one.close()
    assert out.getvalue().splitlines() == messages


def test_what_was_held_back_is_printed_where_nothing_runs(handler):
    out = io.StringIO()
    one = handler(out)
    send(one, "Building DAG of jobs...")
    one.close()
    assert out.getvalue() == "Building DAG of jobs...\n"


def test_a_fault_of_the_plugin_costs_the_line_and_not_the_run(handler, monkeypatch):
    out = io.StringIO()
    one = handler(out)
    send(one, event=LogEvent.RUN_INFO)
    monkeypatch.setattr(one.watch, "note", lambda record: 1 / 0)
    send(one, "first message")
    send(one, "second message")
    job_info(one, 2)
    one.close()
    assert out.getvalue().count("The progress line is off: ZeroDivisionError") == 1
    assert out.getvalue().count("first message") == out.getvalue().count("second message") == 1
    assert "localrule train" in out.getvalue()  # as Snakemake does it


def test_a_folder_that_may_not_be_written_costs_nothing(handler, tmp_path):
    out = io.StringIO()
    one = handler(out)
    Path(".snakemake").rmdir()
    send(one, event=LogEvent.RUN_INFO)
    one.close()
    assert "0 of 2 rounds done" in out.getvalue()
    assert "off" not in out.getvalue()


def test_messages_stand_above_the_line_and_the_line_is_gone_in_the_end(handler, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(handlers, "TICK", 3600.0)  # by hand
    out = Terminal()
    one = handler(out)
    send(one, event=LogEvent.RUN_INFO)
    job_info(one, 2)
    one._tick(time.time())
    assert out.getvalue().endswith("train margin seed 0 round 1\x1b[K")
    send(one, "careful", level=logging.WARNING)
    one._tick(time.time())
    one.close()
    rows = rendered(out.getvalue())
    assert rows[1] == "careful"
    assert rows[2].startswith("tiny: 0 of 2 rounds done, in")
    assert len(rows) == 3
    assert not re.search(r"\x1b\[[0-9;]*m", out.getvalue())


@pytest.mark.parametrize(
    "settings", [{"quiet": {"all"}}, {"dryrun": True}, {"verbose": True}, {"printshellcmds": True}]
)
def test_whoever_asks_for_snakemakes_lines_gets_them(handler, settings):
    out = io.StringIO()
    one = handler(out, **settings)
    send(one, event=LogEvent.RUN_INFO)
    job_info(one, 2)
    assert "rule train:" in out.getvalue()
    assert ("0 of 2 rounds done" in out.getvalue()) == ("quiet" not in settings and "dryrun" not in settings)


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(handler, monkeypatch, term):
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    one = handler(out)
    send(one, event=LogEvent.RUN_INFO)
    one._tick(time.time())
    one.close()
    assert not re.search(r"[\x1b\r]", out.getvalue())


def rendered(text, width=10_000):
    """The rows of a terminal after this text."""
    rows, column = [""], 0
    for part in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if part == "\n":
            rows.append("")
            column = 0
        elif part == "\r":
            column = 0
        elif part == "\x1b[K":
            rows[-1] = rows[-1][:column]
        elif not part.startswith("\x1b"):
            rows[-1] = rows[-1][:column] + part + rows[-1][column + len(part) :]
            column += len(part)
            assert len(rows[-1]) <= width, rows[-1]
    return [row for row in rows if row]


# --- the real Snakemake -----------------------------------------------------------------------------------------------

ARM = "results/digits/tiny/random20"


def damage(work):
    """Leave work to do in two arms, and break one of them."""
    for name_ in ("margin@5/seed0/round001/metrics.json", "glister@5/seed0/round002/metrics.json"):
        (work.root / ARM / name_).unlink()
    labels = work.root / ARM / "margin@5/seed0/round001/labels.csv"
    labels.write_bytes(labels.read_bytes()[:100])


def ask(work, *arguments):
    """What python -m allround.status says."""
    return subprocess.run(
        [sys.executable, "-m", "allround.status", *arguments], cwd=work.root, env=work.environment(), text=True,
        capture_output=True, check=False,
    )  # fmt: skip


def test_in_a_pipe_a_run_with_a_failure_reads_like_a_log_and_its_status_can_be_asked(copy):
    damage(copy)
    output = copy.snakemake(ok=False)
    assert not re.search(r"[\x1b\r]", output)
    assert "localrule" not in output
    assert "Job stats" not in output
    lines = output.splitlines()
    log = f"{ARM}/margin@5/seed0/round001/log/train.log"
    assert "tiny: 5 of 7 rounds done, 5 jobs to run" in lines
    failed = lines.index(f"train margin seed 0 round 1 failed; log: {log}")
    assert "not a whole" in lines[failed + 1]
    assert output.count("not a whole") == 1
    assert re.fullmatch(
        rf"tiny: 6 of 7 rounds done, in .*; 1 job failed: {re.escape(log)}; a report of what is done: python -m "
        "allround.interim tiny",
        lines[-1],
    )
    told = ask(copy, "tiny")
    assert told.stdout.startswith("tiny  6 of 7 rounds · 85 % · not running\nleft: 1 round (margin 1)\n")
    assert "with 1 failed job" in told.stdout
    assert "train margin seed 0 round 1: train: " in told.stdout
    assert log in told.stdout


def test_on_a_terminal_one_row_is_kept_up_to_date(copy):
    width = 70
    for name_ in ("margin@5/seed0/round002/metrics.json", "glister@5/seed0/round002/metrics.json"):
        (copy.root / ARM / name_).unlink()
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--cores", "2", "--config", "study=tiny"], cwd=copy.root, stdin=slave,
        env={**copy.environment(), "TERM": "xterm"}, stdout=slave, stderr=slave, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    read = b""
    with contextlib.suppress(OSError):  # how a terminal ends
        while part := os.read(master, 65536):
            read += part
    os.close(master)
    assert process.wait() == 0, read.decode()
    text = read.decode().replace("\r\n", "\n")
    assert "localrule" not in text
    shown = [CONTROL.sub("", row) for row in text.split("\r") if row.startswith("tiny  ")]
    assert len(shown) >= 2
    assert all(len(row.partition("\n")[0]) < width for row in shown)
    assert any(re.search("train|collect|report", row) for row in shown)  # a training may be over between two looks
    rows = rendered(text)
    assert "tiny: 5 of 7 rounds done, 5 jobs to run" in rows
    assert not any(row.startswith("tiny  ") for row in rows)  # gone in the end
    assert re.fullmatch(
        r"tiny: 7 of 7 rounds done, in .*; the report: results/studies/tiny/report.html", CONTROL.sub("", rows[-1])
    )
    told = ask(copy, "tiny").stdout.splitlines()
    assert told[0] == "tiny  7 of 7 rounds · 100 % · the report: results/studies/tiny/report.html"


def test_status_tells_a_run_that_lives_from_one_that_was_killed(workspace):
    process = workspace.start()
    wait_for(lambda: any(last["running"] for last in state.read(workspace.root / ".snakemake")))

    def at_work():  # between two jobs there is nothing to name
        told = ask(workspace)
        assert "not running" not in told.stdout, told
        return re.match(r"tiny  \d of 7 rounds · \d+ % · \w+", told.stdout)

    wait_for(at_work)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    told = ask(workspace, "tiny")
    assert "not running" in told.stdout
    assert "the last run was killed" in told.stdout
    (workspace.root / "config/studies/tiny.yaml").write_text("datasets: [no-such]\n")
    told = ask(workspace, "tiny")
    assert told.returncode == 1
    assert told.stderr.count("\n") == 1
    assert told.stderr.startswith("allround status: ")


def test_status_tells_all_runs_of_a_folder_and_one_that_says_nothing(copy):
    (copy.root / ARM / "margin@5/seed0/round002/metrics.json").unlink()
    folder = copy.root / ".snakemake"
    with (folder / "alive").open("a+") as alive:  # a run with another logger
        fcntl.flock(alive, fcntl.LOCK_SH)
        told = ask(copy, "tiny").stdout
    assert told.startswith("tiny  6 of 7 rounds · 85 % · a snakemake runs here that was not started with --logger")
    assert "not running" in ask(copy, "tiny").stdout
    now = time.time()
    for study in ("one", "two"):
        run = {"study": study, "unit": "rounds", "done": 1, "total": 4, "running": [], "failed": [], "ends": None}
        run |= {"pid": os.getpid(), "host": platform.node(), "began": now, "updated": now, "ended": None}
        state.write(folder, run)
    assert sorted(line[:20] for line in ask(copy).stdout.splitlines()) == [
        "one  1 of 4 rounds ·",
        "two  1 of 4 rounds ·",
    ]
    assert ask(copy, "two").stdout.startswith("two  1 of 4")
    assert ask(copy, "tiny").stdout.startswith("tiny  6 of 7 rounds · 85 % · not running")


@pytest.mark.parametrize(("silent", "locked", "alive"), [(5, True, True), (5, False, False), (3600, True, False)])
def test_a_run_on_another_host_lives_by_its_lock_and_its_signs_of_life(silent, locked, alive, tmp_path, monkeypatch):
    """Another study may hold the folder's lock long after the node of this one was lost."""
    monkeypatch.chdir(tmp_path)
    Path(".snakemake").mkdir()
    now = time.time()
    last = {"study": "tiny", "pid": 1, "host": "elsewhere", "began": now - 9999, "updated": now - silent, "ended": None}
    state.write(Path(".snakemake"), {**last, "failed": [], "running": []})
    with Path(".snakemake/alive").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_SH if locked else fcntl.LOCK_UN)
        assert status.running("tiny") == ("process 1 on elsewhere" if alive else None)
        assert status.running("other") is None


def test_results_of_other_settings_do_not_count_as_done(copy):
    learner = "tiny: {architecture: mlp, arguments: {width: %d}"
    copy.edit("config/catalogue/learners.yaml", learner % 16, learner % 17)
    told = ask(copy, "tiny")
    assert told.stdout.startswith("tiny  0 of 7 rounds · 0 % · not running")
    assert "7 rounds of these made by other settings or code" in told.stdout
    output = copy.snakemake("--touch")  # accepts them, and prints what it prints without the plugin
    assert ask(copy, "tiny").stdout.startswith("tiny  7 of 7 rounds")
    assert "rule train:" in output
    assert "rounds done" not in output


def test_what_is_no_run_prints_what_snakemake_prints_without_the_plugin(copy):
    # the free space, and reasons: of a set, in any order
    changing = re.compile(r"20\d\d|Workflow ID|Elapsed|Complete log|Command:|disk:|reason:")

    def lines(*arguments):
        return [line for line in copy.snakemake(*arguments).splitlines() if not changing.search(line)]

    def everything():
        told = [lines(), lines("--unlock")]  # nothing to do
        (copy.root / ARM / "margin@5/seed0/round002/metrics.json").rename(copy.root / "kept.json")
        told += [lines("-n", "--quiet", "rules"), lines("-n")]
        (copy.root / "kept.json").rename(copy.root / ARM / "margin@5/seed0/round002/metrics.json")
        return told

    with_plugin = everything()
    copy.edit("profiles/default/profile.yaml", "?if find_spec", "?if False and find_spec")
    without = everything()
    assert with_plugin == without
    assert "Nothing to be done" in "".join(without[0])


def test_a_clone_that_is_not_installed_runs_without_the_plugin(monkeypatch):
    profile = (REPOSITORY / "profiles/default/profile.yaml").read_text()
    assert yte.process_yaml(profile, require_use_yte=True)["logger"] == "allround"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "logger" not in yte.process_yaml(profile, require_use_yte=True)


def test_the_plugin_leaves_it_to_the_snakefile_whose_code_runs():
    """Snakemake imports plugins first: one that imported allround would pin the installed clone's code for this one."""
    check = (
        "import snakemake_logger_plugin_allround, sys; print([n for n in sys.modules if n.split('.')[0] == 'allround'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    found = subprocess.run([sys.executable, "-c", check], env=environment, text=True, capture_output=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_state_file_that_is_no_state_file_is_as_good_as_none(tmp_path):
    for text in ("", "{", "[]", "3", json.dumps({"study": "tiny"})):
        state.file_of(tmp_path, "tiny").write_text(text)
        assert state.read(tmp_path) == []
