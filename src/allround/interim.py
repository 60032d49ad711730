"""A study's results so far: the same report as at the end, of what is finished; while it runs, or after jobs failed.

    python -m allround.interim            of the study that config/config.yaml names
    python -m allround.interim <study>    of another one, by name or by path

Writes results/studies/<study>/interim/ and nothing else. Run it where Snakemake runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median_high

from allround import finished
from allround.errors import AllroundError
from allround.evaluation.provenance import Seen
from allround.identity import canonical
from allround.layout import Cell
from allround.stages import collect
from allround.stages.report import report
from allround.study import load, site

Point = tuple[Cell, str]


def main() -> None:
    """Write the report and name it; exit with one line where there is nothing to report."""
    parser = argparse.ArgumentParser("python -m allround.interim", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", nargs="?", help="name under config/studies/ or path; default: see config/config.yaml")
    try:
        print(f"The report so far: {interim(parser.parse_args().study)}")
    except AllroundError as error:
        sys.exit(f"allround interim: {error}")


def interim(asked: str | None) -> Path:
    """Write the report of what is finished; its path. AllroundError: nothing is, or a result is damaged."""
    study = load(site(asked), Path(), look=False)
    done, _ = finished.cells(study)
    if not done:
        raise AllroundError(f"study '{study.name}': no training is finished yet, so there is nothing to report.")
    body = json.loads(canonical(study.as_dict()))  # in the order that the report at the end has
    whole, damage = readable(list(collect.cells(body)), done, body)
    points, cut = comparable(whole, done)
    if not points:
        raise AllroundError(f"study '{study.name}': no result can be read: {damage}")
    folder = Path("results/studies", study.name, "interim")
    folder.mkdir(parents=True, exist_ok=True)
    rounds, provenance = folder / "rounds.csv", folder / "provenance.json"
    total, when = len(study.cells()), time.strftime("%Y-%m-%d %H:%M")
    note = f"An interim report of {when}: {len(done)} of {total} trainings are finished."
    if cut:
        note += f" Left out: {cut} of them, behind a round that is missing or that most of the curves have not reached."
    notes = [note, *([f"Left out, and all that follows in its curve: {damage}"] if damage else [])]
    collect.write_tables(rounds, provenance, Path("results"), body, points, {"notes": notes})
    report(
        rounds=rounds,
        provenance=provenance,
        report=folder / "report.html",
        summary=folder / "summary.csv",
        pairwise=folder / "pairwise.csv",
        efficiency=folder / "efficiency.csv",
        figures=folder / "figures",
        identity=canonical({"settings": {"study": body}}),
    )
    return folder / "report.html"


def readable(points: Collection[Point], done: Collection[Cell], study: Mapping) -> tuple[list[Point], str]:
    """The points whose files are whole, and what is wrong with the first one that is not."""
    found, damage, seen = [], "", Seen()
    for cell, strategy in points:
        try:
            if cell.home in done:
                collect.row(Path("results"), study, cell, strategy, seen)
            found.append((cell, strategy))
        except AllroundError as error:
            damage = damage or str(error)
    return found, damage


def comparable(points: Collection[Point], done: Collection[Cell]) -> tuple[list[Point], int]:
    """The finished points of every curve, up to the round that at least half of its group's curves have reached.

    A curve is an arm and a seed, a group a dataset and a learner. Curves that have not begun do not count, so a seed
    that is whole is shown whole while another has yet to start, and one failed arm shortens no other.

    points: of all curves, in the order of their rounds; done: the finished cells
    Returns the points and how many finished cells are left out.
    """
    reached: dict[tuple[Cell, str], int] = {}  # the first point of a curve -> its last finished round
    for cell, strategy in points:
        curve = (replace(cell, round=0), strategy)
        if cell.home in done and reached.get(curve, -1) == cell.round - 1:
            reached[curve] = cell.round
    ends: dict[tuple[str, str], list[int]] = {}
    for (cell, _), end in reached.items():
        ends.setdefault((cell.dataset, cell.learner), []).append(end)
    last = {group: median_high([end for end in found if end] or found) for group, found in ends.items()}
    shown = [
        (cell, strategy)
        for cell, strategy in points
        if cell.round <= reached.get((replace(cell, round=0), strategy), -1)
        and cell.round <= last[cell.dataset, cell.learner]
    ]
    return shown, len(set(done) - {cell.home for cell, _ in shown})


if __name__ == "__main__":
    main()
