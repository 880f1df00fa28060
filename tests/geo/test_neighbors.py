"""Pairs and matches within a radius against brute force and scikit-learn."""

import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import BallTree

from geohf.errors import DataError
from geohf.geo import EARTH_RADIUS_M, distance_matrix_m, great_circle_m, matches_within_m, pairs_within_m

DAEJEON = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "daejeon"
needs_daejeon = pytest.mark.skipif(not DAEJEON.is_dir(), reason="the GPS table of Daejeon is not here")
METER = math.degrees(1 / EARTH_RADIUS_M)  # of latitude, in degrees


def tables():
    """Point clouds of some 300 points, each with a radius that a few percent of the pairs meet."""
    rng = np.random.default_rng(0)
    count = 300
    yield (
        "world",
        np.stack([np.degrees(np.arcsin(rng.uniform(-1, 1, count))), rng.uniform(-180, 180, count)], 1),
        2e6,
    )
    yield "street", np.array([36.35, 127.38]) + rng.normal(0, 60 * METER, (count, 2)), 25.0
    pole = np.stack([90 - np.abs(rng.normal(0, 300 * METER, count)), rng.uniform(-180, 180, count)], 1)
    yield "pole", pole, 100.0
    yield "south pole", -pole, 100.0
    lon = (180 + rng.normal(0, 300 * METER, count) + 180) % 360 - 180
    yield "antimeridian", np.stack([rng.normal(0, 300 * METER, count), lon], 1), 100.0
    yield "one turn on", np.stack([rng.normal(0, 300 * METER, count), lon % 360], 1), 100.0
    yield "duplicates", np.repeat(rng.normal(40, 1, (30, 2)), 10, 0), 1.0
    yield "half the globe", rng.uniform(-80, 80, (60, 2)), 0.75 * math.pi * EARTH_RADIUS_M


@pytest.mark.parametrize(
    ("points", "radius"), [case[1:] for case in tables()], ids=[case[0] for case in tables()]
)
def test_pairs_equal_brute_force(points, radius):
    expected = np.argwhere(np.triu(distance_matrix_m(points, points) <= radius, 1))
    found = pairs_within_m(points, radius)
    assert found.dtype == np.int64
    assert 0 < len(found) < len(points) ** 2 / 2
    assert np.array_equal(found, expected)  # argwhere is sorted by row and column


@pytest.mark.parametrize(
    ("points", "radius"), [case[1:] for case in tables()], ids=[case[0] for case in tables()]
)
def test_matches_equal_brute_force(points, radius):
    database, queries = points[::2], points[1::3]
    expected = distance_matrix_m(queries, database) <= radius
    offsets, indices = matches_within_m(database, queries, radius)
    assert offsets.dtype == indices.dtype == np.int64
    assert np.array_equal(offsets, np.concatenate([[0], np.cumsum(expected.sum(1))]))
    assert np.array_equal(indices, np.nonzero(expected)[1])


@pytest.mark.parametrize("radius", [25.0, 4000.0, 3e6, 1.9e7])
def test_the_rim_belongs_to_the_radius(radius):
    rng = np.random.default_rng(1)
    a = np.stack([rng.uniform(-80, 80, 200), rng.uniform(-180, 180, 200)], 1)
    b = a + rng.normal(0, 1, a.shape) * min(radius / 111e3, 4)
    b[:, 0] = np.clip(b[:, 0], -90, 90)
    b[:, 1] = (b[:, 1] + 180) % 360 - 180
    for p, q in zip(a, b, strict=True):
        exact = float(great_circle_m(p, q))
        both = np.stack([p, q])
        assert len(pairs_within_m(both, exact)) == 1
        assert len(pairs_within_m(both, np.nextafter(exact, 0))) == 0
        assert matches_within_m([q], [p], exact)[1].tolist() == [0]
        assert matches_within_m([q], [p], np.nextafter(exact, 0))[1].tolist() == []


def test_half_a_turn_and_more_is_everything():
    points = np.array([[90.0, 0.0], [-90.0, 0.0], [0.0, 0.0], [0.0, 180.0]])
    every = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    for radius in (math.pi * EARTH_RADIUS_M, 1e9):
        assert pairs_within_m(points, radius).tolist() == every
        assert matches_within_m(points, points[:1], radius)[1].tolist() == [0, 1, 2, 3]
    # A meter less leaves out the antipodes.
    assert pairs_within_m(points, math.pi * EARTH_RADIUS_M - 1).tolist() == every[1:5]


def test_hand_numbers():
    # On a meridian at 0, 20, 40 and 70 meters.
    points = np.stack([36 + np.array([0, 20, 40, 70]) * METER, np.full(4, 127.0)], 1)
    assert pairs_within_m(points, 25).tolist() == [[0, 1], [1, 2]]
    assert pairs_within_m(points, 45).tolist() == [[0, 1], [0, 2], [1, 2], [2, 3]]
    offsets, indices = matches_within_m(points, [[36 + 30 * METER, 127], [50, 50], [36, 127]], 25)
    assert offsets.tolist() == [0, 2, 2, 4]
    assert indices.tolist() == [1, 2, 0, 1]


def test_empty_tables():
    none = np.zeros((0, 2))
    assert pairs_within_m(none, 5).shape == (0, 2)
    assert pairs_within_m([[1, 2]], 5).shape == (0, 2)
    for database, queries, length in ((none, [[1, 2]], 2), ([[1, 2]], none, 1), (none, none, 1)):
        offsets, indices = matches_within_m(database, queries, 5)
        assert offsets.tolist() == [0] * length
        assert indices.shape == (0,)


def test_errors():
    good = np.zeros((3, 2))
    for radius in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="radius_m must be finite and above zero"):
            pairs_within_m(good, radius)
    with pytest.raises(DataError, match=r"row 1 \(nan, 0\)"):
        pairs_within_m([[0, 0], [math.nan, 0]], 5)
    with pytest.raises(DataError, match=r"queries: no latitude .* row 0 \(127.4, 36.3\)"):
        matches_within_m(good, [[127.4, 36.3]], 5)
    with pytest.raises(DataError, match=r"database: .* and 2 more"):
        matches_within_m(np.full((7, 2), 361.0), good, 5)
    with pytest.raises(ValueError, match=r"points must have shape \(n, 2\)"):
        pairs_within_m([0, 0], 5)
    with pytest.raises(ValueError, match="queries must have shape"):
        matches_within_m(good, np.zeros((2, 3)), 5)


@pytest.mark.case("files-D4")
@needs_daejeon
def test_daejeon_against_a_ball_tree():
    database, queries = (
        np.loadtxt(DAEJEON / name, delimiter=",", usecols=(1, 2)) for name in ("database.csv", "query.csv")
    )
    tree = BallTree(np.radians(database), metric="haversine")
    neighbors = tree.query_radius(np.radians(database), 25 / EARTH_RADIUS_M)
    pairs = np.concatenate(
        [np.stack([np.full(len(row), i), np.sort(row)], 1) for i, row in enumerate(neighbors)]
    )
    assert np.array_equal(pairs_within_m(database, 25.0), pairs[pairs[:, 0] < pairs[:, 1]])
    offsets, indices = matches_within_m(database, queries, 25.0)
    for query, row in enumerate(tree.query_radius(np.radians(queries), 25 / EARTH_RADIUS_M)):
        assert np.array_equal(indices[offsets[query] : offsets[query + 1]], np.sort(row))
