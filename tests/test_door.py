"""The door to strategies: what an entry or a caller may say, and what they are told where it is wrong."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_strategies import arrays

from allround import strategies
from allround.errors import AllroundError
from allround.learners.model import Classifier
from allround.pool import Pool
from allround.strategies import _settings, describe, names, run, select, settings


def choose(name: str, pool: Pool | None = None, budget: object = 3, **hyperparameters: object):
    return lambda: select(name, pool or Pool.from_arrays(**arrays()), budget=budget, **hyperparameters)


def without(*keys: str) -> Pool:
    return Pool.from_arrays(**{key: value for key, value in arrays().items() if key not in keys})


def draws(t: int) -> Pool:
    data = arrays()
    return Pool.from_arrays(**{**data, "mc_logits": data["mc_logits"][:t]})


def nan_features() -> Pool:
    data = arrays()
    data["features"][int(np.setdiff1d(np.arange(60), data["labelled"])[4])] = np.inf
    return Pool.from_arrays(**data)


FAULTS = {
    "unknown strategy": (choose("bagde"), "unknown strategy 'bagde'. Did you mean 'badge'"),
    "unknown hyperparameter": (choose("fass", betta=3), "unknown hyperparameter 'betta'. Did you mean 'beta'"),
    "a value of the wrong type": (choose("fass", beta="5"), "'beta' must be of type int .*not '5'"),
    "true for a number": (choose("fass", beta=True), "'beta' must be of type int .*not True"),
    "a number that is not finite": (choose("glister", step_size=float("nan")), "'step_size' must be of type float"),
    "an unknown value": (choose("fass", uncertainty="margn"), "unknown value 'margn'. Did you mean 'margin'"),
    "a value out of range": (choose("fass", beta=0), "'beta' must be >= 1|beta must be 1 or more"),
    "a step backwards": (choose("glister", step_size=-1.0), "'step_size' must be > 0"),
    "a budget larger than the pool": (choose("margin", budget=51), "budget 51 is larger than the pool: 50 unlabelled"),
    "no budget": (choose("margin", budget=0), "budget must be a whole number of 1 or more, not 0"),
    "half a budget": (choose("margin", budget=2.5), "budget must be a whole number of 1 or more, not 2.5"),
    "a view that is missing": (choose("margin", Pool.from_arrays(size=9)), "needs 'outputs', .*it has: none"),
    "features that are missing": (choose("coreset", without("features")), "the pool has no features"),
    "no validation set": (choose("glister", without("labelled", "labels")), "labelled set, which is empty"),
    "features that are not finite": (choose("badge", nan_features()), "features of example .* are not finite"),
    "a single draw": (choose("bald", draws(1)), "'bald' needs 2 draws or more, and mc_logits"),
    "a seed below 0": (choose("random", seed=-1), "seed must be a whole number of 0 or more, not -1"),
    "more parts than picks": (
        choose("margin", partitions=4),
        "partitions 4 is more than the budget 3; allowed: 1 to 3",
    ),
    "a value of the wrong type beside an option that follows from it": (
        choose("power", score="margn", posterior="mc_dropout"),
        "unknown value 'margn'. Did you mean 'margin'",
    ),
    "labels that are not known": (choose("glister", without("labels")), "whose labels are not known; give labels="),
    "a diverged step": (choose("glister", step_size=1e38, budget=40), "score that is not finite"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_one_line_that_says_what_is_wrong(fault):
    act, message = FAULTS[fault]
    with pytest.raises(AllroundError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)


def test_bad_input_is_found_before_any_row_is_read(monkeypatch):
    monkeypatch.setattr(Pool, "_block", lambda *_: pytest.fail("read a row"))
    for fault in (
        "unknown hyperparameter",
        "a value of the wrong type",
        "a budget larger than the pool",
        "half a budget",
    ):
        with pytest.raises(AllroundError):
            FAULTS[fault][0]()


def test_settings_are_complete_and_one_setting_has_one_form():
    """They are part of a query's identity: 1 and 1.0 must not make two."""
    assert settings("random", {}) == {"hyperparameters": {}, "needs": []}
    assert settings("random", {"partitions": 1}) == settings("random", {})
    whole = settings("fass", {})
    assert whole["needs"] == ["outputs"]
    assert repr(settings("glister", {"step_size": 1})) == repr(settings("glister", {"step_size": 1.0}))
    assert whole["hyperparameters"]["beta"] == 5


def test_a_fault_in_the_configuration_names_its_place():
    with pytest.raises(AllroundError, match=r"^strategies\.yaml entry 'mine': strategy 'fass': unknown hyperparameter"):
        settings("fass", {"gamma": 1}, "strategies.yaml entry 'mine'")
    with pytest.raises(AllroundError, match=r"^strategies\.yaml entry 'mine': unknown strategy 'fas'"):
        settings("fas", {}, "strategies.yaml entry 'mine'")


@pytest.fixture
def new_file(tmp_path, monkeypatch):
    """Drop a file into strategies/."""
    for path in _settings.FOLDER.glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(_settings, "FOLDER", tmp_path)
    monkeypatch.setattr(strategies, "__path__", [str(tmp_path), *strategies.__path__])
    describe.cache_clear()
    written = []

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        written.append(f"allround.strategies.{name}")

    yield write
    describe.cache_clear()
    for module in written:
        sys.modules.pop(module, None)


def worked_example() -> str:
    """The file that docs/strategies.md tells an author to write."""
    text = (Path(__file__).parents[1] / "docs/strategies.md").read_text()
    return text.split("```python\n# src/allround/strategies/rare_margin.py\n")[1].split("```")[0]


def test_the_worked_example_of_the_documentation_is_a_strategy(new_file):
    new_file("rare_margin", worked_example())
    assert "rare_margin" in names()
    assert set(describe("rare_margin").needs) == {"outputs"}
    assert settings("rare_margin", {"strength": 2})["hyperparameters"] == {"strength": 2.0}
    assert len(select("rare_margin", Pool.from_arrays(**arrays()), budget=7)) == 7


AIM = "def select(pool, budget, rng, *, aim: Literal['far', 'near'] = 'far'): pass"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def select(pool, budget, rng): pass", "not a strategy; needed: NEEDS"),
        ("NEEDS = {'outputs'}", "not a strategy; needed: NEEDS"),
        ("NEEDS = {'outputs'}\ndef select(pool, budget, rng, *, beta): pass", "literal defaults"),
        ("NEEDS = {'outputs'}\ndef select(pool, budget): pass", r"select\(pool, budget, rng"),
        ("NEEDS = {'outptus'}\ndef select(pool, budget, rng): pass", "unknown need 'outptus'. Did you mean 'outputs'"),
        (
            "NEEDS = {'outputs'}\ndef select(pool, budget, rng, *, samples=3): pass",
            "'samples' is an option of every entry that needs it; rename",
        ),
        ("NEEDS = 'outputs'\ndef select(pool, budget, rng): pass", "not a strategy; needed: NEEDS"),
        (
            f"NEEDS = {{'query': {{'aims': ['near']}}}}\n{AIM}",
            "NEEDS 'query': unknown hyperparameter 'aims'. Did you mean",
        ),
        (f"NEEDS = {{'query': {{'aim': ['neer']}}}}\n{AIM}", "'aim': unknown value 'neer'. Did you mean 'near'"),
        (
            f"NEEDS = {{'query': {{'aim': 'near'}}}}\n{AIM}",
            r"must be None or {hyperparameter: \[values\]}, not {'aim': 'near'}",
        ),
        (f"NEEDS = {{'query': True}}\n{AIM}", r"must be None or {hyperparameter: \[values\]}, not True"),
        (
            "NEEDS = set()\ndef select(pool, budget, rng, *, a: Annotated[int, '=> 1'] = 5): pass",
            "'a': range '=> 1' cannot",
        ),
        (
            "NEEDS = set()\ndef select(pool, budget, rng, *, a: Annotated[str, '>= 1'] = 'x'): pass",
            "'a': range '>= 1' can",
        ),
        (
            "NEEDS = set()\ndef select(pool, budget, rng, *, a: Annotated[int, '>= 9'] = 5): pass",
            "its default must be >= 9",
        ),
        ("NEEDS = {", "broken.py line 1: not valid Python"),
        (
            "NEEDS = set()\ndef select(pool, budget, rng): return [0] * budget",
            "'broken' returned 1 distinct unlabelled",
        ),
        (
            "NEEDS = set()\ndef select(pool, budget, rng): return pool.labelled[:budget]",
            "returned 0 distinct unlabelled",
        ),
    ],
)
def test_a_strategy_that_breaks_the_contract_is_told_so(new_file, text, message):
    new_file("broken", text)
    with pytest.raises(AllroundError, match=message) as caught:
        select("broken", Pool.from_arrays(size=20, labelled=np.arange(5, 10)), budget=3)
    assert "\n" not in str(caught.value)


# --- what the door adds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["random", "margin", "coreset"])
@pytest.mark.parametrize("budget", [4, 7, 50])
def test_partitions_split_the_budget_over_random_parts_of_the_pool(name, budget, monkeypatch):
    parts = []
    original = Pool.part
    monkeypatch.setattr(Pool, "part", lambda pool, rows: parts.append(rows) or original(pool, rows))
    pool = Pool.from_arrays(**arrays())
    picks = run(name, pool, budget, np.random.default_rng(3), partitions=4)
    assert len(set(picks.index.tolist())) == budget
    assert np.isin(picks.index, pool.unlabelled).all()
    shares = [int(np.isin(picks.index, pool.unlabelled[rows]).sum()) for rows in parts]
    assert sum(shares) == budget
    assert max(shares) - min(shares) <= 1
    if budget == 50:
        assert sorted(np.concatenate(parts).tolist()) == list(range(50))  # every example is in one part
        assert all((np.diff(rows) != 1).any() for rows in parts)  # and no part is a stretch of the pool
    assert run(name, pool, budget, np.random.default_rng(3), partitions=4).index.tolist() == picks.index.tolist()


def test_a_fault_in_a_partition_leaves_the_threads_as_they_were():
    before = torch.get_num_threads()
    with pytest.raises(AllroundError, match="are not finite"):
        select("badge", nan_features(), budget=12, partitions=4)
    assert torch.get_num_threads() == before


def test_numbers_of_numpy_are_numbers():
    pool, plain = Pool.from_arrays(**arrays()), {"step_size": 0.25, "ground": 20}
    expected = select("glister", pool, budget=5, **plain).tolist()
    found = select("glister", pool, budget=np.int64(5), step_size=np.float32(0.25), ground=np.int64(20)).tolist()
    assert found == expected


def test_a_pool_of_arrays_goes_to_another_process():
    pool = Pool.from_arrays(**arrays())
    there = pickle.loads(pickle.dumps(pool))
    assert select("badge", there, budget=5).tolist() == select("badge", pool, budget=5).tolist()


def pixels(**changes: object) -> dict:
    return {"images": np.zeros((60, 2, 4, 3), np.uint8), "scale": ((0.5,) * 3, (0.2,) * 3), **changes}


POOL_FAULTS = {
    "bytes without a scale": (pixels(scale=None), r"uint8 images need scale=\(mean, std\): 3 numbers"),
    "a scale of other channels": (pixels(scale=((0.5,), (0.2,))), "3 numbers on the scale 0..1 each"),
    "one number for all channels": (pixels(scale=(0.5, 0.2)), "3 numbers on the scale 0..1 each"),
    "a scale for images that have one": (
        pixels(images=np.zeros((60, 3, 2, 4))),
        "taken as normalised; leave scale out",
    ),
    "a model in training": ({"model": Classifier(torch.nn.Flatten(), torch.nn.Linear(8, 5))}, "in training mode"),
    "a model elsewhere": (
        {"model": Classifier(torch.nn.Flatten(), torch.nn.Linear(8, 5, device="meta")).eval()},
        r"model is on meta, the pool on cpu; model\.to\('cpu'\)",
    ),
    "a model that is none": ({"model": torch.nn.Linear(8, 5)}, "must be an allround.learners.model.Classifier"),
    "a mask of labelled ones": (
        {"labelled": np.arange(60) < 10},
        "labelled: must be whole numbers, .*not of type bool",
    ),
    "an unknown set": ({"sets": {"qurey": [1]}, "set_labels": None}, "unknown set 'qurey'. Did you mean 'query'"),
    "labels of no set": ({"set_labels": {"qurey": [1]}}, "unknown set 'qurey'"),
    "a set that is a mask": ({"sets": {"query": np.arange(60) < 3}}, "set 'query': must be whole numbers"),
}


@pytest.mark.parametrize("fault", POOL_FAULTS)
def test_a_pool_that_is_wrong_is_one_line_and_not_a_wrong_answer(fault):
    changes, message = POOL_FAULTS[fault]
    with pytest.raises(AllroundError, match=message) as caught:
        Pool.from_arrays(**{**arrays(), **changes})
    assert "\n" not in str(caught.value)


def test_the_best_of_every_partition_come_first():
    pool = Pool.from_arrays(**arrays())
    picks = run("margin", pool, 20, np.random.default_rng(0), partitions=4)
    groups = picks.score.reshape(5, 4)  # (rank in its part, part)
    assert (np.diff(groups, axis=0) >= 0).all()


def test_a_posterior_changes_whose_probabilities_a_score_sees():
    data = arrays(300)
    unlabelled = np.setdiff1d(np.arange(300), data["labelled"])
    z = data["mc_logits"][:, unlabelled].astype(np.float64)
    p = np.exp(z - z.max(2, keepdims=True))
    mean = (p / p.sum(2, keepdims=True)).mean(0)
    for posterior in ("mc_dropout", "ensemble"):
        picks = run("entropy", Pool.from_arrays(**data), 30, np.random.default_rng(0), posterior=posterior)
        score = -(mean * np.log(mean)).sum(1)
        assert picks.index.tolist() == unlabelled[np.argsort(-score, kind="stable")[:30]].tolist()
        np.testing.assert_allclose(picks.score, np.sort(score)[::-1][:30], rtol=1e-4)


def test_what_an_entry_needs_follows_from_its_settings():
    """The planner embeds what is named here and nothing else."""
    assert settings("margin", {})["needs"] == ["outputs"]
    assert settings("margin", {"posterior": "mc_dropout"})["needs"] == ["mc_dropout10"]
    assert settings("margin", {"posterior": "ensemble", "samples": 5})["needs"] == ["ensemble5"]
    same = [settings("margin", {"samples": samples}) for samples in (5, 10)]
    assert same[0] == same[1]  # draws of no posterior change nothing


@pytest.fixture
def needy(new_file):
    """A strategy that needs more with one value of a hyperparameter, and whose numbers have ranges."""
    new_file(
        "needy",
        "from typing import Annotated, Literal\n"
        "NEEDS = {'outputs': None, 'query': {'aim': ['near']}}\n"
        "def select(pool, budget, rng, *, aim: Literal['far', 'near'] = 'far',\n"
        "           share: Annotated[float, '> 0 and <= 1'] = 0.5, most: Annotated[int | None, '>= 1'] = None):\n"
        "    if aim == 'far':\n"
        "        return pool.unlabelled[:budget]\n"
        "    assert pool.of('query', 'features').shape == (len(pool.sets['query']), 8)\n"
        "    assert len(pool.set_labels('query')) == len(pool.sets['query'])\n"
        "    return pool.unlabelled[-budget:]\n",
    )


def csv_of(path: Path, text: str) -> dict:
    path.write_text(text)
    return {"file": str(path)}


def test_a_set_of_examples_is_named_by_the_entry(needy, tmp_path):
    data = {key: value for key, value in arrays().items() if key not in ("sets", "set_labels")}
    pool = Pool.from_arrays(**data, classes=["a", "b", "c", "d", "e"], truth=np.arange(60) % 5)
    last = int(pool.unlabelled[-1])
    assert select("needy", pool, budget=1).tolist() == [int(pool.unlabelled[0])]
    assert select("needy", pool, budget=1, aim="near", query="labelled").tolist() == [last]
    assert select("needy", pool, budget=1, aim="near", query={"classes": ["a", "b", "c", 3, 4]}).tolist() == [last]
    known = csv_of(tmp_path / "known.csv", f"index\n{last}\n{data['labelled'][0]}\n")
    assert select("needy", pool, budget=1, aim="near", query=known).tolist() == [int(pool.unlabelled[-2])]
    entry = settings("needy", {"aim": "near", "query": known})["hyperparameters"]["query"]
    resolved = pool.prepared(sets={"query": entry})
    assert resolved.set_labels("query").tolist() == [last % 5, data["labelled"][0] % 5]
    labelled = csv_of(tmp_path / "labelled.csv", f"index,label\n{last},4\n")
    entry = settings("needy", {"aim": "near", "query": labelled})["hyperparameters"]["query"]
    assert pool.prepared(sets={"query": entry}).set_labels("query").tolist() == [4]
    excel = csv_of(tmp_path / "excel.csv", f"\ufeffindex, label\r\n{last}, 4\r\n")  # byte-order mark, Windows line ends
    entry = settings("needy", {"aim": "near", "query": excel})["hyperparameters"]["query"]
    assert pool.prepared(sets={"query": entry}).set_labels("query").tolist() == [4]


def test_another_content_of_a_set_file_is_another_setting(needy, tmp_path):
    """Else the queries that it changes would not run again."""
    entries = [
        settings("needy", {"aim": "near", "query": csv_of(tmp_path / "set.csv", f"index\n{index}\n")})
        for index in (3, 4)
    ]
    assert entries[0] != entries[1]
    pool = Pool.from_arrays(**{**arrays(), "sets": None, "set_labels": None})
    with pytest.raises(AllroundError, match=r"set\.csv has changed since the run was planned"):
        select("needy", pool, budget=1, **entries[0]["hyperparameters"])


SETTING_FAULTS = {
    "a set without a name": ({"aim": "near"}, "hyperparameter 'query' has no default; name the set: labelled, "),
    "a set that is no set": ({"aim": "near", "query": 3}, "'query' must be labelled, {classes: .*not 3"),
    "no classes": ({"aim": "near", "query": {"classes": []}}, "classes must be a list of class names or numbers"),
    "a file that is missing": ({"aim": "near", "query": {"file": "no.csv"}}, "cannot read file 'no.csv' .No such file"),
    "a set that is not needed": ({"query": "labelled"}, "unknown hyperparameter 'query'"),
    "out of range": ({"share": 1.5}, "'share' must be > 0 and <= 1, not 1.5"),
    "at the open end": ({"share": 0}, "'share' must be > 0 and <= 1, not 0.0"),
    "an optional number out of range": ({"most": 0}, "'most' must be >= 1, not 0"),
    "an optional number of the wrong type": ({"most": 1.5}, "'most' must be of type int or null"),
    "no partition": ({"partitions": 0}, "'partitions' must be >= 1, not 0"),
    "a posterior that it has not": ({"posterior": "point"}, "unknown hyperparameter 'posterior'"),
}


@pytest.mark.parametrize("fault", SETTING_FAULTS)
def test_a_wrong_setting_is_one_line_before_anything_runs(needy, fault):
    entry, message = SETTING_FAULTS[fault]
    with pytest.raises(AllroundError, match=message) as caught:
        settings("needy", entry, "strategies.yaml entry 'mine'")
    assert str(caught.value).startswith("strategies.yaml entry 'mine': strategy 'needy'")
    assert "\n" not in str(caught.value)


SET_FAULTS = {
    "a class that is missing": ({"classes": ["cat"]}, "unknown class 'cat'"),
    "a class number that is missing": ({"classes": [7]}, "there is no class 7; allowed: 0 to 4"),
    "a class without labels": ({"classes": ["f"]}, "no labelled example has a class of .'f'"),
    "a file without indices": ("label\n3\n", "not a csv with a column index"),
    "an index outside the pool": ("index\n60\n", "lists index 60; allowed: 0 to 59"),
    "an index below 0": ("index\n-1\n", "distinct indices from 0 on"),
    "an index twice": ("index\n3\n3\n", "distinct indices from 0 on"),
    "an index beyond all integers": (f"index\n{10**30}\n", "not a csv with a column index of whole numbers"),
    "a file without rows": ("index\n", "distinct indices from 0 on, at least one"),
    "another separator": ("index;label\n3;1\n", "its first line is 'index;label'"),
    "a label that is no class": ("index,label\n3,77\n", "has label 77; allowed: 0 to 4"),
    "a label below 0": ("index,label\n3,-1\n", "has label -1"),
    "a label by name": ("index,label\n3,cat\n", "not a csv with a column index of whole numbers"),
}


@pytest.mark.parametrize("fault", SET_FAULTS)
def test_a_wrong_set_is_one_line(needy, fault, tmp_path):
    spec, message = SET_FAULTS[fault]
    spec = spec if isinstance(spec, dict) else csv_of(tmp_path / "set.csv", spec)
    classes = ["a", "b", "c", "d", "e"] if fault != "a class without labels" else ["a", "b", "c", "d", "e", "f"]
    pool = Pool.from_arrays(**{**arrays(), "sets": None, "set_labels": None}, classes=classes)
    with pytest.raises(AllroundError, match=message) as caught:
        select("needy", pool, budget=1, aim="near", query=spec)
    assert "\n" not in str(caught.value)


def test_images_are_normalised_as_in_training():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 4, 5, 3), dtype=np.uint8)
    scale = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.1))
    pool = Pool.from_arrays(images=images, scale=scale, labelled=[2])
    expected = ((images / 255 - scale[0]) / scale[1]).transpose(0, 3, 1, 2)[pool.unlabelled]
    found = pool.map(lambda block: block, "images")
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
    low, high = pool.image_range()
    np.testing.assert_allclose(low[:, 0, 0], -np.array(scale[0]) / scale[1], rtol=1e-5)
    np.testing.assert_allclose(high[:, 0, 0], (1 - np.array(scale[0])) / scale[1], rtol=1e-5)
