"""What a user would lose: days until the first look at a study that runs, or any look at one whose jobs failed."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest

from allround.interim import comparable
from allround.layout import START, Cell, arm
from allround.stages.collect import cells

ARM = "results/digits/tiny/random20"


def ask(work, *arguments):
    command = [sys.executable, "-m", "allround.interim", *arguments]
    return subprocess.run(command, cwd=work.root, env=work.environment(), capture_output=True, text=True)


def test_half_of_a_study_has_a_report_of_its_own_that_says_so(copy):
    before = (copy.root / "results/studies/tiny/report.html").read_bytes()
    for place in ("margin@5/seed0/round002", "random@5/seed0/round001", "glister@5/seed0/round002"):
        (copy.root / ARM / place / "metrics.json").unlink()
    said = ask(copy, "tiny")
    assert (said.returncode, said.stdout) == (0, "The report so far: results/studies/tiny/interim/report.html\n"), said
    folder = copy.root / "results/studies/tiny/interim"
    table = pd.read_csv(folder / "rounds.csv")
    ends = table.groupby("strategy")["round"].max().to_dict()
    assert ends == {"margin": 1, "glister": 1, "random": 0}  # random's round 2 has no round 1 before it
    page = (folder / "report.html").read_text()
    assert "4 of 7 trainings are finished. Left out: 1 of them" in page
    assert "4 rounds of 9 in the study" in page
    assert sorted(path.suffix for path in (folder / "figures").iterdir()).count(".pdf") >= 2
    assert (copy.root / "results/studies/tiny/report.html").read_bytes() == before
    assert copy.planned() == {"train": 3, "collect": 1, "report": 1}  # snakemake takes no notice of it


def test_a_damaged_result_ends_its_curve_and_is_named(copy):
    (copy.root / ARM / "margin@5/seed0/round001/metrics.json").write_text("{")
    (copy.root / ARM / "glister@5/seed0/round000/query.csv").write_text("nonsense")
    assert ask(copy, "tiny").returncode == 0
    folder = copy.root / "results/studies/tiny/interim"
    ends = pd.read_csv(folder / "rounds.csv").groupby("strategy")["round"].max().to_dict()
    assert ends == {"margin": 0, "random": 2}
    page = (folder / "report.html").read_text()
    assert "Left out, and all that follows in its curve: results/digits/tiny/random20/" in page


def test_a_whole_study_has_the_same_figures_so_far_as_at_the_end(copy):
    assert ask(copy, "tiny").returncode == 0
    whole, so_far = (copy.root / "results/studies/tiny" / folder for folder in ("", "interim"))
    for name in ("rounds.csv", "summary.csv", "pairwise.csv", "efficiency.csv"):
        assert (so_far / name).read_bytes() == (whole / name).read_bytes()


def test_where_nothing_is_finished_it_says_so_in_one_line(workspace):
    said = ask(workspace, "tiny")
    assert said.returncode == 1
    assert said.stderr == (
        "allround interim: study 'tiny': no training is finished yet, so there is nothing to report.\n"
    )
    assert not (workspace.root / "results/studies/tiny/interim").exists()


STUDY = {
    "datasets": ["d"], "learners": ["l"], "strategies": ["random", "margin"], "budget": 5, "rounds": 5, "seeds": [0, 1],
    "start": {"name": "s"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("reached", "shown", "left_out"),
    [
        ({"random": [4, 4], "margin": [4, 4]}, {"random": [4, 4], "margin": [4, 4]}, 0),
        ({"random": [4, -1], "margin": [4, -1]}, {"random": [4, -1], "margin": [4, -1]}, 0),  # a seed not begun
        ({"random": [4, 4], "margin": [4, 1]}, {"random": [4, 4], "margin": [4, 1]}, 0),  # a failed arm
        ({"random": [4, 2], "margin": [1, 2]}, {"random": [2, 2], "margin": [1, 2]}, 2),
        ({"random": [3, 0], "margin": [0, 0]}, {"random": [3, 0], "margin": [0, 0]}, 0),
        ({"random": [0, 0], "margin": [0, 0]}, {"random": [0, 0], "margin": [0, 0]}, 0),
    ],
)
def test_curves_are_shown_as_far_as_half_of_them_have_come(reached, shown, left_out):
    done = {
        Cell("d", "l", "s", arm(name, 5) if number else START, seed, number)
        for name, ends in reached.items()
        for seed, end in enumerate(ends)
        for number in range(end + 1)
    }
    points, out = comparable(list(cells(STUDY)), done)
    ends = {name: [-1, -1] for name in reached}
    for cell, name in points:
        ends[name][cell.seed] = max(ends[name][cell.seed], cell.round)
    assert (ends, out) == (shown, left_out)
