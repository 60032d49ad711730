"""What strategies need beyond one forward pass, through the real workflow: posteriors, members, the model, sets."""

from __future__ import annotations

import json

import pytest

from allround import artifacts

STUDY = """
datasets: [digits]
learners: [tiny]
strategies: [random, entropy_ensemble, bald, adversarial_bim, near_ones]
start: {size: 40, by: balanced}
budget: 5
rounds: 2
seeds: 1
"""
STRATEGIES = """
entropy_ensemble: {strategy: entropy, posterior: ensemble, samples: 3}
near_ones: {strategy: smi, query: {classes: ['1', 7]}}
"""


@pytest.fixture(scope="module")
def needy(tmp_path_factory):
    """A study whose strategies need all that there is, run to its end."""
    from conftest import new_workspace

    work = new_workspace(tmp_path_factory.mktemp("needy") / "work")
    work.study("needy", STUDY)
    catalogue = work.root / "config/catalogue/strategies.yaml"
    catalogue.write_text(catalogue.read_text() + STRATEGIES)
    work.keep("[checkpoints, embeddings]")
    work.snakemake(study="needy")
    return work


def test_every_need_is_made_and_a_second_run_has_nothing_to_do(needy):
    home = needy.root / "results/digits/tiny/balanced40/start/seed0/round000"
    assert sorted(path.name for path in (home / "pool").iterdir()) == ["ensemble3.h5", "mc_dropout10.h5", "outputs.h5"]
    assert artifacts.open_view(home / "pool/ensemble3.h5").fields == {"mc_logits": (3, 10)}
    assert artifacts.open_view(home / "pool/mc_dropout10.h5").fields == {"mc_logits": (10, 10)}
    for arm in ("entropy_ensemble", "bald", "adversarial_bim", "near_ones"):
        query = home.parents[2] / f"{arm}@5/seed0/round000/query.csv"
        assert len(artifacts.read_query(query).index) == 5
    assert needy.planned(study="needy") == {}


def test_members_of_an_ensemble_differ_and_their_cost_is_counted(needy):
    home = needy.root / "results/digits/tiny/balanced40/start/seed0/round000"
    draws = artifacts.open_view(home / "pool/ensemble3.h5").read("mc_logits")
    assert (draws[0] != draws[1]).any()
    assert (draws[1] != draws[2]).any()
    costs = [json.loads((home / f"cost/{name}.json").read_text())["seconds"] for name in
             ("train", "train_member1", "train_member2")]  # fmt: skip
    table = (needy.root / "results/studies/needy/rounds.csv").read_text().splitlines()
    header = table[0].split(",")
    rows = [dict(zip(header, line.split(","), strict=True)) for line in table[1:]]
    seconds = {row["strategy"]: float(row["seconds_train"]) for row in rows if row["round"] == "0"}
    assert seconds["entropy_ensemble"] == pytest.approx(sum(costs), abs=1e-3)
    assert seconds["random"] == pytest.approx(costs[0], abs=1e-3)
    assert all(float(row["query_memory_mb"]) > 10 for row in rows if row["round"] == "0")


CHANGES = {
    "more members": (
        ("config/catalogue/strategies.yaml", "samples: 3", "samples: 4"),
        {"train_member": 1, "embed": 1, "query": 1, "label": 1, "train": 1},
    ),
    "the code of another view": (
        ("src/allround/views/mc_dropout.py", "def write(", "EXTRA = 1\n\n\ndef write("),
        {"embed": 1, "query": 1, "label": 1, "train": 1},  # bald's
    ),
    "other classes to look for": (
        ("config/catalogue/strategies.yaml", "['1', 7]", "['1', 8]"),
        {"query": 1, "label": 1, "train": 1},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_reruns_what_needs_it_and_nothing_else(needy, change, tmp_path):
    from conftest import copy_workspace

    work = copy_workspace(needy.root, tmp_path / "work")
    edit, expected = CHANGES[change]
    work.edit(*edit)
    assert work.planned(study="needy") == {**expected, "collect": 1, "report": 1}
