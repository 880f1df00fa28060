"""DBSCAN against scikit-learn's labels, border points included, on every kind of table."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import DBSCAN

from geohf.errors import DataError
from geohf.geo import EARTH_RADIUS_M, dbscan, unit_vectors

DAEJEON = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "daejeon" / "database.csv"
needs_daejeon = pytest.mark.skipif(not DAEJEON.is_file(), reason="the GPS table of Daejeon is not here")


def reference(points, eps, min_samples, frame="wgs84"):
    """scikit-learn's labels; on the sphere by chords, which is the same metric."""
    if frame == "wgs84":
        points = EARTH_RADIUS_M * unit_vectors(points)
        eps = 2 * EARTH_RADIUS_M * math.sin(min(eps / (2 * EARTH_RADIUS_M), math.pi / 2))
    return DBSCAN(eps=eps, min_samples=min_samples).fit_predict(points)


def in_order_of_appearance(labels):
    """The same clusters, numbered by their first point."""
    number = {-1: -1}
    return np.array([number.setdefault(label, len(number) - 1) for label in labels.tolist()], np.int64)


def check(points, eps, min_samples, frame="wgs84"):
    found = dbscan(points, eps, min_samples, frame)
    assert found.dtype == np.int64
    assert np.array_equal(found, in_order_of_appearance(reference(points, eps, min_samples, frame)))
    return found


def cities(count, seed=0):
    """Points about twelve cities of the United States, and a twentieth anywhere between."""
    rng = np.random.default_rng(seed)
    center = np.stack([rng.uniform(28, 47, 12), rng.uniform(-122, -72, 12)], 1)
    member = rng.choice(12, count, p=rng.dirichlet(np.full(12, 2.0)))
    points = center[member] + rng.normal(0, 1, (count, 2)) * rng.uniform(0.1, 0.4, 12)[member, None]
    anywhere = rng.random(count) < 0.05
    points[anywhere] = np.stack([rng.uniform(25, 49, count), rng.uniform(-124, -67, count)], 1)[anywhere]
    return points


def world(count, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([np.degrees(np.arcsin(rng.uniform(-1, 1, count))), rng.uniform(-180, 180, count)], 1)


@pytest.mark.parametrize(
    ("eps", "min_samples"),
    [(500, 3), (2000, 1), (5000, 10), (5000, 2), (20_000, 5), (20_000, 200), (300_000, 10)],
)
def test_dense_cities(eps, min_samples):
    labels = check(cities(10_000), eps, min_samples)
    assert labels.max() >= 0


@pytest.mark.parametrize(("eps", "min_samples"), [(5000, 10), (60_000, 2), (150_000, 10), (400_000, 30)])
def test_sparse_world(eps, min_samples):
    check(world(10_000), eps, min_samples)


@pytest.mark.parametrize(("points", "eps"), [(cities, 5000), (world, 20_000)])
def test_a_hundred_thousand_points(points, eps):
    check(points(100_000, seed=8), eps, 10)


@pytest.mark.case("files-D6")
@pytest.mark.parametrize("eps", [1e6, 5e6, 9e6, 12e6, 1.9e7, math.pi * EARTH_RADIUS_M, 1e9])
def test_radii_as_large_as_the_globe(eps):
    for min_samples in (2, 100, 250):
        check(world(300), eps, min_samples)


@pytest.mark.case("files-D6")
@pytest.mark.parametrize("pole", [1, -1])
@pytest.mark.parametrize("eps", [300, 5000, 60_000])
def test_at_the_poles(pole, eps):
    rng = np.random.default_rng(1)
    points = np.stack([pole * (90 - np.abs(rng.normal(0, 0.3, 3000))), rng.uniform(-180, 180, 3000)], 1)
    points[:5] = [pole * 90, 77]
    check(points, eps, 5)


@pytest.mark.case("files-D6")
@pytest.mark.parametrize("latitude", [0, 40, -75])
def test_across_the_antimeridian(latitude):
    rng = np.random.default_rng(2)
    points = np.stack([rng.normal(latitude, 0.3, 3000), (rng.normal(0, 0.5, 3000)) % 360 - 180], 1)
    labels = check(points, 3000, 5)
    west, east = labels[points[:, 1] > 179.9], labels[points[:, 1] < -179.9]
    assert set(west[west >= 0]) & set(east[east >= 0])  # clusters do reach across
    assert np.array_equal(dbscan(points + np.array([0, 90]), 3000, 5), labels)


def test_planar():
    rng = np.random.default_rng(3)
    check(rng.normal(2e5, 1000, (8000, 2)), 50, 10, "planar")
    check(np.concatenate([rng.normal(0, 10, (4000, 2)), rng.normal(300, 10, (4000, 2))]), 2.0, 8, "planar")
    check(np.concatenate([rng.normal(2e5, 100, (2000, 2)), [[1e9, -1e9]]]), 5.0, 5, "planar")


@pytest.mark.parametrize("eps", [1.0, 2.0, math.sqrt(2), 5.0])
def test_points_exactly_at_the_rim(eps):
    # On a lattice most distances of interest are exactly eps, and border points tie between clusters.
    rng = np.random.default_rng(4)
    lattice = np.stack(np.meshgrid(np.arange(70.0), np.arange(70.0)), -1).reshape(-1, 2)
    points = rng.permutation(lattice[rng.random(len(lattice)) < 0.35])
    for min_samples in (2, 3, 5, 20):
        check(points, eps, min_samples, "planar")


@pytest.mark.case("files-D5", "files-D6")
def test_duplicates():
    check(np.repeat(cities(150), 20, axis=0), 1000, 10)
    assert dbscan(np.tile([[3.0, 4.0]], (9, 1)), 1, 10).tolist() == [-1] * 9
    assert dbscan(np.tile([[3.0, 4.0]], (10, 1)), 1, 10).tolist() == [0] * 10


@pytest.mark.parametrize("gap", [0.99, 1.01])
@pytest.mark.parametrize("angle", [0, 45, 30])
def test_crowded_cells_face_each_other(gap, angle):
    # Two crowds along a gap of about eps: cells of hundreds of points that nearly touch everywhere.
    rng = np.random.default_rng(5)
    left, right = rng.random((6000, 2)) * [4, 15], rng.random((6000, 2)) * [4, 15] + [4 + 5 * gap, 0]
    turn = np.radians(angle)
    points = np.concatenate([left, right]) @ [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    labels = check(points, 5.0, 10, "planar")
    assert labels.max() == (1 if gap > 1 else 0)


def test_very_crowded_cells_are_decided_by_one_pair():
    # 2 x 300 points in two cells: more pairs than one chunk, only the closest of which is within eps.
    rng = np.random.default_rng(6)
    angle = rng.uniform(0, 2 * np.pi, 300)
    cloud = 0.25 * np.sqrt(rng.random(300))[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    for distance, clusters in ((1.0, 1), (1.0 + 1e-9, 2)):
        left, right = cloud - np.array([0.25, 0]), cloud + np.array([0.25 + distance, 0])
        left[0], right[0] = [0.0, 0.0], [distance, 0.0]
        left[1:, 0] -= 1e-6
        right[1:, 0] += 1e-6
        labels = check(np.concatenate([left, right]), 1.0, 10, "planar")
        assert labels.max() + 1 == clusters


def test_border_point_joins_the_cluster_that_comes_first():
    def line(*x):
        return np.stack([np.array(x, float) + 1000, np.zeros(len(x))], 1)

    # The point at 2 is within 1 of the core points 1 and 3, and is no core point itself with min_samples 4.
    left, right = (0.9, 1, 0.8, 0.7), (3, 3.1, 3.2, 3.3)
    assert dbscan(line(*left, 2, *right), 1.0, 4, "planar").tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert dbscan(line(*right, 2, *left), 1.0, 4, "planar").tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]
    # The first core point of the table decides, although a border point of the other cluster comes before.
    assert dbscan(line(2, *left, *right), 1.0, 4, "planar").tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]


def test_numbering_and_order():
    points = np.array([[1000.0, 0], [2000, 0], [1000, 1], [2000, 1], [3000, 0]])
    assert dbscan(points, 2, 2, "planar").tolist() == [0, 1, 0, 1, -1]
    rng = np.random.default_rng(7)
    table = cities(3000, seed=1)
    order = rng.permutation(len(table))
    core_only = dbscan(table, 8000, 1)
    assert np.array_equal(in_order_of_appearance(core_only[order]), dbscan(table[order], 8000, 1))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=80),
    st.sampled_from([1.0, 1.5, 2.0, 2.9, 4.0]),
    st.integers(1, 8),
)
def test_any_small_table(points, eps, min_samples):
    check(np.array(points, float) + 1000, eps, min_samples, "planar")


def test_small_tables_and_errors():
    assert dbscan(np.zeros((0, 2)), 5).shape == (0,)
    assert dbscan([[1, 2]], 5, 1).tolist() == [0]
    assert dbscan([[1, 2]], 5, 2).tolist() == [-1]
    for eps in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="eps must be finite and above zero"):
            dbscan([[1, 2]], eps)
    for min_samples in (0, 2.5):
        with pytest.raises(ValueError, match="min_samples"):
            dbscan([[1, 2]], 5, min_samples)
    with pytest.raises(DataError, match="row 0"):
        dbscan([[math.nan, 2]], 5)
    with pytest.raises(DataError, match="row 1"):
        dbscan([[0, 0], [91, 2]], 5)
    with pytest.raises(DataError, match="frame must be one of wgs84, planar"):
        dbscan([[1, 2]], 5, frame="utm")
    with pytest.raises(ValueError, match="shape"):
        dbscan([1, 2], 5)
    with pytest.raises(ValueError, match="too small"):
        dbscan([[0, 0], [1, 1]], 1e-4)
    with pytest.raises(ValueError, match="too small"):
        dbscan([[0, 0], [1e9, 1]], 1e-4, frame="planar")


@pytest.mark.case("files-D6")
@needs_daejeon
@pytest.mark.parametrize(("eps", "min_samples"), [(5, 3), (25, 10), (100, 10), (500, 50)])
def test_daejeon(eps, min_samples):
    points = np.loadtxt(DAEJEON, delimiter=",", usecols=(1, 2))
    assert check(points, eps, min_samples).max() >= 0
