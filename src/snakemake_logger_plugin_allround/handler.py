"""The log handler: which of Snakemake's records are printed, and what they mean for the progress line."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from contextlib import suppress
from logging import LogRecord
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_allround import state, words
from snakemake_logger_plugin_allround.plan import read_plan, running_workflow
from snakemake_logger_plugin_allround.run import Run, cause_in, last_words, places
from snakemake_logger_plugin_allround.screen import Screen

TICK = 0.25  # seconds between two looks at whether the line has changed
PLAIN = 10.0  # seconds between two lines where there is no terminal, at least; more in a long run
BEAT = 10.0  # seconds after which the state file is written again though nothing has changed
JOBS = {LogEvent.JOB_INFO, LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED, LogEvent.GROUP_INFO, LogEvent.PROGRESS}
NOISE = re.compile(
    r"Config file |Assuming unrestricted|Workflow has started|Building DAG|Using shell:|Provided |Rules claiming|"
    r"Group jobs: |Conda environments: |Singularity containers: |Select jobs|Execute |Removing temporary output|"
    r"Storing output|Touching output|Job \d+ has been submitted|Complete log|Elapsed time|None$|$"
)
EPILOGUE = re.compile(r"Exiting because a job execution failed|WorkflowError:\s*At least one job did not complete")


class LogHandler(LogHandlerBase):
    """Prints through Snakemake's own handler; leaves out the noise of jobs, and keeps one line below it up to date."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        from snakemake.logging import ColorizingTextHandler, DefaultFilter, DefaultFormatter

        wish = self.common_settings
        self.stream = sys.stdout if wish.stdout else sys.stderr
        self.usual = ColorizingTextHandler(
            nocolor=wish.nocolor or "NO_COLOR" in os.environ,
            stream=self.stream,
            formatter=DefaultFormatter(wish.quiet, wish.show_failed_logs),
            filter=DefaultFilter(wish.quiet, wish.debug_dag, wish.verbose, wish.dryrun, wish.printshellcmds),
        )
        plain = getattr(self.settings, "plain", False)
        self.watches = not (wish.dryrun or _asked("--touch", "-t"))
        self.shows = self.watches and not wish.quiet and not plain
        self.usual_too = wish.verbose or wish.printshellcmds or wish.debug_dag
        self.screen = Screen(self.stream)
        self.run: Run | None = None
        self.folder = Path.cwd() / ".snakemake"
        self.held: list[LogRecord] = []  # printed after all if no run comes of it
        self.errors: list[LogRecord] = []  # exceptions of jobs, until the job's own record comes
        self.grouped: set[int] = set()
        self.cores: int | None = None
        self.provided: dict = {}
        self.asked: dict[str, dict] = {}
        self.changed = self.said = self.saved = 0.0
        self.over = threading.Event()
        self.broken = self.closed = False

    def emit(self, record: LogRecord) -> None:
        """Take one record. Whatever goes wrong in here, the run goes on, and is logged as Snakemake does it."""
        try:
            if self.broken:
                self.usual.handle(record)
            elif self.shows:
                self._take(record)
            else:
                if self.watches:
                    self._note(record)
                self.usual.handle(record)
        except Exception as error:
            self._break(error, record)

    def close(self) -> None:
        """The end of the run: the last words, the last state."""
        with self.lock:
            if not self.closed:
                self.closed = True
                self.over.set()
                try:
                    self._end()
                except Exception as error:
                    self._break(error)
        super().close()

    # --- what is printed ----------------------------------------------------------------------------------------------

    def _take(self, record: LogRecord) -> None:
        event, text = getattr(record, "event", None), str(record.getMessage())
        fresh = self.run is None
        self._note(record)
        if event == LogEvent.RUN_INFO and self.run:
            self.held.clear()
            self._print(record, usual=self.usual_too)
            if fresh:
                self._start()
        elif event == LogEvent.JOB_ERROR:
            self._failed(record)
        elif event == LogEvent.GROUP_ERROR:
            self._group_failed(record)
        elif event == LogEvent.ERROR and "CalledProcessError" in text and self.run and not self.usual_too:
            self.errors.append(record)
        elif event in (LogEvent.JOB_INFO, LogEvent.SHELLCMD, *JOBS):
            self._print(record, usual=self.usual_too)
        elif record.levelno <= logging.INFO and NOISE.match(text) and not self.usual_too:
            if self.run is None:
                self.held.append(record)
                if self.screen.in_place and text.startswith("Building DAG"):
                    self.screen.show("planning ...")
        elif not (self.run and self.run.failed and EPILOGUE.match(text)) or self.usual_too:
            if record.levelno != logging.WARNING:
                self._release()
            self._print(record)

    def _print(self, record: LogRecord, usual: bool = True) -> None:
        if usual:
            self.screen.clear()
            self.usual.handle(record)

    def _release(self) -> None:
        """Print what was held back."""
        held, self.held = self.held, []
        for record in held:
            self._print(record)

    def _say(self, level: int, text: str) -> None:
        """Print in the colour of a level."""
        self._print(logging.LogRecord("allround", level, __file__, 0, text, None, None))

    def _start(self) -> None:
        run, now = self.run, time.time()
        jobs = words.count(len(run.plan.jobs), "job")
        self.screen.say(f"{run.plan.study}: {words.done(run.progress(now))} done, {jobs} to run")
        threading.Thread(target=self._keep_up, name="allround-progress", daemon=True).start()

    def _failed(self, record: LogRecord) -> None:
        number, logs = record.jobid, list(record.log)
        message = self._exception_of(record)
        if number in self.grouped:
            return
        found = cause_in(logs)
        cause = (found or last_words(logs, message)).removeprefix("allround ")
        name = self.run.job_fails(number, record.rule_name, cause, logs) if self.run else record.rule_name
        if self.usual_too:
            self._print(record)
            return
        lines = [f"{name} failed{'; log: ' + ', '.join(logs) if logs else ''}"]
        lines += [found] if found else [cause, *self._whole(logs)]
        for key, value in (record.aux or {}).items():
            lines.append(f"{key}: {value}")
        self._say(logging.ERROR, "\n".join(lines))

    def _group_failed(self, record: LogRecord) -> None:
        for job in record.job_error_info:
            logs = [*job["log"], *(log for log in record.aux_logs if log not in job["log"])]
            cause = (cause_in(logs) or last_words(logs, "")).removeprefix("allround ")
            self.grouped.add(job["jobid"])
            if self.run:
                self.run.job_fails(job["jobid"], job["rule_name"], cause, logs)
        logs = [log for job in record.job_error_info for log in job["log"]] + list(record.aux_logs)
        causes = dict.fromkeys(filter(None, (cause_in([log]) for log in logs)))
        names = ", ".join(self._name(job) for job in record.job_error_info)
        lines = [f"a group of jobs failed: {names}", *(f"log: {log}" for log in logs)]
        self._say(logging.ERROR, "\n".join([*lines, *(causes or self._whole(logs))]))

    def _name(self, job: dict) -> str:
        return self.run.names.get(job["jobid"], job["rule_name"]) if self.run else job["rule_name"]

    def _whole(self, logs: list[str]) -> list[str]:
        from snakemake.logging import show_logs

        return list(show_logs(logs)) if self.common_settings.show_failed_logs else []

    def _exception_of(self, record: LogRecord) -> str:
        """The message of the exception that came before a failed job's own record, which says the rest."""
        for error in self.errors:
            if record.shellcmd and record.shellcmd.strip() in error.getMessage():
                self.errors.remove(error)
                return error.getMessage()
        return ""

    # --- what is noted ------------------------------------------------------------------------------------------------

    def _note(self, record: LogRecord) -> None:
        """Keep count; O(1) for each job."""
        event, run = getattr(record, "event", None), self.run
        if event == LogEvent.RESOURCES_INFO:
            self.cores = getattr(record, "cores", None) or getattr(record, "nodes", None) or self.cores
            self.provided = dict(getattr(record, "provided_resources", None) or self.provided)
        elif event == LogEvent.RUN_INFO and run is None:
            if (workflow := running_workflow()) is not None:
                self.run = Run(read_plan(workflow), record.created, places(self.cores, {}, []))
        elif run is None:
            return
        elif event == LogEvent.JOB_INFO:
            run.job_starts(record.jobid, record.rule_name, record.wildcards or {}, record.created)
            if record.rule_name not in self.asked:
                self.asked[record.rule_name] = {**dict(record.resources.items()), "threads": record.threads}
                run.places = places(self.cores, self.provided, list(self.asked.values()))
        elif event == LogEvent.JOB_FINISHED:
            run.job_ends(record.job_id, record.created)
        elif event == LogEvent.JOB_ERROR and not self.shows:
            logs = list(record.log)
            run.job_fails(record.jobid, record.rule_name, cause_in(logs) or last_words(logs, ""), logs)
        else:
            return
        self.changed = time.time()
        if not self.shows:
            self._save(self.changed)

    def _save(self, now: float, ended: float | None = None) -> None:
        if ended or now - self.saved >= 1.0:
            state.write(self.folder, self.run.progress(now, ended))
            self.saved = now

    def _keep_up(self) -> None:
        """The thread that keeps line and state file up to date between records."""
        while not self.over.wait(TICK):
            with self.lock:
                if self.closed or self.broken:
                    return
                try:
                    self._tick(time.time())
                except Exception as error:
                    self._break(error)

    def _tick(self, now: float) -> None:
        run = self.run
        known = run.ends
        run.forecast(now)
        if self.changed > self.saved or now - self.saved >= BEAT:
            self._save(now)
        if self.screen.in_place:
            self.screen.show(words.line(run.progress(now), now, self.screen.width()))
            return
        pause = min(max(PLAIN, (now - run.began) / 60), 600.0)
        first = known is None and run.ends is not None and self.said == 0.0
        if (self.changed > self.said and now - max(self.said, run.began) >= pause) or first:
            self.screen.say(f"{time.strftime('%H:%M:%S')} {words.line(run.progress(now), now)}")
            self.said = now

    # --- the end ------------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        self._release()
        for record in self.errors:
            self._print(record)
        run, now = self.run, time.time()
        if run is not None and self.watches:
            self._save(now, ended=now)
        if run is not None and self.shows:
            self.screen.say(_last_line(run, now))
        self.screen.clear()

    def _break(self, error: Exception, record: LogRecord | None = None) -> None:
        """Give up the line, never the run."""
        self.broken = True
        with suppress(Exception):
            self.screen.clear()
            self._say(logging.WARNING, f"The progress line is off: {type(error).__name__}: {error}")
            self._release()
            if record is not None:
                self.usual.handle(record)


def _last_line(run: Run, now: float) -> str:
    text = f"{run.plan.study}: {words.done(run.progress(now))} done, in {words.span(now - run.began)}"
    if run.failed:
        logs = [log for job in run.failed.values() for log in job["logs"]]
        more = f" and {len(logs) - 3} more" if len(logs) > 3 else ""
        return f"{text}; {words.count(len(run.failed), 'job')} failed: {', '.join(logs[:3])}{more}"
    if len(run.finished) < len(run.plan.jobs):
        return f"{text}; not finished: the same command goes on where it stopped"
    report = Path(f"results/studies/{run.plan.study}/report.html")
    return f"{text}; the report: {report}" if report.exists() else text


def _asked(*flags: str) -> bool:
    """Whether the command line has one of these options; the settings of logger plugins do not tell."""
    return any(flag in sys.argv[1:] for flag in flags)
