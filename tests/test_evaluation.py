"""The numbers that a study's conclusions rest on, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from allround.errors import AllroundError
from allround.evaluation import efficiency as eff
from allround.evaluation import statistics as stats
from allround.evaluation.efficiency import Curve, labels_to_reach, peak, ratio


def curve(labels, accuracy):
    return Curve(np.array(labels, float), np.array(accuracy, float))


def table(arms, **group):
    """rounds from {strategy: {seed: [accuracy, ...]}}; 10 labels a round."""
    group = {"dataset": "d", "learner": "l", "start": "random10", "budget": 10} | group
    return stats.check_rounds(
        pd.DataFrame(
            group | {"strategy": strategy, "seed": seed, "round": k, "n_labels": 10 + 10 * k, "accuracy": accuracy}
            for strategy, seeds in arms.items()
            for seed, accuracies in seeds.items()
            for k, accuracy in enumerate(accuracies)
        )
    )


# --- labelling efficiency ---------------------------------------------------------------------------------------------


def test_labels_needed_are_read_off_straight_lines_between_rounds():
    labels, bound = labels_to_reach(curve([10, 20, 40], [0.5, 0.6, 0.8]), [0.5, 0.55, 0.6, 0.7, 0.8])
    assert labels.tolist() == pytest.approx([10, 15, 20, 30, 40])
    assert bound.tolist() == [0, 0, 0, 0, 0]


def test_efficiency_is_the_ratio_of_labels_at_equal_accuracy():
    random, strategy = curve([10, 20, 30], [0.5, 0.6, 0.7]), curve([10, 20, 30], [0.5, 0.7, 0.75])
    value, bound = ratio(random, strategy, [0.5, 0.6, 0.7])
    assert value.tolist() == pytest.approx([1, 20 / 15, 30 / 20])
    assert not bound.any()


def test_a_dip_delays_what_comes_after_it_but_not_what_was_reached_before():
    # interpolated, 0.65 is first reached half way from (30, 0.6) to (40, 0.7), not on the way from round 2's record
    dipping = curve([10, 20, 30, 40], [0.5, 0.62, 0.6, 0.7])
    labels, _ = labels_to_reach(dipping, [0.61, 0.62, 0.65])
    assert labels.tolist() == pytest.approx([10 + 10 * 0.11 / 0.12, 20, 35])


def test_a_plateau_counts_from_its_first_round():
    assert labels_to_reach(curve([10, 20, 30], [0.5, 0.6, 0.6]), [0.6])[0] == pytest.approx([20])


def test_an_accuracy_never_reached_is_a_flagged_bound_and_not_dropped():
    random, strategy = curve([10, 20, 30], [0.5, 0.6, 0.7]), curve([10, 20, 30], [0.5, 0.55, 0.6])
    value, bound = ratio(random, strategy, [0.6, 0.7])
    assert value.tolist() == pytest.approx([20 / 30, 30 / 30])
    assert bound.tolist() == [0, 1]
    found = eff.efficiency(table({"random": {0: [0.5, 0.6, 0.7]}, "s": {0: [0.5, 0.55, 0.6]}}))
    assert found["accuracy"].iloc[-1] == pytest.approx(0.7)
    censored = found[found["accuracy"] > 0.6 + 1e-9]
    assert len(censored) and set(censored["bound"]) == {"upper"} and (censored["n_censored"] == 1).all()
    assert set(found[found["accuracy"] < 0.6 - 1e-9]["bound"]) == {""}


def test_an_accuracy_passed_before_the_first_round_is_a_lower_bound():
    labels, bound = labels_to_reach(curve([20, 30], [0.6, 0.7]), [0.5])
    assert (labels.tolist(), bound.tolist()) == ([20], [-1])


def test_an_interval_with_a_censored_seed_has_no_lower_end():
    arms = {"random": {k: [0.5, 0.6, 0.7] for k in range(3)}}
    arms["s"] = {0: [0.5, 0.65, 0.75], 1: [0.5, 0.65, 0.72], 2: [0.5, 0.6, 0.65]}
    end = eff.efficiency(table(arms)).iloc[-1]
    assert (end["bound"], end["n_censored"], end["n"]) == ("upper", 1, 3)
    assert math.isnan(end["low"]) and end["high"] > 1
    best = eff.peaks(table(arms)).iloc[0]
    assert (best["at_best_bound"], best["n_reached"]) == ("upper", 2) and math.isnan(best["at_best_low"])


def test_peak_efficiency_is_found_between_the_points_of_any_grid():
    # at 0.6 random has 20 labels; just above, after a dip to 0.55, it needs 30 + 10 * 0.05 / 0.15
    random, strategy = curve([10, 20, 30, 40], [0.5, 0.6, 0.55, 0.7]), curve([10, 20, 30], [0.5, 0.6, 0.7])
    top = peak(random, strategy)
    assert top.efficiency == pytest.approx((30 + 10 / 3) / 20)
    assert top.accuracy == pytest.approx(0.6) and top.exact
    values, _ = ratio(random, strategy, np.linspace(0.5, 0.7, 20001))
    assert values.max() <= top.efficiency + 1e-9 and values.max() == pytest.approx(top.efficiency, rel=1e-3)


def test_a_peak_that_censoring_hides_is_a_lower_bound():
    # the strategy stopped at 20 labels: at 0.7 all that is known is LE < 40 / 20
    top = peak(curve([10, 20, 40], [0.5, 0.55, 0.7]), curve([10, 20], [0.5, 0.6]))
    assert not top.exact and 1 < top.efficiency < 2


def test_a_strategy_that_is_never_ahead_peaks_at_one():
    assert peak(curve([10, 20], [0.5, 0.7]), curve([10, 20], [0.5, 0.6])).efficiency == 1


def test_efficiency_averages_ratios_as_logarithms():
    # at 0.7: seed 0 needs half of random's labels, seed 1 twice as many; together they break even
    rounds = table(
        {
            "random": {0: [0.5, 0.6, 0.65, 0.7], 1: [0.5, 0.7, 0.7, 0.7]},
            "s": {0: [0.5, 0.7, 0.7, 0.7], 1: [0.5, 0.6, 0.65, 0.7]},
        }
    )
    assert eff.peaks(rounds)["at_best"].item() == pytest.approx(1)
    assert eff.efficiency(rounds)["efficiency"].iloc[-1] == pytest.approx(1)


def test_efficiency_pairs_seeds_and_leaves_out_those_random_lacks():
    arms = {"random": {0: [0.5, 0.6]}, "s": {0: [0.5, 0.7], 1: [0.9, 0.99]}}
    found = eff.efficiency(table(arms))
    assert set(found["n"]) == {1} and found["accuracy"].max() == pytest.approx(0.6)


def test_efficiency_keeps_to_accuracies_that_every_seed_defines():
    arms = {"random": {0: [0.4, 0.7], 1: [0.5, 0.8]}, "s": {0: [0.4, 0.8], 1: [0.5, 0.9]}}
    found = eff.efficiency(table(arms))
    assert found["accuracy"].min() == pytest.approx(0.5) and found["accuracy"].max() == pytest.approx(0.7)


def test_efficiency_without_random_is_an_empty_table_with_its_columns():
    for found in (eff.efficiency(table({"s": {0: [0.5, 0.6]}})), eff.peaks(table({"s": {0: [0.5, 0.6]}}))):
        assert found.empty and "strategy" in found.columns


def test_bootstrap_is_the_same_each_time_and_undefined_for_one_seed():
    values = np.random.default_rng(1).normal(size=(8, 3))
    first, second = eff.bootstrap(values), eff.bootstrap(values)
    assert np.array_equal(first, second)
    assert (first[0] < values.mean(0)).all() and (values.mean(0) < first[1]).all()
    assert np.isnan(eff.bootstrap(values[:1])).all()


def test_bootstrap_interval_is_as_wide_as_it_should_be():
    values = np.random.default_rng(2).normal(size=400)
    low, high = eff.bootstrap(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.06)


# --- statistics -------------------------------------------------------------------------------------------------------


def test_interval_is_students_t():
    low, high = stats.interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))


def test_one_seed_has_no_interval_no_spread_and_no_test():
    found = stats.summary(table({"random": {0: [0.5, 0.6]}, "s": {0: [0.5, 0.7]}})).set_index("strategy").loc["s"]
    assert found["final_gain"] == pytest.approx(0.1) and found["final_gain_n"] == 1
    assert found[["final_std", "final_low", "final_gain_low", "final_gain_high", "final_p"]].isna().all()
    assert stats.curves(table({"random": {0: [0.5, 0.6]}}))[["std", "low", "high"]].isna().all().all()


def test_pairing_finds_a_small_steady_lead_in_large_spread_between_seeds():
    arms = {"random": {0: [0.3, 0.50], 1: [0.4, 0.60], 2: [0.5, 0.70]}}
    arms["s"] = {0: [0.3, 0.52], 1: [0.4, 0.62], 2: [0.5, 0.73]}
    found = stats.summary(table(arms)).set_index("strategy").loc["s"]
    difference = np.array([0.02, 0.02, 0.03])
    t = difference.mean() / (difference.std(ddof=1) / math.sqrt(3))
    assert t == pytest.approx(7) and found["final_p"] == pytest.approx(0.0198, abs=2e-4)  # t(2) tables
    assert found["final_gain_low"] > 0
    assert found["final_low"] < arms["random"][1][1] < found["final_high"]  # unpaired, the lead would drown


def test_pairing_is_by_seed_and_not_by_order():
    values = pd.Series([0.6, 0.8], index=[1, 0])
    baseline = pd.Series([0.7, 0.5, 0.1], index=[0, 1, 2])
    found = stats.paired(values, baseline)
    assert found.n == 2 and found.mean == pytest.approx(0.1) and math.isnan(found.p)  # equal differences


def test_holm_adjusts_in_steps():
    assert stats.holm([0.01, 0.04, 0.03, np.nan]) == pytest.approx([0.03, 0.06, 0.06, np.nan], nan_ok=True)
    assert stats.holm([0.9, 0.8]) == pytest.approx([1, 1])


def test_area_is_the_mean_accuracy_over_the_labels():
    assert stats.area([10, 20, 40], [0.5, 0.7, 0.9]) == pytest.approx((10 * 0.6 + 20 * 0.8) / 30)
    assert stats.area([10, 20, 40], [0.5, np.nan, 0.9]) == pytest.approx(0.7)
    assert math.isnan(stats.area([10, 20], [0.5, np.nan]))
    assert stats.area([10], [0.5]) == 0.5


def test_a_curve_that_stops_early_is_no_result_at_the_end():
    arms = {"random": {0: [0.5, 0.6, 0.7], 1: [0.5, 0.6, 0.7]}, "s": {0: [0.5, 0.7, 0.8], 1: [0.5, 0.95]}}
    found = stats.summary(table(arms)).set_index("strategy").loc["s"]
    assert found["n"] == 1 and found["final"] == pytest.approx(0.8) and found["final_gain_n"] == 1


def test_time_that_strategies_share_is_counted_once():
    rounds = table({"random": {0: [0.5, 0.6]}, "s": {0: [0.5, 0.7]}})
    rounds["seconds_train"], rounds["seconds_query"] = 10.0, 1.0
    assert stats.seconds_spent(rounds) == 10 + 2 * 10 + 4 * 1
    assert stats.seconds(rounds)["seconds_train"].tolist() == [20, 20]


def test_the_cost_of_a_query_is_the_mean_of_its_seconds_and_the_most_memory():
    rounds = table({"random": {0: [0.5, 0.6, 0.7]}, "s": {0: [0.5, 0.7, 0.8]}})
    rounds["seconds_query"] = [1.0, 3.0, np.nan, 0.5, 0.5, np.nan]  # the last round asks for nothing
    rounds["query_memory_mb"] = [300.0, 500.0, np.nan, np.nan, np.nan, np.nan]
    rounds["query_gpu_memory_mb"] = np.nan
    table_ = stats.summary(rounds).set_index("strategy")
    assert table_.loc["random", ["query_seconds", "query_memory_mb"]].tolist() == [2.0, 500.0]
    assert table_.loc["s", "query_seconds"] == 0.5
    assert table_.loc[:, "query_gpu_memory_mb"].isna().all()


def test_an_embedding_that_one_strategy_reads_is_counted_and_a_seed_set_only_once():
    rounds = table({"random": {0: [0.5]}, "typiclust": {0: [0.5]}})  # random sorts first, and reads no view
    rounds["seconds_train"], rounds["seconds_label"], rounds["seconds_query"] = 10.0, 1.0, 1.0
    rounds["seconds_embed"] = [np.nan, 100.0]
    assert stats.seconds_spent(rounds) == 10 + 100 + 1 + 2 * 1


def test_later_rounds_cost_each_strategy_its_own():
    rounds = table({"random": {0: [0.5, 0.6]}, "s": {0: [0.5, 0.7], 1: [0.5, 0.7]}})
    rounds["seconds_train"] = [10.0, 20, 10, 30, 11, 31]  # rows: random 0, s 0, s 1; two rounds each
    rounds["seconds_embed"] = [np.nan, np.nan, 5, np.nan, 6, np.nan]
    rounds["seconds_query"] = [1.0, np.nan, 2, np.nan, 3, np.nan]
    rounds["seconds_label"] = [0.5, 0.25, 0.5, 0.25, 0.5, 0.25]
    shared = (10 + 5 + 0.5) + (11 + 6 + 0.5)
    assert stats.seconds_spent(rounds) == shared + (20 + 30 + 31) + 3 * 0.25 + (1 + 2 + 3)
    other = rounds.assign(budget=20)  # another budget starts from the same round 0
    assert stats.seconds_spent(pd.concat([rounds, other])) == shared + 2 * (81 + 0.75 + 6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows.drop(columns="accuracy"), "column accuracy"),
        (lambda rows: pd.concat([rows, rows.head(1)]), "same round twice"),
        (lambda rows: rows.assign(accuracy=93.1), "not within 0 and 1"),
        (lambda rows: rows.assign(accuracy="high"), "not a number"),
        (lambda rows: rows.assign(seed=np.nan), "empty fields"),
        (lambda rows: rows.head(0), "no rounds"),
    ],
)
def test_a_damaged_table_is_refused_in_one_line_that_names_it(tmp_path, change, words):
    path = tmp_path / "rounds.csv"
    change(table({"random": {0: [0.5, 0.6]}})).to_csv(path, index=False)
    with pytest.raises(AllroundError, match=words) as error:
        stats.read_rounds(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_names_that_look_like_numbers_or_nothing_stay_names(tmp_path):
    path = tmp_path / "rounds.csv"
    table({"NA": {0: [0.5, 0.6]}, "007": {0: [0.5, 0.6]}}, dataset="null").to_csv(path, index=False)
    assert set(stats.read_rounds(path)["strategy"]) == {"NA", "007"}
    assert set(stats.read_rounds(path)["dataset"]) == {"null"}
