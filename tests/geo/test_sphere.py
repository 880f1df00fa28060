"""Unit vectors, spherical means and class centroids."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geohf.errors import DataError
from geohf.geo import (
    class_centroids,
    great_circle_m,
    points_from_vectors,
    spherical_mean,
    unit_vectors,
)


def test_unit_vectors_by_hand():
    half = math.sqrt(0.5)
    expected = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [half, 0, -half], [0, -half, half]]
    found = unit_vectors([[0, 0], [0, 90], [90, 33], [-45, 0], [45, 270]])
    assert np.allclose(found, expected, atol=1e-15)
    assert np.array_equal(unit_vectors([[12.0, 180.0]]), unit_vectors([[12.0, -180.0]]))


@settings(max_examples=150, deadline=None)
@given(st.floats(-89.999, 89.999), st.floats(-180, 179.99999999))
def test_round_trip(lat, lon):
    back = points_from_vectors(3.5 * unit_vectors([lat, lon]))
    assert great_circle_m(back, [lat, lon]) < 1e-8
    assert -180 <= back[1] < 180


def test_points_from_vectors_on_the_axis():
    assert points_from_vectors([0.0, 0.0, -2.0]).tolist() == [-90.0, 0.0]
    vectors = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], requires_grad=True)
    points_from_vectors(vectors).sum().backward()
    assert torch.isfinite(vectors.grad).all()
    with pytest.raises(ValueError, match=r"\(\.\.\., 3\)"):
        points_from_vectors([0.0, 1.0])


@pytest.mark.parametrize(
    ("points", "weights", "expected"),
    [
        ([[0, 170], [0, -170]], None, [0, -180]),  # not longitude 0
        ([[80, 0], [80, 180]], None, [90, 0]),  # over the pole, not 80
        ([[0, 0], [0, 90]], None, [0, 45]),
        ([[0, 0], [0, 90]], [1, 0], [0, 0]),
        ([[0, 0], [0, 90]], [math.sqrt(3), 1], [0, 30]),  # tan 30° = 1 / sqrt 3
        ([[-90, 10], [0, 20]], None, [-45, 20]),
    ],
)
def test_means_by_hand(points, weights, expected):
    assert great_circle_m(spherical_mean(points, weights), expected) < 1e-7
    tensor = spherical_mean(
        torch.tensor(points, dtype=torch.float64),
        None if weights is None else torch.tensor(weights, dtype=torch.float64),
    )
    assert great_circle_m(tensor.numpy(), expected) < 1e-7


def test_close_points_keep_millimeters():
    rng = np.random.default_rng(0)
    offset = rng.normal(0, 1e-5, (1000, 2))  # about a meter
    points = np.array([36.35, 127.38]) + offset
    expected = points.mean(0)  # flat at this size
    assert great_circle_m(spherical_mean(points), expected) < 1e-5


def test_float32_is_summed_in_double():
    points = torch.tensor([[36.35, 127.38]]).repeat(5000, 1)
    mean = spherical_mean(points)
    assert mean.dtype == torch.float32
    assert torch.equal(mean, points[0])
    assert spherical_mean(points.numpy()).dtype == np.float32


def test_batches_broadcast():
    rng = np.random.default_rng(1)
    centroids, weights = rng.uniform(-60, 60, (7, 2)), rng.random((5, 7))
    expected = np.stack([spherical_mean(centroids, row) for row in weights])
    assert np.allclose(spherical_mean(centroids, weights), expected, atol=1e-12)
    many = np.broadcast_to(centroids, (5, 7, 2))
    assert np.allclose(spherical_mean(many, weights), expected, atol=1e-12)
    assert spherical_mean(many).shape == (5, 2)
    tensor = spherical_mean(torch.from_numpy(centroids), torch.from_numpy(weights))
    assert np.allclose(tensor.numpy(), expected, atol=1e-12)


def test_mean_has_a_gradient():
    points = torch.tensor(
        [[10.0, 20.0], [30.0, -40.0], [89.0, 179.0]], dtype=torch.float64, requires_grad=True
    )
    weights = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(spherical_mean, (points, weights))


def test_mean_turns_with_the_globe():
    rng = np.random.default_rng(2)
    points = np.stack([rng.uniform(20, 60, 30), rng.uniform(-20, 40, 30)], 1)
    mean = spherical_mean(points)
    for turn in (90, 179, -150):
        turned = spherical_mean(points + np.array([0, turn]))
        assert great_circle_m(turned, mean + np.array([0, turn])) < 1e-7


@pytest.mark.parametrize(
    ("points", "weights", "message"),
    [
        ([[10, 20], [-10, -160]], None, "cancel out"),
        ([[90, 0], [-90, 0]], None, "cancel out"),
        (np.zeros((0, 2)), None, "n > 0"),
        ([1.0, 2.0], None, "n > 0"),
        ([[1, 2, 3]], None, "shape"),
        ([[1, 2], [3, 4]], [0, 0], "all zero"),
        ([[1, 2], [3, 4]], [2, -1], "not negative"),
        ([[1, 2], [3, 4]], [1, math.nan], "finite"),
        ([[1, 2], [3, 4]], [1, 2, 3], r"weights must have shape \(\.\.\., 2\)"),
    ],
)
def test_mean_errors(points, weights, message):
    with pytest.raises(ValueError, match=message):
        spherical_mean(points, weights)
    with pytest.raises(ValueError, match=message):
        spherical_mean(
            torch.as_tensor(np.asarray(points)), None if weights is None else torch.tensor(weights)
        )


def test_mean_of_mixed_kinds():
    with pytest.raises(TypeError, match="mixed"):
        spherical_mean(torch.zeros(3, 2), [1.0, 1.0, 1.0])


def test_class_centroids_equal_a_mean_a_class():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 9, 4000)
    points = np.stack([rng.normal(labels * 8 - 30, 2), (rng.normal(labels * 40, 3) + 180) % 360 - 180], 1)
    found = class_centroids(points, labels, 9)
    expected = np.stack([spherical_mean(points[labels == label]) for label in range(9)])
    assert great_circle_m(found, expected).max() < 1e-7
    tensors = class_centroids(torch.from_numpy(points), torch.from_numpy(labels), 9)
    assert np.array_equal(tensors, found)


def test_class_centroid_errors_name_the_classes():
    points = [[0, 0], [0, 180], [5, 5]]
    with pytest.raises(DataError, match="class 1, 3 without points"):
        class_centroids(points, [0, 0, 2], 4)
    with pytest.raises(DataError, match="class 0 whose points cancel out"):
        class_centroids(points, [0, 0, 1], 2)
    with pytest.raises(DataError, match=r"outside 0\.\.1 in row 2"):
        class_centroids(points, [0, 1, 2], 2)
    with pytest.raises(DataError, match="not finite in row 1"):
        class_centroids([[0, 0], [math.nan, 1]], [0, 1], 2)
    with pytest.raises(ValueError, match="integers"):
        class_centroids(points, [0.0, 1.0, 1.0], 2)
    with pytest.raises(ValueError, match="one a point"):
        class_centroids(points, [0, 1], 2)
