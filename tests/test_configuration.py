"""What a user would lose: an hour until a typo is found. Every mistake is one line, before any job starts."""

from __future__ import annotations

import re
import tomllib

import numpy as np
import pytest
import yaml

from allround import study
from allround.errors import AllroundError

SITE = {"study": "tiny", "data": "data", "device": "auto", "threads": 1, "jobs_per_gpu": 4, "memory_gb": 8, "keep": []}
TINY = {
    "datasets": ["digits"],
    "learners": ["mlp"],
    "strategies": ["random", "margin"],
    "start": {"size": 20, "by": "random"},
    "budget": 5,
    "rounds": 3,
    "seeds": 2,
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with the shipped schemas and catalogue, and an empty data/ and results/."""
    from conftest import REPOSITORY, copy_workspace

    copy_workspace(REPOSITORY, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(root, site=(), **changes):
    entry = {key: value for key, value in {**TINY, **changes}.items() if value is not None}
    (root / "config/studies/tiny.yaml").write_text(yaml.safe_dump(entry))
    return study.load({**SITE, **dict(site)}, root)


def test_names_resolve_to_complete_settings(root):
    tiny = load(root)
    assert tiny.seeds == [0, 1]
    assert tiny.start["name"] == "random20"
    assert tiny.labels_needed == 30
    assert tiny.arms == {"random@5": "random", "margin@5": "margin"}
    assert len(tiny.cells()) == 2 * (1 + 2 * 2)
    assert tiny.learners["mlp"]["initialisation"] == "scratch"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"datasets": ["digit"]},
            r"key 'datasets': unknown dataset 'digit'. Did you mean 'digits'\? Allowed: ",
        ),
        ({"learners": ["mpl"]}, r"unknown learner 'mpl'. Did you mean 'mlp'\?"),
        ({"strategies": ["badg"]}, r"unknown strategy 'badg'. Did you mean 'badge'\?"),
        ({"strategies": []}, r"key 'strategies'.*non-empty|key 'strategies'.*too short"),
        ({"strategies": ["random", "random"]}, r"key 'strategies'.*non-unique"),
        ({"budgte": 5}, r"unknown key 'budgte'. Did you mean 'budget'\?"),
        ({"budget": None}, r"key 'budget' is missing \(labels bought in a round"),
        ({"budget": 0}, r"key 'budget'.*allowed: labels bought in a round, a whole number from 1"),
        ({"budget": "many"}, r"key 'budget'.*'many' is not of type 'integer'"),
        ({"rounds": 0}, r"key 'rounds'"),
        ({"seeds": [1, 1]}, r"key 'seeds'"),
        ({"start": {"size": 20, "by": "facility"}}, r"key 'start.by': unknown value 'facility'. Allowed|Did you mean"),
        ({"start": {"size": 20}}, r"key 'start': key 'by' is missing"),
        ({"start": {"size": 20, "by": "random", "seed": 1}}, r"unknown key 'seed'"),
    ],
)
def test_a_mistake_in_a_study_is_one_line_with_a_remedy(root, changes, message):
    with pytest.raises(AllroundError, match=message) as error:
        load(root, **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ({"device": "gpu"}, r"key 'device'.*allowed: auto, cpu, cuda"),
        ({"stduy": "tiny"}, r"unknown key 'stduy'. Did you mean 'study'\?"),
        ({"keep": ["checkpoint"]}, r"unknown value 'checkpoint'. Did you mean 'checkpoints'\?"),
        ({"study": "tinny"}, r"unknown study 'tinny'. Did you mean 'tiny'\?"),
        ({"study": "nowhere/tiny.yaml"}, r"study nowhere/tiny.yaml: no such file"),
        ({"threads": 0}, r"key 'threads'"),
        ({"memory_gb": 0}, r"key 'memory_gb'"),
    ],
)
def test_a_mistake_in_the_site_is_one_line_with_a_remedy(root, site, message):
    with pytest.raises(AllroundError, match=message) as error:
        load(root, site=site)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "entry", "message"),
    [
        ("strategies", {"margin": 5}, r"entry 'margin': must hold keys and values, not 5"),
        ("learners", {"mlp": "tiny"}, r"entry 'mlp': must hold keys and values, not 'tiny'"),
        (
            "strategies",
            {"margin": {"temperature": 2}},
            r"entry 'margin'.*unknown hyperparameter 'temperature'",
        ),
        (
            "strategies",
            {"margin": {"strategy": "marge"}},
            r"entry 'margin'.*unknown strategy 'marge'. Did you",
        ),
        (
            "learners",
            {"mlp": {"architecture": "mlpp"}},
            r"entry 'mlp'.*unknown architecture 'mlpp'. Did you",
        ),
        (
            "learners",
            {"mlp": {"architecture": "mlp", "epoch": 3}},
            r"entry 'mlp'.*unknown key 'epoch'. Did you",
        ),
        ("datasets", {"digits": {"source": "digit"}}, r"entry 'digits'.*unknown source 'digit'. Did you mean 'digits'"),
        ("datasets", {"digits": {"source": "npz", "options": {"file": "x.npz"}}}, r"dataset 'digits'.*data/x.npz"),
    ],
)
def test_a_mistake_in_the_catalogue_is_one_line_with_a_remedy(root, file, entry, message):
    path = root / f"config/catalogue/{file}.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **entry}))
    with pytest.raises(AllroundError, match=message) as error:
        load(root)
    assert "\n" not in str(error.value)


def test_a_study_file_elsewhere_does_not_take_over_the_results_of_another(root, tmp_path):
    other = tmp_path / "elsewhere/tiny.yaml"
    other.parent.mkdir()
    other.write_text(yaml.safe_dump(TINY))
    with pytest.raises(AllroundError, match=r"has the same name and would share its results; rename one"):
        load(root, site={"study": str(other)})


def test_broken_yaml_names_its_line(root):
    (root / "config/catalogue/learners.yaml").write_text("mlp: {architecture: mlp\n  epochs: 3\n")
    with pytest.raises(AllroundError, match=r"learners.yaml line 2"):
        load(root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 2000}, r"= 4020 labels, but there are only \d+ training examples; lower budget, rounds or start"),
        ({"start": {"size": 4, "by": "random"}}, r"seed set of 4 is smaller than the number of classes \(10\)"),
    ],
)
@pytest.mark.parametrize("converted", [True, False])
def test_sizes_that_do_not_fit_the_dataset_are_found_before_the_first_round(
    copy, monkeypatch, changes, message, converted
):
    monkeypatch.chdir(copy.root)
    if not converted:
        (copy.root / "results/datasets/digits.h5").unlink()
    with pytest.raises(AllroundError, match=message):
        load(copy.root, **changes)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"query": {"classes": ["truck"]}},
            r"dataset 'digits', strategy 'mine'.*'query': unknown class 'truck'. Allowed: 0",
        ),
        ({"query": {"classes": [10]}}, r"'query': there is no class 10; allowed: 0 to 9"),
        ({"query": {"file": "set.csv"}}, r"'query': set.csv lists index 5000; allowed: 0 to 1296"),
        ({"query": {"file": "no.csv"}}, r"'query': cannot read file 'no.csv'"),
        ({"query": "labelled", "partitions": 6}, r"'mine': partitions 6 is more than the budget 5"),
    ],
)
@pytest.mark.parametrize("converted", [True, False])
def test_a_set_that_does_not_fit_the_dataset_is_found_before_the_first_round(
    copy, monkeypatch, entry, message, converted
):
    monkeypatch.chdir(copy.root)
    if not converted:
        (copy.root / "results/datasets/digits.h5").unlink()
    (copy.root / "set.csv").write_text("index\n3\n5000\n")
    path = copy.root / "config/catalogue/strategies.yaml"
    path.write_text(yaml.safe_dump({"mine": {"strategy": "smi", **entry}}))
    with pytest.raises(AllroundError, match=message) as error:
        load(copy.root, strategies=["mine"])
    assert "\n" not in str(error.value)


def test_images_that_are_not_as_they_have_to_be_are_found_before_the_first_job(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, labels = np.zeros((12, 8, 8, 1), np.uint8), np.arange(12)
    np.savez(tmp_path / "few.npz", x_train=images, y_train=labels % 10 + 1, x_test=images, y_test=labels % 10)
    (root / "config/catalogue/datasets.yaml").write_text("digits: {source: npz, options: {file: few.npz}}\n")
    with pytest.raises(AllroundError, match=r"few.npz.*no image of class '0'") as error:
        load(root, site={"data": str(tmp_path)})
    assert "\n" not in str(error.value)


def test_snakemake_prints_the_one_line_and_starts_nothing(workspace):
    workspace.edit("config/studies/tiny.yaml", "margin", "margn")
    output = workspace.snakemake(ok=False)
    assert "unknown strategy 'margn'. Did you mean 'margin'?" in output
    assert "Traceback" not in output
    assert not list((workspace.root / "results").rglob("*.h5"))


def test_the_conda_environment_of_the_rules_is_what_the_package_needs():
    from conftest import REPOSITORY

    environment = yaml.safe_load((REPOSITORY / "workflow/envs/allround.yaml").read_text())
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert environment["dependencies"][-1]["pip"] == project["dependencies"]


def test_every_kind_of_training_gets_the_same_on_a_cluster():
    from conftest import REPOSITORY

    asked = yaml.safe_load((REPOSITORY / "profiles/slurm/profile.yaml").read_text()).get("set-resources", {})
    assert asked.get("train_member") == asked.get("train_again") == asked.get("train")  # Snakemake goes by rules' names
    rules = (REPOSITORY / "workflow/rules/train.smk").read_text()
    member = rules.partition("use rule train as train_member with:")[2].partition("\n\n\n")[0]
    assert member  # the same rule,
    assert "resources:" not in member  # with nothing of its own
    train, again = (re.search(rf"\nrule {rule}:.*?(    resources:.*?)    params:", rules, re.S)[1] for rule in
                    ("train", "train_again"))  # fmt: skip
    assert again == train


def test_what_is_asked_of_a_cluster_follows_the_images_before_they_are_converted(workspace):
    shapes = {"x_train": (1000, 200, 200, 3), "x_test": (250, 200, 200, 3)}  # 0.12 MB an image, 150 MB in all
    arrays = {name: np.zeros(shape, np.uint8) for name, shape in shapes.items()}
    arrays |= {f"y_{name}": np.arange(shapes[f"x_{name}"][0]) % 10 for name in ("train", "test")}
    (workspace.root / "data").mkdir(exist_ok=True)
    np.savez_compressed(workspace.root / "data/large.npz", **arrays)
    entry = "large: {source: npz, options: {file: large.npz}}"
    workspace.edit("config/catalogue/datasets.yaml", "\ndigits:", f"\n{entry}\ndigits:")
    study = (workspace.root / "config/studies/tiny.yaml").read_text()
    workspace.study("large", study.replace("[digits]", "[large]").replace("size: 20", "size: 200"))
    asked = {}
    for part in workspace.snakemake("-n", study="large").split("\nrule ")[1:]:
        if found := re.search(r"mem_mb=(\d+)", part):
            asked.setdefault(part.partition(":")[0], set()).add(int(found[1]))
    (dataset,), (embed,), (query,) = asked["dataset"], asked["embed"], asked["query"]
    assert dataset == embed == pytest.approx(2000 + 2 * 150, abs=2)
    assert query == pytest.approx(2000 + 1000 * 2 * 2048 * 4 / 1e6, abs=2)
    assert sorted(asked["train"]) == pytest.approx([2000 + 3 * n * 0.12 for n in (200, 205, 210)], abs=2)


def test_every_shipped_study_is_valid(root):
    for path in sorted((root / "config/studies").glob("*.yaml")):
        data = root / "data"
        data.mkdir(exist_ok=True)
        for name in ("cifar10", "fashion_mnist"):
            (data / f"{name}.npz").touch()  # only its presence is checked before the first job
        assert study.load({**SITE, "study": path.stem}, root).name == path.stem
