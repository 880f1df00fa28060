"""Leaks that make a recall look better than it is."""

import numpy as np
import pytest

from geohf.errors import DataError
from geohf.place.audit import audit, near_duplicates

NS = 10**9


def route(start, n, step_m=10.0):
    return np.stack([np.zeros(n), np.degrees((start + np.arange(n) * step_m) / 6371008.8)], 1)


def look(photos, points, sequences, times, train, database, queries):
    rows = (np.array(part, int) for part in (train, database, queries))
    found = audit([str(photo) for photo in photos], points, np.array(sequences), times, *rows)
    return {finding.kind: finding for finding in found}


def test_another_drive_at_another_place_is_clean(photos):
    points = np.concatenate([route(0, 4), route(1000, 4), route(1003, 4)])
    assert look(photos, points, ["a"] * 8 + ["b"] * 4, [None] * 12, range(4), range(8), range(8, 12)) == {}


def test_a_query_in_the_database_even_under_another_name(photos, tmp_path):
    copy = tmp_path / "copy.png"
    copy.write_bytes(photos[2].read_bytes())
    files = [*photos[:4], copy, *photos[4:7]]
    points = np.concatenate([route(0, 4), route(500, 4)])
    found = look(files, points, ["a"] * 4 + ["b"] * 4, [None] * 8, [0], range(4), range(4, 8))
    assert found["self_retrieval"].queries == 1
    assert found["self_retrieval"].fatal
    assert found["self_retrieval"].share == 0.25


def test_the_same_drive_moments_later(photos):
    points = np.concatenate([route(0, 4), route(5, 4)])
    seconds = [0, 1, 2, 3, 0.5, 1.5, 2.5, 3.5]
    times = [round(s * NS) for s in seconds]
    same = look(photos[:8], points, ["a"] * 8, times, [], range(4), range(4, 8))
    assert same["same_drive"].queries == 4
    assert not same["same_drive"].fatal
    # the same camera an hour later, or another drive at the same moment, is another visit
    later = [time + (3600 * NS if i >= 4 else 0) for i, time in enumerate(times)]
    assert look(photos[:8], points, ["a"] * 8, later, [], range(4), range(4, 8)) == {}
    assert look(photos[:8], points, ["a"] * 4 + ["b"] * 4, times, [], range(4), range(4, 8)) == {}


def test_places_that_were_trained_on(photos):
    points = np.concatenate([route(0, 6), route(50, 2), route(900, 2)])
    found = look(photos[:10], points, ["a"] * 6 + ["b"] * 4, [None] * 10, range(6), range(6), range(6, 10))
    assert found["trained_place"].queries == 2


def test_pictures_that_hardly_differ():
    assert near_duplicates(np.array([0.5, 0.99])) is None
    assert near_duplicates(np.array([0.5, 0.99999])).queries == 1


def test_a_query_table_equal_to_the_database_stops_the_run(small_run, drives, tmp_path):
    noon = [str(drives / "noon" / "poses.csv")]
    with pytest.raises(
        DataError, match=r"leak \(self_retrieval\): 200 of 200 queries are in the database themselves"
    ):
        small_run(tmp_path, train_csv=noon, test_csv=noon)


def test_a_strict_audit_stops_at_places_that_were_trained_on(small_run, drives, tmp_path):
    noon, dusk = ([str(drives / name / "poses.csv")] for name in ("noon", "dusk"))
    with pytest.raises(DataError, match=r"leak \(trained_place\)"):
        small_run(tmp_path, train_csv=noon, test_csv=dusk, audit="strict")
