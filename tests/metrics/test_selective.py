"""Precision, recall, risk and thresholds of a confidence: by hand, and against scikit-learn."""

import numpy as np
import pytest

from geohf.metrics.selective import (
    average_precision,
    precision_recall,
    recall_at_precision,
    risk_coverage,
    risk_curve,
    threshold_for_precision,
)

SURE = [0.9, 0.8, 0.7, 0.6, 0.5]
RIGHT = [True, True, False, True, False]


def test_a_curve_worked_by_hand():
    thresholds, precision, recall = precision_recall(SURE, RIGHT, possible=4)
    assert thresholds.tolist() == SURE
    assert precision.tolist() == pytest.approx([1, 1, 2 / 3, 3 / 4, 3 / 5])
    assert recall.tolist() == [0.25, 0.5, 0.5, 0.75, 0.75]
    assert average_precision(SURE, RIGHT, 4) == pytest.approx(0.25 + 0.25 + 0.25 * 0.75)
    assert recall_at_precision(SURE, RIGHT, possible=4) == 0.5
    assert recall_at_precision(SURE, RIGHT, 0.7, possible=4) == 0.75
    assert risk_coverage(SURE, RIGHT) == pytest.approx((0 + 0 + 1 / 3 + 1 / 4 + 2 / 5) / 5)
    assert threshold_for_precision(SURE, RIGHT, 1.0) == 0.8
    assert threshold_for_precision(SURE, RIGHT, 0.75) == 0.6  # although at 0.7 it is less
    assert threshold_for_precision(SURE, [False] * 5, 0.5) is None


def test_answers_of_one_confidence_stand_or_fall_together_in_any_order():
    rng = np.random.default_rng(0)
    sure, right = rng.integers(0, 5, 60) / 4, rng.random(60) < 0.5
    order = rng.permutation(60)
    for number in (average_precision, recall_at_precision, risk_coverage):
        assert number(sure[order], right[order]) == pytest.approx(number(sure, right), abs=1e-12)
    expected = []  # each order of ties is as likely as another: their mean, drawn
    for _ in range(4000):
        at = np.lexsort((rng.random(60), -sure))
        expected.append((np.cumsum(~right[at]) / np.arange(1, 61)).mean())
    assert risk_coverage(sure, right) == pytest.approx(np.mean(expected), abs=2e-3)


def test_average_precision_is_that_of_scikit_learn():
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(1)
    sure, right = rng.random(300).round(2), rng.random(300) < 0.4
    assert average_precision(sure, right) == pytest.approx(average_precision_score(right, sure))
    # of twice as many that could be right, half as much is recalled
    assert average_precision(sure, right, 2 * right.sum()) == pytest.approx(
        average_precision_score(right, sure) / 2
    )


def test_nothing_is_recalled_where_the_surest_is_wrong():
    assert recall_at_precision([0.9, 0.5], [False, True]) == 0
    assert risk_coverage([0.9, 0.5], [False, True]) == 0.75


def test_a_confidence_that_is_the_same_for_all_has_a_level_curve():
    assert risk_curve([7, 7, 7], [3.0, 6.0, 0.0]).tolist() == [3.0, 3.0, 3.0]
