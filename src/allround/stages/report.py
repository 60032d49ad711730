"""Report: the figures, the tables behind them and one self-contained page, from a study's table of rounds.

Writes report.html, a folder of figures (svg and pdf), summary.csv (one row an arm), pairwise.csv (one row a pair of
strategies) and efficiency.csv (one row an arm and accuracy). Needs no cell of the study, only its tables.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from allround.artifacts import read_json, write_text
from allround.errors import AllroundError
from allround.evaluation.efficiency import efficiency as efficiency_of
from allround.evaluation.figures import write_figures
from allround.evaluation.pairwise import pairwise as pairwise_of
from allround.evaluation.report import render, summarise
from allround.evaluation.statistics import curves, read_rounds
from allround.identity import digest
from allround.job import run_stage


def report(
    *,
    rounds: Path,
    provenance: Path,
    report: Path,
    summary: Path,
    pairwise: Path,
    efficiency: Path,
    figures: Path,
    identity: str,
    **_: object,
) -> dict:
    """Write everything that a reader of the study sees. figures: a folder."""
    origin = read_json(provenance) | {"study": json.loads(identity)["settings"]["study"]}
    written = origin.pop("rounds")
    if rounds.exists() and written != digest(rounds.read_text(encoding="utf-8", errors="replace")):
        raise AllroundError(
            f"{rounds}: not the table that {provenance} was written with: damaged, or edited by hand; "
            "delete both and run the same command again."
        )
    table = read_rounds(rounds)
    ratios, arms = efficiency_of(table), summarise(table)
    write_csv(efficiency, ratios)
    write_csv(summary, arms)
    write_csv(pairwise, pairwise_of(table))
    drawn = write_figures(figures, curves(table), ratios, arms)
    write_text(report, render(table, origin))
    return {"figures": len(drawn)}


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """A table at eight digits: the last bits of a float are not the same on every machine."""
    write_text(path, table.to_csv(index=False, float_format="%.8g", lineterminator="\n"))


if __name__ == "__main__":
    run_stage(
        report, inputs=("rounds", "provenance"), outputs=("report", "summary", "pairwise", "efficiency", "figures")
    )
