"""One whole study, end to end. What a user would lose: a curve that means what it says."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys

import pytest

from allround import artifacts


def test_all_strategies_of_a_seed_share_the_seed_set_and_the_first_model(finished):
    root = finished.root / "results/digits/tiny/random20"
    assert sorted(path.name for path in root.iterdir()) == ["glister@5", "margin@5", "random@5", "start"]
    assert (root / "start/seed0/round000/checkpoint.pt").exists()
    first = artifacts.read_labels(root / "start/seed0/round000/labels.csv").index
    for arm in ("random@5", "margin@5", "glister@5"):
        last = artifacts.read_labels(root / arm / "seed0/round002/labels.csv")
        assert last.index[:20].tolist() == first.tolist()
        assert last.round.tolist() == [0] * 20 + [1] * 5 + [2] * 5
        truth = artifacts.read_dataset(finished.root / "results/datasets/digits.h5").train.labels
        assert last.label.tolist() == truth[last.index].tolist()


def test_the_table_has_every_round_of_every_arm(finished):
    with (finished.root / "results/studies/tiny/rounds.csv").open() as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    assert len(rows) == 3 * 3
    assert {(row["strategy"], row["round"], row["n_labels"]) for row in rows} == {
        (name, str(number), str(20 + 5 * number)) for name in ("random", "margin", "glister") for number in range(3)
    }
    assert all(0 <= float(row["accuracy"]) <= 1 for row in rows)
    assert len({row["accuracy"] for row in rows if row["round"] == "0"}) == 1


def test_the_report_opens_offline_and_names_what_was_run(finished):
    study = finished.root / "results/studies/tiny"
    page = re.sub(r"<script.*?</script>", "", (study / "report.html").read_text(), flags=re.S)
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", page)
    for word in ("margin", "glister", "digits", "tiny"):
        assert word in page
    assert {".svg", ".pdf"} <= {path.suffix for path in (study / "figures").iterdir()}


def test_embeddings_are_gone_and_checkpoints_are_kept_as_configured(finished):
    assert not list((finished.root / "results").rglob("pool/*.h5"))
    assert len(list((finished.root / "results").rglob("checkpoint.pt"))) == 7


def test_costs_say_what_a_stage_took_and_on_what(finished):
    costs = list((finished.root / "results").rglob("cost/*.json"))
    assert {path.stem for path in costs} == {"seed_set", "train", "embed_outputs", "query", "label"}
    for path in costs:
        cost = json.loads(path.read_text())
        assert cost["seconds"] > 0
        assert cost["peak_memory_mb"] > 10
        assert cost["host"]
        assert cost["versions"]["python"]


def test_the_same_study_twice_gives_the_same_bytes(finished, workspace):
    workspace.keep("[checkpoints]")
    workspace.snakemake()
    assert workspace.files() == finished.files()


def test_a_stage_runs_by_hand_from_the_command_that_snakemake_prints(copy):
    query = copy.root / "results/digits/tiny/random20/random@5/seed0/round001/query.csv"
    before = query.read_bytes()
    query.unlink()
    (query.parents[1] / "round002/labels.csv").unlink()
    (query.parents[1] / "round002/metrics.json").unlink()
    printed = copy.snakemake("-n", "-p")
    command = re.search(r"(python -m allround\.launch query .*?)$", printed, re.M)[1]
    subprocess.run(command, shell=True, cwd=copy.root, env=copy.environment(), check=True, executable="/bin/bash")
    assert query.read_bytes() == before


def test_a_stage_never_overwrites_what_another_configuration_made(copy):
    labels = copy.root / "results/digits/tiny/random20/start/seed0/round000/labels.csv"
    before = labels.read_bytes()
    identity = json.loads(artifacts.identity_of(labels))
    identity["settings"]["size"] = 30
    result = subprocess.run(
        [
            *(sys.executable, "-m", "allround.stages.seed_set", "--identity", json.dumps(identity)),
            *("--dataset", "results/datasets/digits.h5", "--labels", str(labels)),
        ],
        cwd=copy.root, env=copy.environment(), text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "was made by another configuration" in result.stderr
    assert labels.read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_is_one_line(workspace):
    (workspace.root / "results").mkdir(exist_ok=True)
    (workspace.root / "results").chmod(0o500)
    output = workspace.snakemake(ok=False)
    assert "ermission" in output


def test_snakemake_report_works(copy):
    copy.snakemake("--report", "report.zip")
    assert (copy.root / "report.zip").stat().st_size > 10_000
