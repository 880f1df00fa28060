"""Soft targets against numbers from the formulas."""

import math

import numpy as np
import pytest
import torch

from geohf.geo import EARTH_RADIUS_M, cell_soft_targets, distance_matrix_m, point_soft_targets

DEGREE_KM = EARTH_RADIUS_M / 1000 * math.pi / 180


def test_cell_targets_by_hand():
    # On the equator at 0, 1 and 3 degrees, with one degree as the temperature: weights e^-|difference|.
    targets = cell_soft_targets([[0, 0], [0, 1], [0, 3]], temperature_km=DEGREE_KM)
    weights = np.exp(-np.abs(np.subtract.outer([0, 1, 3], [0, 1, 3])))
    assert targets.dtype == torch.float32
    assert np.allclose(targets.numpy(), weights / weights.sum(1, keepdims=True), atol=1e-7)


def test_cell_rows_sum_to_one_and_peak_on_the_diagonal():
    rng = np.random.default_rng(0)
    targets = cell_soft_targets(np.stack([rng.uniform(-80, 80, 200), rng.uniform(-180, 180, 200)], 1))
    assert torch.allclose(targets.sum(1), torch.ones(200), atol=1e-6)
    assert torch.equal(targets.argmax(1), torch.arange(200))


def test_point_targets_start_from_the_true_point():
    centroids = np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    # From 0.4°: distances 0.4, 0.6 and 2.6 degrees, so excesses of 0, 0.2 and 2.2.
    targets = point_soft_targets([[0.0, 0.4]], centroids, tau_km=DEGREE_KM)
    expected = np.exp([0, -0.2, -2.2])
    assert np.allclose(targets.numpy()[0], expected, atol=1e-6)
    normal = point_soft_targets([[0.0, 0.4]], centroids, tau_km=DEGREE_KM, normalize=True)
    assert np.allclose(normal.numpy()[0], expected / expected.sum(), atol=1e-6)
    # The center of the true cell would give another answer.
    assert abs(targets[0, 1] - math.exp(-1)) > 0.4


def test_point_targets_for_a_batch_of_tensors():
    rng = np.random.default_rng(1)
    points, centroids = rng.uniform(-60, 60, (40, 2)), rng.uniform(-60, 60, (30, 2))
    targets = point_soft_targets(torch.from_numpy(points), torch.from_numpy(centroids))
    kilometers = distance_matrix_m(points, centroids) / 1000
    expected = np.exp(-(kilometers - kilometers.min(1, keepdims=True)) / 75.0)
    assert targets.shape == (40, 30)
    assert targets.dtype == torch.float32
    assert np.allclose(targets.numpy(), expected, atol=1e-6)
    assert torch.equal(targets.amax(1), torch.ones(40))


def test_far_cells_underflow_to_zero_and_never_to_nan():
    targets = point_soft_targets([[0, 0]], [[0, 179], [0, 0.5]], tau_km=0.001, normalize=True)
    assert targets.tolist() == [[0.0, 1.0]]


def test_lists_keep_double_precision():
    # 2 cm apart: read as float32 the two centroids would be one point.
    targets = point_soft_targets([[36.3500002, 127.0]], [[36.35, 127.0], [36.3500002, 127.0]], tau_km=1e-5)
    assert targets[0, 1] == 1
    assert targets[0, 0] < 0.2


def test_errors():
    with pytest.raises(ValueError, match="temperature_km must be above zero"):
        cell_soft_targets([[0, 0]], temperature_km=0)
    with pytest.raises(ValueError, match="tau_km must be above zero"):
        point_soft_targets([[0, 0]], [[0, 0]], tau_km=-1)
    with pytest.raises(ValueError, match="empty"):
        point_soft_targets([[0, 0]], np.zeros((0, 2)))
    with pytest.raises(ValueError, match=r"shape \(n, 2\)"):
        point_soft_targets([0, 0], [[0, 0]])
