import numpy as np
import pytest
import torch

from geohf.geo.scalers import CoordinateScaler
from geohf.region.losses import point_loss, region_loss
from geohf.region.metrics import coverage, error_summary, evaluation_rows, squared_errors

PLANE = CoordinateScaler(
    np.array([[1000.0, 2000.0], [5000.0, 2000.0]]), np.array([[10.0, 5.0], [1.0, 2.0]]), "planar"
)


def test_squared_errors_by_hand():
    """Off by (20, -5): 2 and -1 in scaled coordinates."""
    scaled, unscaled = squared_errors(np.array([[1020.0, 1995.0]]), np.array([[1000.0, 2000.0]]), PLANE[[0]])
    assert scaled.tolist() == [(4 + 1) / 2]
    assert unscaled.tolist() == [(400 + 25) / 2]


def test_longitudes_differ_the_short_way_round():
    scaler = CoordinateScaler(np.array([[0.0, 0.0]]), np.array([[1.0, 0.5]]))
    scaled, unscaled = squared_errors(np.array([[10.0, 179.5]]), np.array([[10.0, -179.5]]), scaler)
    np.testing.assert_allclose(scaled, [(0 + 4) / 2])
    np.testing.assert_allclose(unscaled, [(0 + 1) / 2])


def test_a_table_has_a_row_a_region_and_one_for_all():
    labels, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    truth = np.array([[1000.0, 2000.0]] * 3 + [[5000.0, 2000.0]])
    own = truth + np.array([3.0, 4.0])
    moves = {"routed": [6.0, 8.0], "center": [0.0, 30.0]}
    answers = {"given": own} | {name: truth + np.array(move) for name, move in moves.items()}
    scaler = PLANE[[0, 1, 1]]
    rows = evaluation_rows(["a", "b", "never seen"], labels, truth, answers, predicted, scaler, "units")
    assert [(row["region"], row["n"]) for row in rows] == [("a", 3), ("b", 1), ("all", 4)]
    for row in rows:
        assert row["given_mean_units"] == row["given_median_units"] == row["given_p90_units"] == 5.0
        assert row["routed_mean_units"] == 10.0
        assert row["center_mean_units"] == 30.0
        assert row["mse"] == (9 + 16) / 2
    a, b, every = rows
    assert (a["router_accuracy"], b["router_accuracy"], every["router_accuracy"]) == (2 / 3, 1.0, 3 / 4)
    assert a["mse_scaled"] == pytest.approx((0.3**2 + 0.8**2) / 2)
    assert b["mse_scaled"] == pytest.approx((3**2 + 2**2) / 2)
    # weighted by photographs
    assert every["mse_scaled"] == pytest.approx((3 * a["mse_scaled"] + b["mse_scaled"]) / 4)


def test_coverage_counts_errors_on_the_rim():
    assert coverage([1.0, 2.0, 3.0, 4.0], np.array([1.0, 2.5, 0.0, 9.0])) == 0.5
    assert coverage([None, None], np.array([1.0, 2.0])) is None


def test_no_error_gives_no_number():
    assert error_summary([], "m") == {}


def test_the_mse_by_hand():
    scaled = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    truth = torch.tensor([[1000.0, 2000.0], [1020.0, 2000.0]], dtype=torch.float64)
    assert point_loss("mse", scaled, truth, PLANE[0]).item() == pytest.approx(((1 + 4) / 2 + (4 + 0) / 2) / 2)


def test_the_distance_by_hand():
    """Off by (30, 0) units, and the scaler's unit is as long as (10, 5)."""
    truth = torch.tensor([[1030.0, 2000.0]], dtype=torch.float64)
    loss = point_loss("euclidean", torch.zeros(1, 2), truth, PLANE[0])
    assert loss.item() == pytest.approx(30 / 125**0.5)


@pytest.mark.parametrize("kind", ["mse", "haversine"])
def test_rows_without_truth_have_no_gradient(kind):
    scaler = CoordinateScaler(np.array([36.0, 127.0]), np.array([0.01, 0.01]))
    scaled = torch.tensor([[0.5, 0.5], [0.5, 0.5]], requires_grad=True)
    truth = torch.tensor([[36.0, 127.0], [torch.nan, 127.0]], dtype=torch.float64)
    loss = point_loss(kind, scaled, truth, scaler)
    loss.backward()
    alone = point_loss(kind, scaled[:1].detach(), truth[:1], scaler)
    assert loss.item() == pytest.approx(alone.item())
    assert scaled.grad[0].abs().min() > 0
    assert scaled.grad[1].tolist() == [0.0, 0.0]


def test_regions_without_label_do_not_count():
    logits = torch.tensor([[2.0, 0.0], [5.0, 1.0]])
    loss = region_loss(logits, torch.tensor([0, -1]))
    assert loss.item() == pytest.approx(np.log(1 + np.exp(-2)), rel=1e-6)
    assert region_loss(logits, torch.tensor([-1, -1])).item() == 0.0
    assert region_loss(logits, torch.tensor([0, 0]), torch.tensor(4.0)).item() == pytest.approx(
        (np.log(1 + np.exp(-2)) + np.log(1 + np.exp(-4))) / 4, rel=1e-6
    )
