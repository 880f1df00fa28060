"""Soft targets against numbers from the formulas."""

import math

import numpy as np
import pytest
import torch

from geohf.geo import EARTH_RADIUS_M, cell_soft_targets, distance_matrix_m, point_soft_targets
from geohf.geo.soft_targets import CentroidRuns

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
    with pytest.raises(ValueError, match="temperature_km must be finite and above zero"):
        cell_soft_targets([[0, 0]], temperature_km=0)
    with pytest.raises(ValueError, match="tau_km must be finite and above zero"):
        point_soft_targets([[0, 0]], [[0, 0]], tau_km=-1)
    with pytest.raises(ValueError, match="empty"):
        point_soft_targets([[0, 0]], np.zeros((0, 2)))
    with pytest.raises(ValueError, match=r"shape \(n, 2\)"):
        point_soft_targets([0, 0], [[0, 0]])


@pytest.mark.parametrize("order", ["of a grid", "shuffled"])
@pytest.mark.parametrize("scale_km", [20.0, 400.0, 30000.0])
def test_arranged_centroids_give_the_same_targets(order, scale_km):
    centroids = np.array([[lat, lon] for lat in range(-84, 85, 12) for lon in range(-180, 180, 23)], float)
    centroids = centroids[:-3]  # no multiple of a run
    if order == "shuffled":
        centroids = np.random.default_rng(0).permutation(centroids)
    points = torch.tensor([[-84.3, 179.9], [0.0, 0.0], [90.0, 12.0], [31.0, -170.2]], dtype=torch.float64)
    labels = torch.tensor([0, 7, len(centroids) - 1])
    runs = CentroidRuns(centroids)
    for sparse, dense in (
        (cell_soft_targets(runs, scale_km, labels), cell_soft_targets(centroids, scale_km)[labels]),
        (point_soft_targets(points, runs, scale_km), point_soft_targets(points, centroids, scale_km)),
        (
            point_soft_targets(points, runs, scale_km, normalize=True),
            point_soft_targets(points, centroids, scale_km, normalize=True),
        ),
    ):
        torch.testing.assert_close(sparse.to_dense(), dense, atol=1e-6, rtol=1e-4)
        rows, cells = sparse.indices()  # ascending, as said of a coalesced tensor
        assert (torch.diff(rows * len(centroids) + cells) > 0).all()


def test_arranged_centroids_know_no_cell_near_a_place_that_is_not_known():
    runs = CentroidRuns([[0, 0], [0, 1], [50, 6]])
    targets = point_soft_targets(torch.tensor([[math.nan, 0.0], [0.0, 0.4]], dtype=torch.float64), runs)
    assert targets.indices()[0].unique().tolist() == [1]
    with pytest.raises(ValueError, match="empty"):
        CentroidRuns(np.zeros((0, 2)))
