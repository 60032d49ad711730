"""What reruns, exactly: the table of the README, line by line. What a user would lose: finished GPU hours, or trust.

The tiny study has 1 seed, 3 rounds and random, margin, glister. Finished, it has 7 trainings (1 shared), 3 embeddings
(1 shared), 6 queries and 6 labels. Embeddings are deleted after use, so a query that runs again needs its own again;
by default (`keep: []`) so are checkpoints, and an embedding that is made again then needs its training again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

ALL = {"collect": 1, "report": 1}
ONE_ARM = {"query": 2, "label": 2, "train": 2, "embed": 2, **ALL}


def nothing(work):
    pass


def touch_everything(work):
    for folder in ("src", "workflow", "config", "results"):
        for path in (work.root / folder).rglob("*"):
            os.utime(path)


def edit_comment(work):
    work.edit("src/allround/strategies/margin.py", "NEEDS", "# a remark\n\nNEEDS")


def edit_docstring(work):
    work.edit("src/allround/strategies/margin.py", "Margin sampling", "Margin sampling, of course")


def edit_formula(work):
    work.edit("src/allround/strategies/margin.py", "top[:, 0] -", "2 * top[:, 0] -")


def change_hyperparameter(work):
    work.edit("config/catalogue/strategies.yaml", "glister: {}", "glister: {step_size: 0.02}")


def state_default_hyperparameter(work):
    work.edit("config/catalogue/strategies.yaml", "glister: {}", "glister: {step_size: 0.01}")


def one_more_round(work):
    work.edit("config/studies/tiny.yaml", "rounds: 3", "rounds: 4")


def one_more_strategy(work):
    work.edit("config/studies/tiny.yaml", "margin, glister]", "margin, glister, entropy]")


def one_more_seed(work):
    work.edit("config/studies/tiny.yaml", "seeds: 1", "seeds: 2")


def another_budget(work):
    work.edit("config/studies/tiny.yaml", "budget: 5", "budget: 6")


def change_training(work):
    work.edit("config/catalogue/learners.yaml", "lr: 0.05}, epochs: 2", "lr: 0.06}, epochs: 2")


def change_other_learner(work):
    work.edit("config/catalogue/learners.yaml", "width: 8", "width: 9")


def edit_training_code(work):
    work.edit("src/allround/stages/train.py", "def _say(line: str)", "def _say(line: object)")


def edit_shared_formula(work):
    work.edit("src/allround/pool.py", "return block.softmax(1)", "return (2 * block).softmax(1)")


def edit_other_strategy(work):
    work.edit("src/allround/strategies/badge.py", "NEEDS =", "EXTRA = 1\nNEEDS =")


def edit_other_architecture(work):
    work.edit(
        "src/allround/learners/architectures/cnn.py", "from torch import nn", "from torch import nn\n\nEXTRA = 1\n"
    )


def add_another_view(work):
    source = work.root / "src/allround/views/outputs.py"
    source.with_name("other.py").write_text(source.read_text())


def edit_view(work):
    work.edit("src/allround/views/outputs.py", "features.astype(dtype", "(1 * features).astype(dtype")


def edit_report_code(work):
    work.edit("src/allround/stages/report.py", "def report(", "EXTRA = 1\n\n\ndef report(")


def edit_report_template(work):
    work.edit("src/allround/evaluation/report.html.j2", "</body>", "<p>More.</p></body>")


def describe_study(work):
    work.edit("config/studies/tiny.yaml", "datasets:", "description: new words\ndatasets:")


def delete_checkpoints(work):
    for path in (work.root / "results").rglob("checkpoint.pt"):
        path.unlink()


def delete_checkpoints_and_add_strategy(work):
    delete_checkpoints(work)
    one_more_strategy(work)


def delete_checkpoints_and_change_training(work):
    delete_checkpoints(work)
    change_training(work)


def keep_other_things(work):
    work.keep("[embeddings]")


def delete_report(work):
    (work.root / "results/studies/tiny/report.html").unlink()


def lose_one_result(work):
    (work.root / "results/digits/tiny/random20/margin@5/seed0/round002/metrics.json").unlink()


TABLE = [  # change, what reruns, and how many trainings more where checkpoints are not kept
    (nothing, {}, 0),
    (touch_everything, {}, 0),
    (edit_comment, {}, 0),
    (edit_docstring, {}, 0),
    (state_default_hyperparameter, {}, 0),
    (change_other_learner, {}, 0),
    (edit_other_strategy, {}, 0),
    (edit_other_architecture, {}, 0),
    (add_another_view, {}, 0),
    (delete_checkpoints, {}, 0),
    (keep_other_things, {}, 0),
    (edit_formula, ONE_ARM, 1),
    (edit_shared_formula, {"query": 6, "label": 6, "train": 6, "embed": 3, **ALL}, 1),
    (change_hyperparameter, ONE_ARM, 1),
    (delete_checkpoints_and_change_training, {"train": 7, "embed": 3, "query": 4, "label": 4, **ALL}, 0),
    (one_more_strategy, ONE_ARM, 1),
    (delete_checkpoints_and_add_strategy, {**ONE_ARM, "train_again": 1}, 0),
    # the last round of margin and of glister; random looks at no model
    (one_more_round, {"query": 3, "label": 3, "train": 3, "embed": 2, **ALL}, 2),
    (one_more_seed, {"seed_set": 1, "train": 7, "embed": 3, "query": 6, "label": 6, **ALL}, 0),
    (another_budget, {"train": 6, "embed": 3, "query": 6, "label": 6, **ALL}, 1),
    # random looks at no model: its queries stay
    (change_training, {"train": 7, "embed": 3, "query": 4, "label": 4, **ALL}, 0),
    # what random trains on, and how, does not depend on it
    (edit_view, {"embed": 3, "query": 4, "label": 4, "train": 4, **ALL}, 1),
    (lose_one_result, {"train": 1, **ALL}, 0),
    (edit_report_code, {"report": 1}, 0),
    (edit_report_template, {"report": 1}, 0),
    (delete_report, {"report": 1}, 0),
    (describe_study, ALL, 0),
]


def name(value):
    return value.__name__ if callable(value) else ""


@pytest.mark.parametrize(("change", "reruns", "again"), TABLE, ids=name)
def test_a_change_reruns_what_it_invalidates_and_nothing_else(copy, change, reruns, again):
    change(copy)
    assert copy.planned() == reruns


@pytest.mark.parametrize(("change", "reruns", "again"), TABLE, ids=name)
def test_without_checkpoints_a_change_reruns_no_more_than_the_trainings_whose_model_it_needs(
    bare, change, reruns, again
):
    change(bare)
    assert bare.planned() == (reruns | {"train_again": again} if again else reruns)


def test_a_finished_study_is_planned_without_looking_at_its_cells(copy):
    assert "metrics.json" not in copy.snakemake("--summary")
    lose_one_result(copy)
    assert copy.snakemake("--summary").count("metrics.json") == 1


def test_a_study_that_names_the_same_things_shares_all_of_their_work(copy):
    copy.study("other", (copy.root / "config/studies/tiny.yaml").read_text().replace("margin, glister", "margin"))
    assert copy.planned(study="other") == ALL


def test_a_study_by_path_is_the_same_study(copy):
    assert copy.planned(study="config/studies/tiny.yaml") == {}


def test_a_refactoring_that_its_author_vouches_for_reruns_nothing(copy):
    edit_formula(copy)
    copy.snakemake("--touch")
    assert copy.planned() == {}
    one_more_strategy(copy)
    assert copy.planned() == ONE_ARM


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (change_training, "6 finished trainings ({time}) will be made again: made with other settings of learner "
         "'tiny' (optimiser)."),
        (change_hyperparameter, "2 finished trainings ({time}) will be made again: made with another labelled set."),
        (edit_training_code, "6 finished trainings ({time}) will be made again: made with other code "
         "of the training."),
    ],
    ids=["settings", "labels", "code"],
)  # fmt: skip
def test_finished_results_are_never_made_again_without_a_word(copy, change, said):
    for path in (copy.root / "results").rglob("cost/train.json"):
        hours = 1 if "glister" in str(path) else 0
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": 3600 * hours}))
    lose_one_result(copy)  # what is missing is not finished
    assert "made again" not in copy.snakemake("-n")
    change(copy)
    (line,) = [line for line in copy.snakemake("-n").splitlines() if line.startswith("results: ")]
    assert said.replace("{time}", "2 h of training") in line


def test_a_forced_run_and_one_whose_touch_is_outdated_say_it_too(copy):
    def said():
        return [line for line in copy.snakemake("-n", *more).splitlines() if line.startswith("results: ")]

    more = ("--forcerun", "train")
    assert "7 finished trainings" in said()[0] and "the same settings and code (forced)" in said()[0]
    more = ()
    edit_training_code(copy)
    copy.snakemake("--touch")
    copy.edit("src/allround/stages/train.py", "def _say(line: object)", "def _say(line: str)")
    assert copy.planned()["train"] == 7  # the record counts, not what the files say
    assert "other code of the training" in said()[0]
    status = [sys.executable, "-m", "allround.status", "tiny"]
    told = subprocess.run(status, cwd=copy.root, env=copy.environment(), capture_output=True, text=True).stdout
    assert "0 of 7 rounds" in told and "7 rounds of these made by other settings or code" in told


def test_nonsense_in_what_is_there_stops_no_plan(copy):
    for number, identity in enumerate(['"text"', "[1]", '{"settings": null}', '{"settings": {}, "inputs": null}']):
        path = sorted((copy.root / "results/digits").rglob("metrics.json"))[number]
        path.write_text(f'{{"identity": {identity}}}')
        (path.parent / "cost/train.json").write_text('{"seconds": NaN}')
    shutil.rmtree(copy.root / ".snakemake/metadata")
    output = copy.snakemake("-n", ok=False)
    assert "was made by another configuration" in output and "Traceback" not in output


def test_a_dataset_whose_source_is_gone_is_not_deleted_to_be_made_again(workspace):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (60, 8, 8), np.uint8),
        "x_test": rng.integers(0, 256, (20, 8, 8), np.uint8),
    }
    arrays |= {"y_train": np.arange(60) % 10, "y_test": np.arange(20) % 10}
    (workspace.root / "data").mkdir(exist_ok=True)
    np.savez(workspace.root / "data/mine.npz", **arrays)
    catalogue = workspace.root / "config/catalogue/datasets.yaml"
    catalogue.write_text(f"{catalogue.read_text()}\nmine: {{source: npz, options: {{file: mine.npz}}}}\n")
    study = (workspace.root / "config/studies/tiny.yaml").read_text()
    workspace.study("mine", study.replace("[digits]", "[mine]").replace("[random, margin, glister]", "[random]"))
    workspace.snakemake(study="mine")
    made = workspace.root / "results/datasets/mine.h5"
    before = made.read_bytes()
    (workspace.root / "data/mine.npz").unlink()
    assert workspace.planned(study="mine") == {}
    workspace.edit("src/allround/stages/dataset.py", "if memory_gb is not None:", "if not memory_gb is None:")
    output = workspace.snakemake(study="mine", ok=False)
    assert "was made by other settings or code and would be made again, but data/mine.npz: no such file" in output
    assert made.read_bytes() == before
    workspace.snakemake("--touch", study="mine")
    assert workspace.planned(study="mine") == {}


def test_a_new_strategy_runs_without_touching_finished_work(copy):
    before = {path: path.stat().st_mtime_ns for path in (copy.root / "results/digits").rglob("*") if path.is_file()}
    one_more_strategy(copy)
    copy.snakemake()
    after = {path: path.stat().st_mtime_ns for path in before if path.exists()}
    changed = {str(path.relative_to(copy.root)) for path in after if after[path] != before[path]}
    shared = "results/digits/tiny/random20/start/seed0/round000/"  # its embedding is made again, and deleted again
    assert after.keys() == before.keys()
    assert changed <= {shared + "cost/embed_outputs.json", shared + "log/embed_outputs.log"}
    assert copy.planned() == {}


@pytest.mark.parametrize(
    ("files", "at_once", "with_one_more_round"),
    [
        (["results/datasets/*.h5"], {}, {"dataset": 1}),
        (["results/digits/*/*/*/*/*/cost", "results/digits/*/*/*/*/*/log"], {}, {}),
        (["results/digits/*/*/*/*/round001/*.csv", ".snakemake/log", ".snakemake/auxiliary"], {}, {}),
        ([".snakemake/metadata/*", ".snakemake/incomplete"], {}, {}),
        (["results/studies/tiny"], ALL, {}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_deletion_costs_what_the_page_on_disk_says(bare, files, at_once, with_one_more_round):
    for pattern in files:
        for path in bare.root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert bare.planned() == at_once
    one_more_round(bare)
    usual = {"query": 3, "label": 3, "train": 3, "train_again": 2, "embed": 2, **ALL}
    assert bare.planned() == usual | with_one_more_round


@pytest.mark.parametrize("change", [one_more_round, one_more_strategy], ids=name)
def test_without_checkpoints_a_larger_study_leaves_every_finished_result_as_it_was(bare, change):
    before = {path: whole for path, whole in bare.files().items() if not path.startswith("datasets")}
    costs = {path: path.read_bytes() for path in (bare.root / "results").rglob("cost/train.json")}
    change(bare)
    bare.snakemake()
    after = bare.files()
    assert {path: after.get(path) for path in before} == before
    assert {path: path.read_bytes() for path in costs} == costs
    assert not [path for path in after if path.endswith(("checkpoint.pt", "outputs.h5"))]
    assert bare.planned() == {}


def test_a_larger_study_goes_on_after_it_was_interrupted(bare):
    """The tables do not know the new result yet, and its checkpoint is wanted again."""
    one_more_round(bare)
    bare.snakemake("results/digits/tiny/random20/margin@5/seed0/round003/metrics.json")
    bare.edit("config/studies/tiny.yaml", "rounds: 4", "rounds: 5")
    assert bare.planned() == {"query": 5, "label": 5, "train": 5, "train_again": 1, "embed": 3, **ALL}
    bare.snakemake()
    assert bare.planned() == {}


def test_a_job_of_a_cluster_makes_a_checkpoint_again_alone(bare):
    """What an executor starts inside a job of train_again: a snakemake that is told what to do, and forced."""
    one_more_round(bare)
    cell = bare.root / "results/digits/tiny/random20/margin@5/seed0/round002"
    before = (cell / "metrics.json").stat().st_mtime_ns
    job = "train_again:dataset=digits,learner=tiny,start=random20,arm=margin@5,seed=0,round=002"
    inside = ["--force", "--target-files-omit-workdir-adjustment", "--no-hooks", "--nolock", "--ignore-incomplete"]
    inside += ["--rerun-triggers", "mtime", "params"]
    bare.snakemake(*inside, "--mode", "remote", "--allowed-rules", "train_again", "--target-jobs", job)
    assert (cell / "checkpoint.pt").exists()
    assert (cell / "metrics.json").stat().st_mtime_ns == before


def test_a_forced_report_leaves_finished_results_alone(bare):
    assert bare.planned("--forcerun", "report") == {"report": 1}
    one_more_round(bare)
    assert bare.planned("--forcerun", "report")["train"] == 3


def test_a_finished_result_outlives_the_failure_of_what_makes_its_checkpoint_again(bare):
    one_more_round(bare)
    cell = bare.root / "results/digits/tiny/random20/margin@5/seed0/round002"
    labels = cell / "labels.csv"
    metrics, whole = (cell / "metrics.json").read_bytes(), labels.read_text()
    labels.write_text(whole.replace(",2\n", ",1\n", 1))
    output = bare.snakemake("--cores", "2", ok=False)
    assert "round002/labels.csv: " in output
    assert (cell / "metrics.json").read_bytes() == metrics
    assert (cell / "cost/train.json").exists()
    labels.write_text(whole)
    bare.snakemake()
    assert bare.planned() == {}


def test_the_tables_are_made_again_for_other_results_and_not_for_newer_files(copy):
    """As after a copy that keeps no times, or where another study made a result again."""
    for cell in ("start/seed0/round000", "margin@5/seed0/round002"):
        os.utime(copy.root / f"results/digits/tiny/random20/{cell}/metrics.json")
    assert copy.planned() == {}
    rounds = copy.root / "results/studies/tiny/rounds.csv"
    whole, before = rounds.read_text(), rounds.stat()
    start, last = (re.sub(rf"(,5,0,{row},\d+),0\.", r"\1,0.0", whole) for row in (0, 2))
    for broken in (start, last, whole[:300], '"' * 200_001):
        assert broken != whole
        rounds.write_text(broken)
        os.utime(rounds, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert copy.planned() == ALL


def test_results_without_records_are_not_mixed_with_another_configuration(copy):
    shutil.rmtree(copy.root / ".snakemake")
    assert copy.planned() == {}
    change_training(copy)
    output = copy.snakemake("-n", ok=False)
    assert "was made by another configuration, and .snakemake/ has no record of it" in output
    copy.snakemake("--touch", "--forceall")
    assert copy.planned() == {}


def test_forcing_one_result_works_when_it_is_finished(copy):
    result = "results/digits/tiny/random20/margin@5/seed0/round001/metrics.json"
    assert copy.planned("--force", result)["train"] == 1


def test_a_run_without_the_profile_is_refused_before_it_reruns_everything(copy):
    assert "only the rerun triggers mtime and params fit" in copy.snakemake(
        "-n", "--workflow-profile", "none", ok=False
    )


def test_forcing_a_rule_still_works_when_its_inputs_were_deleted(copy):
    assert copy.planned("--forcerun", "query")["embed"] == 3
