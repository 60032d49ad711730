"""From finished cells to what a reader sees: the tidy table, figures and the page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from allround import artifacts, layout
from allround.artifacts import write_metrics, write_query
from allround.errors import AllroundError
from allround.evaluation import report, statistics
from allround.evaluation.figures import write_figures
from allround.evaluation.looks import looks
from allround.evaluation.provenance import Seen
from allround.identity import canonical
from allround.layout import Cell
from allround.stages.collect import collect
from allround.stages.report import report as make_report

VIEWS = {"random": [], "margin": ["outputs"], "bald": ["mc_dropout"]}


def study(strategies=("random", "margin"), seeds=(0, 1, 2), rounds=3, datasets=("digits",)):
    return {
        "name": "tiny",
        "description": "A study of nothing.",
        "datasets": {name: {"source": "npz", "options": {"file": f"{name}.npz", "classes": []}} for name in datasets},
        "learners": {"mlp": {"architecture": "mlp", "epochs": 5, "optimiser": {"name": "sgd", "lr": 0.1}}},
        "strategies": {name: {"strategy": name, "hyperparameters": {"beta": 2}} for name in strategies},
        "start": {"name": "random20", "size": 20, "by": "random"},
        "budget": 10,
        "rounds": rounds,
        "seeds": list(seeds),
    }


def identity(stage, settings, cell=None, inputs=None, code="c0de"):
    return canonical({"stage": stage, "cell": cell or {}, "settings": settings, "inputs": inputs or {}, "code": code})


def write_cell(results, settings, cell, accuracy):
    """metrics.json, query.csv and costs of one round, as the stages leave them."""
    home = cell.home
    metrics = {"n_labels": 20 + 10 * cell.round, "accuracy": accuracy, "nll": 0.4, "ece": 0.1, "epochs": 5}
    made = identity("train", {}, home.as_dict())
    write_metrics(layout.path(results, home, "metrics.json"), metrics, identity=made, digest="d1")
    write_cost(layout.path(results, home, "cost/train.json"), "train", 8.0)
    write_cost(
        layout.path(results, home, "cost/seed_set.json" if home.arm == layout.START else "cost/label.json"), "l", 0.5
    )
    if cell.round < settings["rounds"] - 1:
        views = VIEWS[cell.arm.split("@")[0]]
        made = identity("query", {}, cell.as_dict(), {"labels": "x"} | dict.fromkeys(views, "y"), code="abcd")
        write_query(layout.path(results, cell, "query.csv"), np.arange(10), None, identity=made, digest="d1")
        write_cost(layout.path(results, cell, "cost/query.json"), "query", 1.0)
        for view in views:
            write_cost(
                layout.path(results, home, f"cost/embed_{view}.json"), "embed", 2.0 if view == "outputs" else 4.0
            )


def write_cost(path, stage, seconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    cost = {"stage": stage, "seconds": seconds, "peak_memory_mb": 100.0, "device": "cpu", "device_name": "a processor"}
    cost |= {"host": "node1", "started": "2025-01-01T00:00:00+00:00", "versions": {"torch": "2.9"}}
    artifacts.write_json(path, cost)


@pytest.fixture
def finished(tmp_path):
    """(results, settings) of a small study whose cells are all there."""
    settings = study(("random", "margin", "bald"))
    for strategy in settings["strategies"]:
        for seed in settings["seeds"]:
            for number in range(3):
                cell = Cell("digits", "mlp", "random20", f"{strategy}@10", seed, number)
                gain = 0.05 * number * (strategy == "margin")
                write_cell(tmp_path / "results", settings, cell, 0.5 + 0.1 * number + 0.01 * seed + gain)
    return tmp_path / "results", settings


def run_collect(results, settings):
    rounds, provenance = results / "studies/tiny/rounds.csv", results / "studies/tiny/provenance.json"
    made = identity("collect", {"study": settings})
    collect(results=results, rounds=rounds, provenance=provenance, identity=made, device="cpu", threads=1)
    return rounds, provenance


def grid(strategies=("random", "margin"), seeds=3, rounds=4, datasets=("digits",)):
    """A table of rounds without any cells."""
    rng = np.random.default_rng(0)
    rows = []
    for dataset in datasets:
        for seed in range(seeds):
            for place, strategy in enumerate(strategies):
                gain = place * min(1, 4 / len(strategies))
                for number in range(rounds):
                    accuracy = (
                        0.5 + 0.1 * number + 0.02 * seed + 0.01 * number * gain + 0.005 * rng.random() * (number > 0)
                    )
                    cell = {
                        "dataset": dataset,
                        "learner": "mlp",
                        "start": "random20",
                        "strategy": strategy,
                        "budget": 10,
                    }
                    cell |= {"seed": seed, "round": number, "n_labels": 20 + 10 * number, "accuracy": accuracy}
                    rows.append(cell | {"nll": 0.5, "ece": 0.1, "seconds_train": 2.0, "seconds_query": 0.5})
    return statistics.check_rounds(pd.DataFrame(rows))


# --- collect ----------------------------------------------------------------------------------------------------------


def test_every_round_of_every_arm_is_in_the_table(finished):
    rounds, provenance = run_collect(*finished)
    table = statistics.read_rounds(rounds)
    assert len(table) == 3 * 3 * 3
    at_start = table[table["round"] == 0]
    assert (at_start.groupby("seed")["accuracy"].nunique() == 1).all() and len(at_start) == 9
    end = table[(table["strategy"] == "margin") & (table["seed"] == 2) & (table["round"] == 2)].iloc[0]
    assert end["accuracy"] == pytest.approx(0.82) and end["n_labels"] == 40 and end["host"] == "node1"
    origin = json.loads(provenance.read_text())
    assert origin["code"] == {"query": {name: ["abcd"] for name in VIEWS}, "train": ["c0de"]}
    assert origin["versions"] == {"torch": ["2.9"]} and origin["hosts"] == ["node1"]


def test_a_strategy_pays_for_the_views_it_reads_and_no_others(finished):
    table = statistics.read_rounds(run_collect(*finished)[0])
    cost = table[table["seed"] == 0].set_index(["strategy", "round"])["seconds_embed"]
    assert cost["margin", 0] == 2 and cost["bald", 0] == 4 and np.isnan(cost["random", 0])
    assert np.isnan(cost["margin", 2])  # the last round asks for nothing


def remade(path, old, new):
    """A file as its stage would have written it, had it had another content."""
    artifacts.write_json(path, json.loads(json.dumps(artifacts.read_json(path)).replace(old, new)))


def test_precision_is_the_last_column_and_empty_where_unknown(finished):
    results, settings = finished
    path = layout.path(results, Cell("digits", "mlp", "random20", "margin@10", 2, 2), "metrics.json")
    artifacts.write_json(path, artifacts.read_json(path) | {"precision": "bfloat16"})
    table = statistics.read_rounds(run_collect(results, settings)[0])
    assert table.columns[-1] == "precision"
    known = table[table["precision"] != ""]
    assert len(known) == 1 and known["precision"].item() == "bfloat16" and known["strategy"].item() == "margin"


@pytest.mark.parametrize("lose", [Path.unlink, lambda path: path.write_text(path.read_text().replace("8.0", "9.0"))])
def test_lost_or_damaged_costs_are_empty_fields(finished, lose):
    results, settings = finished
    for path in results.rglob("cost/train.json"):
        lose(path)
    table = statistics.read_rounds(run_collect(results, settings)[0])
    assert table["seconds_train"].isna().all() and table["accuracy"].notna().all()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_text(path.read_text()[:40]), "not a whole JSON file"),
        (lambda path: path.write_text(path.read_text().replace("0.", "0.0", 1)), "changed on disk, or edited by hand"),
        (lambda path: remade(path, '"n_labels": 40', '"n_labels": 39'), "39 labels"),
        (lambda path: remade(path, '"d1"', '"d2"'), "another version of the dataset"),
        (lambda path: remade(path, '"seed": 2', '"seed": 1'), "moved or copied"),
    ],
)
def test_a_bad_result_stops_the_tables_and_is_named(finished, damage, words):
    results, settings = finished
    cell = Cell("digits", "mlp", "random20", "margin@10", 2, 2)
    path = layout.path(results, cell, "metrics.json")
    damage(path)
    with pytest.raises(AllroundError, match=words) as error:
        run_collect(results, settings)
    assert str(path) in str(error.value)
    assert not (results / "studies/tiny/rounds.csv").exists()


def test_both_stages_run_from_their_command_lines_without_torch(finished, tmp_path):
    results, settings = finished
    out = tmp_path / "out"
    flags = [f"--results={results}", f"--rounds={out}/rounds.csv", f"--provenance={out}/provenance.json"]
    flags += ["--identity", identity("collect", {"study": settings})]
    code = "import sys, runpy; sys.argv[0] = 'collect'; runpy.run_module('allround.stages.{}', run_name='__main__')"
    no_torch = "import sys; sys.modules['torch'] = None; "  # importing it would fail
    subprocess.run([sys.executable, "-c", no_torch + code.format("collect"), *flags], check=True)
    flags = [f"--rounds={out}/rounds.csv", f"--provenance={out}/provenance.json", f"--figures={out}/figures"]
    flags += [
        f"--report={out}/report.html",
        f"--summary={out}/summary.csv",
        f"--pairwise={out}/pairwise.csv",
        f"--efficiency={out}/efficiency.csv",
    ]
    flags += ["--identity", identity("report", {"study": settings})]
    subprocess.run([sys.executable, "-c", no_torch + code.format("report"), *flags], check=True)
    assert "margin</b> leads random by 10.0 points" in (out / "report.html").read_text()
    assert set(pd.read_csv(out / "summary.csv")["strategy"]) == {"random", "margin", "bald"}
    assert set(pd.read_csv(out / "efficiency.csv")["strategy"]) == {"margin", "bald"}
    names = {path.name for path in (out / "figures").iterdir()}
    assert names == {
        f"digits-mlp-random20@10-{k}.{s}" for k in ("curves", "efficiency", "ranking") for s in ("svg", "pdf")
    }


# --- the page ---------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Collects tags and text; notes what is never closed and what would load something."""

    VOID = frozenset(["meta", "br", "link", "img", "input", "hr", "path", "circle"])

    def __init__(self, text):
        super().__init__()
        self.open, self.faults, self.loads, self.words, self.ids, self.scripts = [], [], [], [], [], 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        self.scripts += tag == "script"
        self.ids += [value for name, value in attributes if name == "id"]
        self.loads += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "poster")]
        self.faults += [f"{tag} {name}" for name, _ in attributes if name.startswith("on")]

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        if not self.open or self.open[-1] != tag:
            self.faults.append(f"</{tag}> closes {self.open[-1:]}")
        else:
            self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))


def page(rounds, settings=None, **provenance):
    text = report.render(rounds, {"study": settings or {}} | provenance)
    parsed = Page(text)
    assert not parsed.faults and not parsed.open
    assert len(set(parsed.ids)) == len(parsed.ids)
    return text, parsed


def test_the_page_opens_offline_and_holds_plotly_once():
    text, parsed = page(grid(), study())
    assert [link for link in parsed.loads if not link.startswith("#")] == []
    assert text.count("plotly.js v") == 1 and parsed.scripts == 3
    assert "default-src 'none'" in text  # the browser enforces it too
    style = re.search(r"<style>(.*?)</style>", text, re.S).group(1)
    assert "url(" not in style and "@import" not in style
    assert '"sendChartToCloud"' in text  # plotly's own button that would send the chart away is removed


def test_the_page_says_what_a_dataset_was_made_of():
    settings = study(rounds=4)
    settings["datasets"]["digits"]["variant"] = {"seed": 0, "per_class": 20}
    _, parsed = page(grid(), settings)
    assert "digits (source: npz, file: digits.npz, seed: 0, per_class: 20)" in parsed.text


def test_the_page_shows_every_strategy_and_its_settings():
    names = ["random", *(f"strategy_{k:02d}" for k in range(30))]
    text, parsed = page(grid(names), study(names, rounds=4))
    assert [name for name in names if parsed.text.count(name) < 3] == []
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', text, re.S).group(1))
    assert set(data["groups"][0]["curves"]) == set(names)
    assert set(data["groups"][0]["efficiency"]) == set(names) - {"random"}
    assert len(data["shown"]) <= 8 and "random" in data["shown"]
    assert "beta = 2" in parsed.text and "optimiser.lr" in parsed.text


def test_the_page_says_what_a_query_costs():
    text, parsed = page(grid(), study())
    assert "One query" in parsed.text
    assert "GPU memory, MB" not in parsed.text
    assert re.search(r'data-value="0.5">0.500</td><td data-value="nan">—</td></tr>', text)  # no memory was recorded
    rounds = grid()
    rounds["query_memory_mb"], rounds["query_gpu_memory_mb"] = 612.3, 1234.2
    text, parsed = page(rounds, study())
    assert re.search(r'>0.500</td><td data-value="612.3">612</td><td data-value="1234.2">1234</td></tr>', text)
    assert "One query" not in page(rounds.assign(seconds_query=np.nan), study())[1].text


def test_the_page_is_the_same_bytes_each_time():
    assert report.render(grid(), {"study": study()}) == report.render(grid(), {"study": study()})


def test_hostile_names_are_text():
    bad = "</script><img src=x onerror=alert(1)>"
    text, parsed = page(grid(["random", bad]), study(["random", bad]) | {"name": bad, "description": bad})
    assert bad not in text and bad in parsed.text and parsed.loads == []


def test_a_lead_is_claimed_with_its_interval_and_seeds():
    _, parsed = page(grid(["random", "margin"]))
    assert re.search(
        r"After 50 labels margin leads random by 3\.\d points \[\d\.\d, \d\.\d\] over 3 seeds", parsed.text
    )
    assert re.search(r"random's best accuracy with \d+ % fewer labels \[\d+, \d+\]", parsed.text)


def test_a_lead_whose_interval_includes_zero_is_not_called_one():
    rounds = grid(["random", "margin"])
    end = (rounds["strategy"] == "margin") & (rounds["round"] == 3)
    rounds.loc[end, "accuracy"] += [0.1, -0.02, -0.01]
    _, parsed = page(rounds)
    assert "no strategy is clearly ahead of random" in parsed.text and "leads random" not in parsed.text


def test_the_best_of_many_is_held_against_their_number():
    rounds = grid(["random", *(f"s{k:02d}" for k in range(12))])
    later = rounds["round"] > 0
    rounds.loc[later, "accuracy"] = 0.7 + rounds["seed"] * rounds["strategy"].str[-1].map({"m": 0}).fillna(0.01)
    lucky = later & (rounds["strategy"] == "s03")
    rounds.loc[lucky, "accuracy"] = 0.72 + 0.01 * rounds["seed"]  # +2, +3, +4 points: p = 0.035 by itself
    rounds.loc[later & (rounds["strategy"] > "s03"), "accuracy"] = 0.7 + 0.01 * (rounds["seed"] % 2)
    _, parsed = page(rounds)
    assert "s03 leads random by 3.0 points [0.5, 5.5] over 3 seeds." in parsed.text
    assert "As the best of 12 strategies it is flattered: corrected for that (Holm), p = 0.42" in parsed.text


def test_one_seed_is_never_a_finding():
    _, parsed = page(grid(seeds=1))
    assert "One seed cannot tell skill from luck" in parsed.text and "leads random" not in parsed.text
    assert "One seed: there is no spread" in parsed.text


def test_a_study_without_random_says_so_plainly():
    _, parsed = page(grid(["margin", "badge"]))
    assert "no arm called random" in parsed.text and "No arm is called random" in parsed.text
    assert "peak efficiency" not in parsed.text


def test_missing_cells_and_lost_accuracies_are_reported():
    rounds = grid(rounds=3)
    rounds.loc[(rounds["strategy"] == "margin") & (rounds["seed"] == 1) & (rounds["round"] == 2), "accuracy"] = np.nan
    rounds = rounds[~((rounds["strategy"] == "margin") & (rounds["seed"] == 2))]
    _, parsed = page(rounds, study())
    assert "3 rounds of 18 in the study's grid missing: digits/mlp/margin seed 2 round 0" in parsed.text
    assert "one round without an accuracy (NaN)" in parsed.text and "digits/mlp/margin seed 1 round 2" in parsed.text
    assert "margin and random do not share seed 2" in parsed.text
    assert "With one seed, margin ends highest" in parsed.text  # the only one left with both ends


def test_a_broken_pairing_is_reported():
    rounds = grid()
    rounds.loc[(rounds["strategy"] == "margin") & (rounds["round"] == 0), "accuracy"] += 0.01
    assert any("pairs are broken" in warning for warning in report.warnings(rounds, {}))
    assert not any("pairs are broken" in warning for warning in report.warnings(grid(), {}))


def test_mixed_versions_devices_and_code_are_reported():
    provenance = {"versions": {"torch": ["2.9", "2.10"]}, "devices": ["a", "b"]}
    seen = Seen()
    for learner, code in (("mlp", "1"), ("mlp", "2"), ("cnn", "3")):
        seen.code("train", code, learner)
    seen.code("query", "4", "mlp", "margin")
    seen.code("query", "5", "cnn", "margin")  # of another learner: no mixture
    seen.job(Path("cost/embed_outputs.json"), {"stage": "embed", "code": "6"}, "mlp")
    seen.job(Path("cost/embed_mc_dropout10.json"), {"stage": "embed", "code": "7"}, "mlp")  # of another view: neither
    assert seen.as_dict()["mixed"] == ["train (mlp)"]
    found = " ".join(report.warnings(grid(), provenance | seen.as_dict() | provenance))
    assert all(
        words in found for words in ("versions of torch", "different devices", "of train (mlp) come from several")
    )


def test_models_trained_on_different_kinds_of_device_or_precision_are_reported():
    rounds = grid().assign(device="cpu", precision="float32")
    assert "not comparable" not in " ".join(report.warnings(rounds, {}))
    rounds.loc[rounds["seed"] == 0, ["device", "precision"]] = ""  # unknown is not different
    assert "not comparable" not in " ".join(report.warnings(rounds, {}))
    margin = rounds["strategy"] == "margin"
    words = "Models were trained on cpu and cuda: pairs across devices are not comparable."
    assert words in report.warnings(rounds.assign(device=rounds["device"].mask(margin, "cuda")), {})
    words = "Models were trained in bfloat16 and float32: pairs across devices are not comparable."
    assert words in report.warnings(rounds.assign(precision=rounds["precision"].mask(margin, "bfloat16")), {})
    cards = rounds.assign(device=rounds["device"].mask(margin, "cuda:0").mask(~margin, "cuda:1"))
    assert "not comparable" not in " ".join(report.warnings(cards, {}))
    two = pd.concat([grid().assign(device="cpu"), grid(datasets=("mnist",)).assign(device="cuda")])
    assert "not comparable" not in " ".join(report.warnings(two, {}))  # no pair crosses from group to group


@pytest.mark.parametrize("strategies", [["random"], ["margin"]])
def test_the_smallest_study_gives_a_whole_report(tmp_path, strategies):
    rounds = grid(strategies, seeds=1, rounds=1)
    _, parsed = page(rounds, study(strategies, seeds=[0], rounds=1))
    assert "nothing to compare yet" in parsed.text
    assert write_all_figures(tmp_path, rounds)


def test_all_accuracies_lost_still_gives_a_report(tmp_path):
    rounds = grid().assign(accuracy=np.nan)
    _, parsed = page(rounds, study(rounds=4))
    assert "nothing to compare" in parsed.text and "24 rounds without an accuracy" in parsed.text
    assert write_all_figures(tmp_path, rounds)


def test_a_study_of_several_datasets_is_summed_up_across_them():
    _, parsed = page(grid(datasets=("digits", "mnist")), study(datasets=("digits", "mnist"), rounds=4))
    assert "In 2 of 2 settings at least one strategy ends ahead" in parsed.text
    assert parsed.text.count("leads random by") == 4  # in the list and at the head of its section


def test_strategies_are_compared_with_each_other_and_luck_among_many_pairs_is_named():
    rounds = grid(["random", "margin", "badge"], seeds=5)
    _, parsed = page(rounds)
    assert "excludes zero (3 of 3 pairs; luck alone would make about 0.2 bold)" in parsed.text
    assert re.search(
        r"row minus column *badge *margin *random *badge *\+\d\.\d\* *\+\d\.\d\* *margin *−\d", parsed.text
    )
    swing = {"random": [0, 0, 0, 0, 0], "margin": [2, -2, 1, -1, 1], "badge": [-1, 1, 2, -2, -1]}
    even = rounds.assign(accuracy=[0.5 + 0.01 * swing[row.strategy][row.seed] for row in rounds.itertuples()])
    _, parsed = page(even)
    assert "excludes zero (0 of 3 pairs;" in parsed.text and "for all 3 pairs (none)" in parsed.text
    _, parsed = page(grid(["random", "margin", "badge"], seeds=1))
    assert "Strategy against strategy" not in parsed.text


def test_classes_are_told_apart_where_the_test_set_is_uneven(finished):
    results, settings = finished
    rounds = statistics.read_rounds(run_collect(results, settings)[0])
    assert rounds["balanced_accuracy"].isna().all()  # these metrics name no classes
    for cell in results.rglob("metrics.json"):
        metrics = artifacts.read_json(cell)
        classes = {"per_class_accuracy": [metrics["accuracy"], None, 0.25, 0.5]}
        artifacts.write_json(cell, {key: value for key, value in metrics.items() if key != "sha256"} | classes)
    rounds = statistics.read_rounds(run_collect(results, settings)[0])
    assert np.allclose(rounds["balanced_accuracy"], (rounds["accuracy"] + 0.75) / 3)
    assert (rounds["worst_class_accuracy"] == 0.25).all()
    _, parsed = page(rounds)
    assert "balanced accuracy, %" in parsed.text and "worst class, %" in parsed.text and "25.0" in parsed.text
    _, parsed = page(rounds.assign(balanced_accuracy=rounds["accuracy"]))
    assert "balanced accuracy" not in parsed.text and "worst class, %" in parsed.text


def test_wins_over_several_settings_are_counted():
    names = ["random", "margin", "badge"]
    rounds = grid(names, datasets=("digits", "mnist"))
    turned = (rounds["dataset"] == "mnist") & (rounds["strategy"] == "badge")
    rounds.loc[turned, "accuracy"] -= 0.2
    _, parsed = page(rounds, study(names, datasets=("digits", "mnist"), rounds=4))
    table = parsed.text.partition("row beats column")[2]
    assert re.match(r" *margin *badge *random *wins *margin *1 of 2 *2 of 2 *3 *badge *1 of 2 *1 of 2 *2", table)


def test_the_report_stage_reads_back_what_collect_wrote(finished, tmp_path):
    rounds, provenance = run_collect(*finished)
    out = {name: tmp_path / f"{name}.csv" for name in ("summary", "pairwise", "efficiency")}
    settings = {"study": finished[1]}
    make_report(
        rounds=rounds,
        provenance=provenance,
        report=tmp_path / "report.html",
        figures=tmp_path / "figures",
        identity=identity("report", settings),
        device="cpu",
        threads=1,
        **out,
    )
    text = (tmp_path / "report.html").read_text()
    assert "a processor" in text and "node1" in text and "abcd" in text and "c0de" in text
    assert "snakemake --cores all --config study=tiny" in text


# --- figures ----------------------------------------------------------------------------------------------------------


def write_all_figures(folder, rounds):
    from allround.evaluation.efficiency import efficiency

    return write_figures(folder, statistics.curves(rounds), efficiency(rounds), report.summarise(rounds))


def test_figures_are_the_same_bytes_each_time(tmp_path):
    first = write_all_figures(tmp_path / "a", grid())
    second = write_all_figures(tmp_path / "b", grid())
    assert [path.name for path in first] == [path.name for path in second]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(first, second, strict=True))


def test_figures_carry_their_fonts_and_no_date(tmp_path):
    for path in write_all_figures(tmp_path, grid()):
        body = path.read_bytes()
        assert b"dc:date" not in body and b"CreationDate" not in body
        if path.suffix == ".svg":
            assert b"<text" not in body  # outlines
        else:
            assert b"/FontFile2" in body and b"/Type3" not in body


def test_more_strategies_than_one_panel_holds_get_one_each(tmp_path):
    names = ["random", *(f"s{k:02d}" for k in range(8))]
    kinds = {path.stem.rsplit("-", 1)[1] for path in write_all_figures(tmp_path, grid(names, seeds=2, rounds=2))}
    assert kinds == {"curves", "gains", "efficiency", "ranking"}


def test_groups_whose_names_run_together_keep_their_own_figures(tmp_path):
    one, two = grid(seeds=2, rounds=2), grid(seeds=2, rounds=2)
    one["dataset"], one["learner"] = "a-b", "c"
    two["dataset"], two["learner"] = "a", "b-c"
    written = write_all_figures(tmp_path, statistics.check_rounds(pd.concat([one, two])))
    assert len(written) == len(set(written)) == 12


def test_strategies_look_alike_in_every_study_and_unlike_each_other():
    assert looks(["margin", "random", "badge"])["margin"] == looks(["zz", "margin", "aa"])["margin"]
    many = looks([f"s{k}" for k in range(40)] + ["badge", "margin"])
    shapes = [(look.light, look.marker, look.dash) for look in many.values()]
    assert len(set(shapes)) == len(shapes) == 43
    assert looks(["a", "b"]) == looks(["b", "a"])
