"""The log handler: which of Snakemake's records are printed, and the line below them."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from logging import LogRecord

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_allround import words
from snakemake_logger_plugin_allround.failures import told
from snakemake_logger_plugin_allround.screen import Screen
from snakemake_logger_plugin_allround.watch import Watch

TICK = 0.25  # seconds between two looks at whether the line has changed
PLAIN = 10.0  # seconds between two lines where there is no terminal, at least; more in a long run
JOBS = {
    *(LogEvent.JOB_INFO, LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED, LogEvent.GROUP_INFO),
    *(LogEvent.PROGRESS, LogEvent.SHELLCMD, LogEvent.RUN_INFO),
}
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
        stream = sys.stdout if wish.stdout else sys.stderr
        self.usual = ColorizingTextHandler(
            nocolor=wish.nocolor or "NO_COLOR" in os.environ,
            stream=stream,
            formatter=DefaultFormatter(wish.quiet, wish.show_failed_logs),
            filter=DefaultFilter(wish.quiet, wish.debug_dag, wish.verbose, wish.dryrun, wish.printshellcmds),
        )
        self.watches = not (wish.dryrun or _touches(sys.argv[1:]))
        self.shows = self.watches and not wish.quiet and not getattr(self.settings, "plain", False)
        self.noisy = wish.verbose or wish.printshellcmds or wish.debug_dag
        self.screen, self.watch = Screen(stream), Watch()
        self.held: list[LogRecord] = []  # printed after all if no run comes of it
        self.errors: list[LogRecord] = []  # exceptions of jobs, until the job's own record comes
        self.grouped: set[int] = set()  # jobs whose failure was told with their group's
        self.said = 0.0  # when the last line was printed where there is no terminal
        self.over = threading.Event()
        self.broken = self.closed = False

    def emit(self, record: LogRecord) -> None:
        """Take one record. Whatever goes wrong in here, the run goes on, and is logged as Snakemake does it."""
        try:
            if self.watches and not self.broken:
                self._note(record)
            if self.shows and not self.broken:
                self._take(record)
            else:
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

    def _note(self, record: LogRecord) -> None:
        planned = self.watch.run is not None
        self.watch.note(record)
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_ERROR and not self.shows:
            self.watch.fail({"jobid": record.jobid, "rule_name": record.rule_name}, list(record.log))
        if self.watch.run and not planned:
            if self.shows:
                jobs = words.count(len(self.watch.run.plan.jobs), "job")
                progress = self.watch.run.progress(time.time())
                self.screen.say(f"{progress['study']}: {words.done(progress)} done, {jobs} to run")
            threading.Thread(target=self._keep_up, name="allround-progress", daemon=True).start()

    # --- what is printed ----------------------------------------------------------------------------------------------

    def _take(self, record: LogRecord) -> None:
        event, text, run = getattr(record, "event", None), str(record.getMessage()), self.watch.run
        if run is not None:
            self.held.clear()
        if event == LogEvent.JOB_ERROR:
            self._failed(record)
        elif event == LogEvent.GROUP_ERROR:
            self._group_failed(record)
        elif self.noisy:
            self._print(record)
        elif event == LogEvent.ERROR and run is not None and "CalledProcessError" in text:
            self.errors.append(record)
        elif run is not None and event in JOBS:
            pass
        elif record.levelno <= logging.INFO and NOISE.match(text):
            if run is None:
                self.held.append(record)
                if self.screen.in_place and text.startswith("Building DAG"):
                    self.screen.show("planning ...")
        elif not (run and (run.failed or run.interrupted) and EPILOGUE.match(text)):
            if record.levelno != logging.WARNING:
                self._release()
            self._print(record)

    def _print(self, record: LogRecord) -> None:
        self.screen.clear()
        self.usual.handle(record)

    def _release(self) -> None:
        """Print what was held back."""
        held, self.held = self.held, []
        for record in held:
            self._print(record)

    def _say(self, level: int, text: str) -> None:
        """Print in the colour of a level."""
        self._print(LogRecord("allround", level, __file__, 0, text, None, None))

    def _failed(self, record: LogRecord) -> None:
        logs, message = list(record.log), self._exception_of(record)
        if record.jobid in self.grouped:
            return
        name = self.watch.fail({"jobid": record.jobid, "rule_name": record.rule_name}, logs, message)
        if self.noisy:
            self._print(record)
            return
        if self.watch.run and self.watch.run.interrupted:
            return
        said = getattr(record, "rule_msg", None)  # by an executor: how the cluster ended the job
        aux = {**({"message": said} if said else {}), **(record.aux or {})}
        self._say(logging.ERROR, told(f"{name} failed", logs, message, aux, self.common_settings.show_failed_logs))

    def _group_failed(self, record: LogRecord) -> None:
        names = []
        for job in record.job_error_info:
            self.grouped.add(job["jobid"])
            names.append(self.watch.fail(job, [*job["log"], *record.aux_logs]))
        if self.watch.run and self.watch.run.interrupted:
            return
        logs = [*(log for job in record.job_error_info for log in job["log"]), *record.aux_logs]
        head = f"a group of jobs failed: {', '.join(names)}"
        self._say(logging.ERROR, told(head, logs, "", {}, self.common_settings.show_failed_logs))

    def _exception_of(self, record: LogRecord) -> str:
        """The message of the exception that came before a failed job's own record, which says the rest."""
        for error in self.errors:
            if record.shellcmd and record.shellcmd.strip() in error.getMessage():
                self.errors.remove(error)
                return error.getMessage()
        return ""

    # --- the line -----------------------------------------------------------------------------------------------------

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
        run = self.watch.run
        foreseen = run.ends is not None
        run.forecast(now)
        self.watch.save(now)
        if not self.shows:
            return
        if self.screen.in_place:
            self.screen.show(words.line(run.progress(now), now, self.screen.width()))
            return
        pause = min(max(PLAIN, (now - run.began) / 60), 600.0)
        first = not self.said and not foreseen and run.ends is not None
        if first or (self.watch.changed > self.said and now - max(self.said, run.began) >= pause):
            self.screen.say(f"{time.strftime('%H:%M:%S')} {words.line(run.progress(now), now)}")
            self.said = now

    def _end(self) -> None:
        self._release()
        for record in self.errors:
            self._print(record)
        if self.watches and not self.broken:
            now = time.time()
            self.watch.save(now, ended=now)
            if self.shows and self.watch.run:
                self.screen.say(self.watch.run.last_words(now))
        self.screen.clear()

    def _break(self, error: Exception, record: LogRecord | None = None) -> None:
        """Give up the line, never the run."""
        known, self.broken = self.broken, True
        with suppress(Exception):
            if not known:
                self.screen.clear()
                self._say(logging.WARNING, f"The progress line is off: {type(error).__name__}: {error}")
                self._release()
            if record is not None:
                self.usual.handle(record)


def _touches(arguments: Sequence[str]) -> bool:
    """Whether Snakemake only touches: settings of logger plugins do not tell."""
    return any(word == "-t" or (len(word) > 3 and "--touch".startswith(word)) for word in arguments)
