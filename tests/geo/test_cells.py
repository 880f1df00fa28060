"""Geocells: neighborhoods that partition the points, reach no farther than asked, and ignore the antimeridian."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geohf.geo import great_circle_m, spherical_mean
from geohf.geo.cells import geo_cells


def town(latitude, longitude, n, seed=0, spread=0.02):
    return np.random.default_rng(seed).normal([latitude, longitude], spread, (n, 2))


def reach_m(points, labels, centroids):
    return np.array(
        [great_circle_m(points[labels == k], centroid).max() for k, centroid in enumerate(centroids)]
    )


def test_towns_become_cells_from_north_to_south():
    points = np.concatenate([town(48.1, 11.6, 10), town(55.7, 13.2, 30, 1), town(52.5, 13.4, 3, 2)])
    labels, centroids = geo_cells(points)
    assert labels.dtype == np.int64
    assert labels.tolist() == [2] * 10 + [0] * 30 + [1] * 3
    for number in range(3):
        np.testing.assert_allclose(centroids[number], spherical_mean(points[labels == number]), atol=1e-12)


def test_a_town_on_the_antimeridian_is_one_cell():
    fiji = town(-17, 180, 20)
    fiji[:, 1] = (fiji[:, 1] + 180) % 360 - 180
    assert (fiji[:, 1] > 0).any()
    assert (fiji[:, 1] < 0).any()
    labels, centroids = geo_cells(np.concatenate([fiji, town(-17, 178, 20, 1)]))
    assert labels.tolist() == [labels[0]] * 20 + [1 - labels[0]] * 20
    assert abs(centroids[labels[0], 1]) == pytest.approx(180, abs=0.02)


def test_a_town_around_the_pole_is_one_cell():
    pole = np.array([[89.9, longitude] for longitude in range(-180, 180, 30)], float)
    labels, centroids = geo_cells(np.concatenate([pole, town(70, 20, 5)]))
    assert labels.tolist() == [0] * 12 + [1] * 5
    assert centroids[0, 0] == pytest.approx(90)


def test_cells_are_cut_until_none_reaches_too_far():
    rng = np.random.default_rng(3)
    points = np.stack([rng.uniform(40, 41, 3000), rng.uniform(10, 11, 3000)], 1)
    labels, centroids = geo_cells(points, max_cells=1000, min_radius_m=10_000)
    assert reach_m(points, labels, centroids).max() <= 10_000
    assert len(centroids) < 300
    assert geo_cells(points, max_cells=1000, min_radius_m=200_000)[1].shape == (1, 2)


def test_the_limit_goes_to_the_cells_that_reach_farthest():
    points = np.concatenate([town(0, 0, 50, 1, spread=0.3), town(0, 40, 50, 2, spread=6)])
    labels, centroids = geo_cells(points, max_cells=6)
    assert len(centroids) == 6
    assert len(set(labels[:50])) == 1


@pytest.mark.parametrize("min_points", [1, 3, 10])
def test_no_cut_leaves_a_cell_too_small(min_points):
    points = np.concatenate([town(50, 10, 40, spread=2), [[-30.0, 150.0]]])
    labels, centroids = geo_cells(points, max_cells=50, min_points=min_points)
    assert np.bincount(labels).min() >= min_points
    assert (len(centroids) == 1) == (min_points > 1)  # the stray is farthest, and cannot be cut off


@pytest.mark.parametrize("max_cells", [0, 1])
def test_one_cell_is_the_least(max_cells):
    labels, centroids = geo_cells(town(50, 10, 20, spread=5), max_cells=max_cells)
    assert labels.tolist() == [0] * 20
    assert centroids.shape == (1, 2)


@pytest.mark.parametrize("n", [1, 2, 50])
def test_points_at_one_place_are_one_cell(n):
    labels, centroids = geo_cells(np.tile([12.5, -170.0], (n, 1)))
    assert labels.tolist() == [0] * n
    np.testing.assert_allclose(centroids, [[12.5, -170.0]])


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 60))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_points_are_partitioned_the_same_way_again(seed, max_cells, n):
    rng = np.random.default_rng(seed)
    points = np.stack([rng.uniform(-60, 80, n), rng.uniform(-180, 180, n)], 1)
    labels, centroids = geo_cells(points, max_cells)
    again, same = geo_cells(points, max_cells)
    assert np.array_equal(labels, again)
    assert np.array_equal(centroids, same)
    assert sorted(set(labels.tolist())) == list(range(len(centroids)))
    assert len(centroids) <= max_cells
    assert (np.diff(centroids[:, 0]) <= 0).all()
    if len(centroids) > 1:
        assert np.bincount(labels).min() >= 3


def test_the_order_of_the_points_does_not_matter():
    points = np.concatenate([town(48, 11, 20, spread=1), town(55, 13, 20, 1, spread=1)])
    order = np.random.default_rng(0).permutation(40)
    labels, centroids = geo_cells(points, 6)
    shuffled, same = geo_cells(points[order], 6)
    assert np.array_equal(shuffled, labels[order])
    np.testing.assert_allclose(same, centroids, atol=1e-9)


@pytest.mark.parametrize("points", [np.empty((0, 2)), np.zeros(4), np.zeros((3, 3)), [[1.0, np.nan]]])
def test_other_shapes_and_unknown_places_are_refused(points):
    with pytest.raises(ValueError, match=r"points must have shape \(n, 2\)"):
        geo_cells(points)
