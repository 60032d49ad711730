"""Snakemake's output as one line that says how many rounds are done, what runs and when it will end.

A Snakemake logger plugin (`snakemake --logger allround`; profiles/default asks for it). Dry runs, `--quiet`, `--touch`,
reports, locks and a run with nothing to do print what they print without it; with `--verbose` or `--printshellcmds`
the usual lines of every job come above the progress line.
"""

from dataclasses import dataclass, field  # without annotations from __future__: Snakemake wants the types themselves

from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

from snakemake_logger_plugin_allround.handler import LogHandler

__all__ = ["LogHandler", "LogHandlerSettings"]


@dataclass
class LogHandlerSettings(LogHandlerSettingsBase):
    """Settings of the plugin on Snakemake's command line: --logger-allround-plain."""

    plain: bool = field(default=False, metadata={"help": "Print what Snakemake prints without this plugin."})
