"""Intervals: against formulas and simulations, and where there is nothing to say."""

import math

import numpy as np
import pytest

from geohf.metrics.intervals import LEAST_GROUPS, bootstrap_intervals, mean_interval, share_interval


@pytest.mark.parametrize(("right", "n"), [(0, 12), (1, 7), (30, 50), (9, 9), (400, 1000)])
def test_a_share_has_the_interval_of_wilsons_formula(right, n):
    share, z = right / n, 1.959963984540054
    center = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    found = share_interval(np.arange(n) < right)
    assert found == pytest.approx((center - half, center + half), abs=1e-12)
    assert found[1] - found[0] > 0


def test_a_mean_is_as_sure_as_its_standard_error_says():
    values = np.random.default_rng(0).normal(5, 2, 400)
    low, high = mean_interval(values)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.05)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    assert mean_interval(np.r_[values, np.nan]) == (low, high)  # what is not known does not count


def test_any_statistic_of_single_rows_is_drawn_as_a_mean_is():
    values = np.random.default_rng(1).exponential(3, 60)
    groups = np.repeat(np.arange(12), 5)
    both = bootstrap_intervals(
        lambda rows: {"mean": values[rows].mean(), "median": np.median(values[rows])}, groups, draws=400
    )
    assert both["mean"] == pytest.approx(mean_interval(values, groups, draws=400), rel=1e-9)
    assert both["median"][0] <= np.median(values) <= both["median"][1]


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    held = 0
    for trial in range(200):
        drives = rng.normal(size=30).repeat(
            8
        )  # rows of a group are alike: drawn alone they would be too sure
        low, high = mean_interval(
            drives + rng.normal(0, 0.1, 240), np.arange(30).repeat(8), draws=200, seed=trial
        )
        held += low < 0 < high
    assert 0.87 < held / 200 < 0.99


def test_nothing_is_said_where_there_is_nothing_to_say():
    few = np.arange(LEAST_GROUPS - 1)
    assert mean_interval(few) is None
    assert bootstrap_intervals(lambda rows: {"x": rows.mean()}, few) == {}
    assert mean_interval(np.ones(50)) is None  # not: "surely 1"
    assert mean_interval([np.nan] * 9) is None
    assert mean_interval([]) is None
    assert share_interval([]) is None
    undefined = bootstrap_intervals(
        lambda rows: {"x": np.nan if 0 in rows else 1.0 * rows.sum(), "y": rows.mean()}, np.arange(20)
    )
    assert set(undefined) == {"y"}  # most draws have no x


def test_a_name_that_the_first_draw_lacks_has_its_interval_all_the_same():
    drawn = []

    def statistics(rows):
        drawn.append(rows)
        return {"all": rows.mean()} | ({"some": rows.mean()} if len(drawn) > 1 else {})

    found = bootstrap_intervals(statistics, np.arange(20), draws=100)
    assert found["some"] == pytest.approx(found["all"], rel=0.05)
