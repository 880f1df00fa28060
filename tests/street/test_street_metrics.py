"""Scores against formulas written out row by row, and numbers worked out by hand."""

import math

import numpy as np
import pytest

from geohf.errors import DataError
from geohf.metrics.calibration import expected_calibration_error
from geohf.street.metrics import (
    competition_score,
    constant_baseline,
    distance_metrics,
    distance_score,
    state_score,
    street_metrics,
)

DEGREE_KM = math.pi * 6371.0 / 180


def haversine_km(a, b):
    (lat1, lon1), (lat2, lon2) = (map(math.radians, point) for point in (a, b))
    h = math.sin((lat2 - lat1) / 2) ** 2
    h += math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * 6371.0 * math.asin(math.sqrt(min(1.0, h)))


def written_out(top5, points, states, truth):
    credit = total_km = 0.0
    for answers, point, state, where in zip(top5, points, states, truth, strict=True):
        for answer, weight in zip(answers, (1.0, 0.6, 0.4, 0.25, 0.15), strict=False):
            if answer == state and answer != -1:
                credit += weight
                break
        total_km += haversine_km(point, where)
    return 0.7 * credit / len(states) + 0.3 * max(0.0, 1 - total_km / len(states) / 5000)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(5))
def test_the_score_against_the_formula_written_out(k, seed):
    rng = np.random.default_rng([seed, k])
    n = int(rng.integers(1, 60))
    top5 = rng.integers(-1, 8, (n, k))  # few states, so that they repeat within a row
    states = rng.integers(-1, 8, n)
    truth = np.stack([rng.uniform(-90, 90, n), rng.uniform(-180, 180, n)], 1)
    points = truth + rng.normal(0, rng.choice([0.1, 20]), (n, 2))
    points[:, 0] = points[:, 0].clip(-90, 90)
    expected = written_out(top5.tolist(), points.tolist(), states.tolist(), truth.tolist())
    assert competition_score(top5, points, states, truth) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("row", "credit"),
    [
        ([7, 1, 2, 3, 4], 1.0),
        ([1, 7, 2, 3, 4], 0.6),
        ([1, 2, 7, 3, 4], 0.4),
        ([1, 2, 3, 7, 4], 0.25),
        ([1, 2, 3, 4, 7], 0.15),
        ([1, 2, 3, 4, 5], 0.0),
        ([7, 7, 7, 7, 7], 1.0),
        ([1, 1, 7, 7, 1], 0.4),
        ([-1, -1, -1, 7, -1], 0.25),
        ([-1] * 5, 0.0),
    ],
)
def test_the_credit_of_every_rank(row, credit):
    assert state_score([row], [7]) == pytest.approx(credit)


def test_no_answer_is_not_a_right_one():
    assert state_score([[-1, -1, -1, -1, -1]], [-1]) == 0


def test_perfect_and_all_wrong():
    truth = [[43.5, -70.7], [61.2, -149.9]]
    assert competition_score([[18, -1, -1, -1, -1], [1, 2, 3, 4, 5]], truth, [18, 1], truth) == 1
    antipodes = [[-43.5, 109.3], [-61.2, 30.1]]
    assert competition_score([[0] * 5, [0] * 5], antipodes, [18, 1], truth) == 0


def test_the_mean_distance_is_taken_before_the_clip():
    """One place right and one 90 degrees off: mean 5003.8 km, so 0, not the 0.5 of clipping each by itself."""
    truth = [[0.0, 0.0], [0.0, 0.0]]
    assert distance_score([[0, 0], [0, 90]], truth) == 0
    assert distance_score([[0, 0], [0, 80]], truth) == pytest.approx(1 - 40 * DEGREE_KM / 5000)
    assert distance_score([[0, 0], [0, 80]], truth) == pytest.approx(0.1104399, abs=1e-6)


def test_the_competition_has_its_own_radius():
    score = distance_score([[0.0, 0.0]], [[0.0, 30.0]])
    assert (1 - score) * 5000 == pytest.approx(30 * math.pi * 6371.0 / 180, abs=1e-6)  # not 6371.0088


def test_the_antimeridian_is_no_wall():
    assert distance_score([[0.0, 179.9]], [[0.0, -179.9]]) == pytest.approx(1 - 0.2 * DEGREE_KM / 5000)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_a_point_that_is_no_number_is_refused(bad, where):
    pair = [[[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]]]
    pair[where][1][0] = bad
    with pytest.raises(DataError, match="NaN or infinite"):
        competition_score([[1], [1]], pair[0], [1, 1], pair[1])


def test_states_are_numbers_however_they_are_written_and_their_names_are_refused():
    here = [[36.0, -119.0]]
    assert competition_score([[4]], here, ["4"], here) == competition_score([["4"]], here, [4], here) == 1.0
    assert competition_score([[4, None]], here, [4], here) == 1.0
    with pytest.raises(DataError, match=r"by their indices, which are numbers: .*'Maine'"):
        competition_score([[4]], here, ["Maine"], here)
    with pytest.raises(DataError, match="a true state is NaN"):
        competition_score([[4]], here, [math.nan], here)


@pytest.mark.parametrize(
    ("top5", "points", "states", "truth"),
    [
        ([[1] * 6], [[0, 0]], [1], [[0, 0]]),  # six answers
        ([1], [[0, 0]], [1], [[0, 0]]),
        ([[1], [1]], [[0, 0]], [1], [[0, 0]]),
        ([[1]], [[0, 0], [0, 0]], [1], [[0, 0]]),
        ([[1], [1]], [[0, 0], [0, 0]], [1, 1], [[0, 0]]),  # one truth would broadcast
        ([[1], [1]], [[0, 0], [0, 0]], [1, 1], [0, 0]),
        (np.empty((0, 5)), np.empty((0, 2)), [], np.empty((0, 2))),
    ],
)
def test_lengths_that_do_not_fit_are_refused(top5, points, states, truth):
    with pytest.raises(DataError):
        competition_score(top5, points, states, truth)


# Distances


def test_distances_by_hand():
    km = [0.5, 1.0, 25.0, 150.0, 600.0, 3000.0]
    found = distance_metrics(km)
    assert found["mean_km"] == pytest.approx(3776.5 / 6)
    assert found["median_km"] == pytest.approx(87.5)
    assert found["std_km"] == pytest.approx(math.sqrt(sum((d - 3776.5 / 6) ** 2 for d in km) / 6))
    within = {1: 2, 25: 3, 100: 3, 200: 4, 500: 4, 750: 5, 1000: 5, 2500: 5}
    for radius, count in within.items():
        assert found[f"within_{radius}_km"] == pytest.approx(count / 6)
    assert found["geoscore"] == pytest.approx(sum(5000 * math.exp(-d / 1492.7) for d in km) / 6)


def test_the_geoscore_at_its_ends():
    assert distance_metrics([0.0])["geoscore"] == 5000
    assert distance_metrics([1492.7])["geoscore"] == pytest.approx(5000 / math.e)
    assert distance_metrics([20015.0])["geoscore"] == pytest.approx(0.0075, abs=1e-4)


# Calibration


def calibration_written_out(probabilities, labels, bins):
    groups = {}
    for row, label in zip(probabilities, labels, strict=True):
        best = max(range(len(row)), key=lambda k: row[k])
        groups.setdefault(min(int(row[best] * bins), bins - 1), []).append((row[best], best == label))
    error = 0.0
    for members in groups.values():
        confidence = sum(c for c, _ in members) / len(members)
        accuracy = sum(right for _, right in members) / len(members)
        error += len(members) / len(labels) * abs(confidence - accuracy)
    return error


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_against_a_loop(bins):
    rng = np.random.default_rng(bins)
    probabilities = rng.dirichlet(np.full(6, 0.4), 500)
    labels = rng.integers(0, 6, 500)
    expected = calibration_written_out(probabilities.tolist(), labels.tolist(), bins)
    assert expected_calibration_error(probabilities, labels, bins) == pytest.approx(expected, abs=1e-12)


def test_calibration_by_hand():
    assert expected_calibration_error([[1.0, 0.0]], [0]) == 0
    assert expected_calibration_error([[1.0, 0.0]], [1]) == 1
    # two bins: 0.6 and right half of the time, 0.9 and always right
    rows, labels = [[0.6, 0.4], [0.6, 0.4], [0.9, 0.1], [0.9, 0.1]], [0, 1, 0, 0]
    assert expected_calibration_error(rows, labels) == pytest.approx(0.5 * 0.1 + 0.5 * 0.1)


# All together


def test_street_metrics_by_hand():
    nan = math.nan
    logits = np.log([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.1, 0.2, 0.7], [0.2, 0.5, 0.3]])
    points = [[0, 0], [0, 1], [0, 2], [0, 3]]
    truth = [[0, 0], [0, 0], [nan, nan], [0, 0]]
    found = street_metrics(logits, points, [0, 2, 2, -100], truth)
    # places 0 and 1 have both, place 2 only a state, place 3 only a position
    expected = 0.7 * (1 + 0.4) / 2 + 0.3 * (1 - DEGREE_KM / 2 / 5000)
    assert found["score"] == pytest.approx(expected)
    assert found["top1"] == pytest.approx(2 / 3)
    assert found["top5"] == 1
    assert found["ece"] == pytest.approx((0.6 + abs(0.7 + 0.7 - 2)) / 3)
    assert found["mean_km"] == pytest.approx((0 + 1 + 3) * math.pi * 6371.0088 / 180 / 3)
    assert found["within_100_km"] == pytest.approx(1 / 3)


def test_the_temperature_changes_calibration_alone():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (80, 7)), rng.integers(0, 7, 80)
    points = rng.uniform(0, 10, (80, 2))
    cold, warm = (street_metrics(logits, points, labels, points + 1, t) for t in (1.0, 4.0))
    assert cold.pop("ece") != warm.pop("ece")
    assert cold == warm
    softened = np.exp(logits / 4) / np.exp(logits / 4).sum(1, keepdims=True)
    found = street_metrics(logits, points, labels, points, 4.0)["ece"]
    assert found == pytest.approx(expected_calibration_error(softened, labels))


def test_what_is_unknown_is_not_reported():
    points = [[0.0, 0.0]] * 2
    without_classes = street_metrics(None, points, [-100, -100], points)
    assert {"score", "top1", "ece"}.isdisjoint(without_classes)
    assert without_classes["mean_km"] == 0
    without_places = street_metrics(np.eye(2), points, [0, 1], [[math.nan] * 2] * 2)
    assert set(without_places) == {"top1", "top5", "ece"}
    assert "score" not in street_metrics(np.eye(2), points, [0, 1], points, scored=False)
    assert street_metrics(None, points, [-100, -100], [[math.nan] * 2] * 2) == {}


# The constant answer


def test_the_constant_answer_is_the_best_of_its_kind():
    rng = np.random.default_rng(2)
    points = np.concatenate(
        [rng.normal([40, -90], [4, 12], (300, 2)), rng.normal([62, -150], 2, (30, 2)), [[20, -156.0]] * 5]
    )
    labels = rng.choice(9, len(points), p=np.arange(1, 10) / 45)
    logits, point = constant_baseline(labels, points, 9)
    assert point.tolist() in points.tolist()

    def mean_km(constant):
        return np.mean([haversine_km(constant, other) for other in points.tolist()])

    others = [*points[::7].tolist(), *rng.uniform([25, -125], [50, -70], (40, 2)).tolist()]
    best = mean_km(point.tolist())
    assert best <= min(map(mean_km, points[::7].tolist()))
    assert best < np.mean([mean_km(other) for other in others]) / 1.2
    assert np.argsort(-logits)[:5].tolist() == np.argsort(-np.bincount(labels), kind="stable")[:5].tolist()
    np.testing.assert_allclose(np.exp(logits), np.bincount(labels), rtol=1e-6)
    top5 = np.tile(np.argsort(-logits)[:5], (len(points), 1))
    constant = competition_score(top5, np.tile(point, (len(points), 1)), labels, points)
    for _ in range(30):
        guess = np.tile(rng.permutation(9)[:5], (len(points), 1))
        where = np.tile(points[rng.integers(len(points))], (len(points), 1))
        assert competition_score(guess, where, labels, points) <= constant


def test_the_constant_answer_passes_over_what_is_unknown():
    logits, point = constant_baseline([2, -100, 2, 0], [[1, 1], [math.nan] * 2, [1, 1], [50, 50]], 4)
    assert point.tolist() == [1, 1]
    assert np.argsort(-logits)[:2].tolist() == [2, 0]
    assert np.isfinite(logits).all()
    assert constant_baseline([], [[1, 1]], 0)[0] is None
    with pytest.raises(DataError, match="no training place has a position"):
        constant_baseline([0, 1], [[math.nan] * 2] * 2, 2)


def test_the_constant_answer_of_many_points_looks_at_some():
    points = np.random.default_rng(0).normal([40, -100], 1, (5000, 2))
    point = constant_baseline(np.empty(0, int), points, 0)[1]
    assert np.abs(point - [40, -100]).max() < 0.3
