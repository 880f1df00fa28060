import numpy as np
import pytest
from sklearn.cluster import DBSCAN

from geohf.geo import unit_vectors
from geohf.geo.filters import (
    dbscan_filter,
    filter_groups,
    iqr_filter,
    mad_filter,
    min_rows_filter,
    percentile_filter,
)

FIVE = [[1000.0, 7.0], [1001.0, 7.0], [1002.0, 7.0], [1003.0, 7.0], [1004.5, 7.0]]


def cloud(n=400, seed=0):
    return np.random.default_rng(seed).normal([36.37, 127.36], [0.01, 0.02], (n, 2))


def check(found, n):
    """Kept rows have no reason, dropped ones have one."""
    assert len(found.kept) == len(found.reasons) == n
    assert [reason is None for reason in found.reasons] == found.kept.tolist()


# --- MAD ---


@pytest.mark.parametrize(("threshold", "kept"), [(2.0, 4), (2.4, 4), (2.5, 5), (4.0, 5)])
def test_mad_by_hand(threshold, kept):
    """Median 1002, MAD 1: the last row lies 2.5 MAD away, and what is exactly on the limit is kept."""
    found = mad_filter(FIVE, threshold, "planar")
    assert found.kept.sum() == kept
    check(found, 5)


def test_mad_is_raw_and_by_column():
    points = cloud()
    median = np.median(points, 0)
    mad = np.median(np.abs(points - median), 0)
    expected = (np.abs(points - median) <= 2.0 * mad).all(1)
    assert mad_filter(points, 2.0).kept.tolist() == expected.tolist()
    assert 0 < expected.sum() < len(points)


def test_mad_zero_drops_nothing():
    points = np.array([[36.0, 127.0]] * 9 + [[36.5, 127.5]])
    assert mad_filter(points, 3.0).kept.all()


def test_a_reason_names_the_column_the_value_and_the_limit():
    (reason,) = mad_filter(FIVE, 2.0, "planar").reasons[[4]]
    assert reason == "latitude 1004.5 lies 2.5 MAD from the median 1002, more than 2"


# --- the others ---


def test_percentiles_are_numpys():
    points = cloud()
    low, high = np.percentile(points, [1, 99], axis=0)
    expected = ((points >= low) & (points <= high)).all(1)
    found = percentile_filter(points, 1, 99)
    assert found.kept.tolist() == expected.tolist()
    check(found, len(points))


def test_iqr_by_hand():
    """Quartiles 1001 and 1003: the fences of 1.5 IQR stand at 998 and 1006."""
    assert iqr_filter([*FIVE, [1005.9, 7.0]], 1.5, "planar").kept.all()
    found = iqr_filter([*FIVE[:4], [1006.1, 7.0]], 1.5, "planar")
    assert found.kept.tolist() == [True] * 4 + [False]
    assert "998 to 1006" in found.reasons[4]


def test_iqr_zero_drops_nothing():
    assert iqr_filter([[1000.0, 7.0]] * 9 + [[1500.0, 9.0]], 1.5, "planar").kept.all()


def test_dbscan_drops_what_scikit_learn_calls_noise(shared_data):
    points = np.loadtxt(shared_data("daejeon") / "database.csv", delimiter=",", usecols=(1, 2))[:8000]
    eps_m = 40.0
    theirs = DBSCAN(eps=2 * np.sin(eps_m / 6_371_008.8 / 2), min_samples=10).fit(unit_vectors(points)).labels_
    found = dbscan_filter(points, eps_m, 10)
    assert found.kept.tolist() == (theirs >= 0).tolist()
    assert 0 < found.kept.sum() < len(points)
    check(found, len(points))


def test_small_groups_go():
    found = min_rows_filter(["3", "5", "3", "9"], 2)
    assert found.kept.tolist() == [True, False, True, False]
    assert found.reasons[1] == "group 5 has fewer than 2 rows (1)"


def test_groups_are_filtered_by_themselves():
    first, second = cloud(200, seed=1), cloud(300, seed=2) + 3
    order = np.random.default_rng(0).permutation(500)
    points = np.concatenate([first, second])[order]
    groups = np.array(["a"] * 200 + ["b"] * 300)[order]
    found = filter_groups(points, groups, percentile_filter, low=5, high=95)
    for name in "ab":
        alone = percentile_filter(points[groups == name], 5, 95)
        assert found.kept[groups == name].tolist() == alone.kept.tolist()
        assert found.reasons[groups == name].tolist() == alone.reasons.tolist()


@pytest.mark.parametrize(
    "apply",
    [
        lambda points: mad_filter(points, 3.0),
        lambda points: percentile_filter(points, 2, 98),
        lambda points: iqr_filter(points, 1.0),
        lambda points: dbscan_filter(points, 400, 10),
    ],
)
def test_the_antimeridian_cuts_through_no_table(apply):
    points = cloud()
    moved = points + np.array([0.0, 180.0 - 127.36])
    moved[moved[:, 1] >= 180, 1] -= 360
    assert apply(moved).kept.tolist() == apply(points).kept.tolist()
    assert not apply(points).kept.all()


@pytest.mark.parametrize(
    "found",
    [
        mad_filter(np.empty((0, 2)), 3.0),
        percentile_filter(np.empty((0, 2))),
        iqr_filter(np.empty((0, 2))),
        dbscan_filter(np.empty((0, 2)), 50),
        min_rows_filter([], 20),
        filter_groups(np.empty((0, 2)), [], mad_filter),
    ],
)
def test_an_empty_table_stays_empty(found):
    check(found, 0)


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (lambda: mad_filter(FIVE, 0, "planar"), "above zero"),
        (lambda: percentile_filter(FIVE, 60, 40, "planar"), "0 <= low < high <= 100"),
        (lambda: iqr_filter(FIVE, -1, "planar"), "above zero"),
        (lambda: mad_filter([[36.0, float("nan")]]), "finite"),
        (lambda: mad_filter([[36.0, 127.0, 0.0]]), "shape"),
        (lambda: mad_filter(FIVE, 3.0, "utm"), "frame must be one of wgs84, planar"),
    ],
)
def test_wrong_arguments_are_refused(apply, message):
    with pytest.raises(ValueError, match=message):
        apply()
