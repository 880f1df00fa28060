"""The losses of the street task against torch's own, and against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from geohf.geo import cell_soft_targets, point_soft_targets
from geohf.street.losses import gps_loss, soft_cross_entropy

KM_PER_DEGREE = math.pi * 6371.0088 / 180
ONE = torch.ones(2)
ALL = torch.tensor([True, True])


def random_batch(rows=9, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator) * 3
    targets = torch.rand(rows, classes, generator=generator)
    return logits.requires_grad_(), targets / targets.sum(1, keepdim=True)


# Classes


def test_soft_cross_entropy_is_torchs_with_probabilities_as_targets():
    logits, targets = random_batch()
    loss = soft_cross_entropy(logits, targets, torch.ones(9, dtype=torch.bool))
    expected = F.cross_entropy(logits, targets)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (loss, expected)))


def test_soft_cross_entropy_by_hand():
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])  # probabilities 1/4, 3/4 and 1/2, 1/2
    targets = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    rows = [0.5 * math.log(4) + 0.5 * math.log(4 / 3), math.log(2)]
    assert float(soft_cross_entropy(logits, targets, ALL)) == pytest.approx(sum(rows) / 2)
    assert float(soft_cross_entropy(logits, targets, torch.tensor([True, False]))) == pytest.approx(rows[0])
    # targets that do not sum to one, as PIGEON's, weigh their row
    assert float(soft_cross_entropy(logits, targets * 3, ALL)) == pytest.approx(3 * sum(rows) / 2)
    # the mean of rows is over what the caller says, e.g. over all processes and accumulated batches
    assert float(soft_cross_entropy(logits, targets, ALL, torch.tensor(8))) == pytest.approx(sum(rows) / 8)


def test_one_hot_targets_are_plain_cross_entropy():
    logits, _ = random_batch()
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3])
    loss = soft_cross_entropy(logits, F.one_hot(labels, 5).float(), labels >= 0)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))


def test_rows_without_a_target_change_nothing():
    logits, targets = random_batch()
    counts = torch.tensor([True, False, True, True, False, True, True, True, False])
    broken = targets.clone()
    broken[~counts] = math.nan
    loss = soft_cross_entropy(logits, broken, counts)
    gradient = torch.autograd.grad(loss, logits)[0]
    kept, kept_targets = logits.detach()[counts].requires_grad_(), targets[counts]
    expected = F.cross_entropy(kept, kept_targets)
    torch.testing.assert_close(loss, expected)
    assert (gradient[~counts] == 0).all()
    torch.testing.assert_close(gradient[counts], torch.autograd.grad(expected, kept)[0])


def test_a_batch_where_nothing_counts_costs_nothing():
    logits, targets = random_batch()
    loss = soft_cross_entropy(logits, targets * math.nan, torch.zeros(9, dtype=torch.bool))
    assert float(loss.detach()) == 0
    assert (torch.autograd.grad(loss, logits)[0] == 0).all()
    predicted = torch.zeros(3, 2, requires_grad=True)
    for kind in ("mse", "mae", "smooth_l1", "haversine"):
        loss = gps_loss(kind, predicted, torch.full((3, 2), math.nan), ONE)
        assert float(loss.detach()) == 0
        assert (torch.autograd.grad(loss, predicted)[0] == 0).all()


def test_parts_of_a_batch_add_up_to_the_whole():
    """What gradient accumulation and several processes rely on."""
    logits, targets = random_batch()
    counts = torch.tensor([True, False, True, True, False, True, True, True, True])
    whole = soft_cross_entropy(logits, targets, counts)
    items = counts.sum()
    parts = [
        soft_cross_entropy(logits[part], targets[part], counts[part], items)
        for part in (slice(0, 2), slice(2, 5), slice(5, 9))
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_half_precision_logits_are_summed_in_full():
    logits, targets = random_batch(64, 200)
    half = logits.detach().bfloat16()
    loss = soft_cross_entropy(half, targets, torch.ones(64, dtype=torch.bool))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(half.float(), targets))


def test_a_neighboring_state_costs_less_than_a_far_one():
    """With both kinds of soft targets: 1 degree off, 30 degrees off."""
    centroids = torch.tensor([[40.0, -100.0], [40.0, -99.0], [40.0, -70.0]])
    near, far = torch.tensor([[0.0, 8.0, 0.0]]), torch.tensor([[0.0, 0.0, 8.0]])
    counts = torch.tensor([True])
    for targets in (
        cell_soft_targets(centroids, 300.0)[:1],
        point_soft_targets(centroids[:1], centroids, 75.0),
    ):
        targets = targets.float()
        assert soft_cross_entropy(near, targets, counts) < soft_cross_entropy(far, targets, counts) - 1


# Points


def test_each_kind_by_hand():
    predicted = torch.tensor([[10.0, 20.0], [0.0, 0.0]])
    truth = torch.tensor([[12.0, 20.5], [0.0, 0.0]])
    expected = {
        "mse": (2.0**2 + 0.5**2) / 2,
        "mae": (2.0 + 0.5) / 2,
        "smooth_l1": ((2.0 - 0.5) + 0.5 * 0.5**2) / 2,
    }
    for kind, value in expected.items():
        assert float(gps_loss(kind, predicted, truth, ONE)) == pytest.approx(value / 2)
        assert float(gps_loss(kind, predicted, truth, ONE, items=torch.tensor(5))) == pytest.approx(value / 5)


def test_the_original_recipes_scale():
    predicted, truth = torch.tensor([[46.0, 59.0]]), torch.tensor([[0.0, 0.0]])
    assert float(gps_loss("mse", predicted, truth, torch.tensor([46.0, 59.0]))) == pytest.approx(1.0)
    assert float(gps_loss("smooth_l1", predicted, truth, torch.tensor([46.0, 59.0]))) == pytest.approx(0.5)
    both = torch.tensor([[46.0, 59.0]] * 2), torch.zeros(2, 2)
    scale = torch.tensor([[46.0, 59.0], [23.0, 59.0]])  # one a row: 1, 1 and 2, 1
    assert float(gps_loss("mae", *both, scale)) == pytest.approx((1 + 1.5) / 2)


def test_haversine_by_hand():
    predicted = torch.tensor([[0.0, 0.0], [60.0, 10.0]], dtype=torch.float64)
    truth = torch.tensor([[1.0, 0.0], [60.0, 12.0]], dtype=torch.float64)
    along = 2 * math.degrees(math.asin(0.5 * math.sin(math.radians(1))))  # two degrees on the 60th parallel
    expected = (1 + along) / 2 * KM_PER_DEGREE
    loss = gps_loss("haversine", predicted, truth, ONE)
    assert float(loss) == pytest.approx(expected / 5000, rel=1e-9)
    assert float(gps_loss("haversine", predicted, truth, ONE, scale_km=100.0)) == pytest.approx(
        expected / 100
    )


@pytest.mark.parametrize(
    ("kind", "value"), [("mse", 0.2**2 / 2), ("mae", 0.1), ("smooth_l1", 0.01), ("haversine", None)]
)
def test_across_the_antimeridian(kind, value):
    predicted = torch.tensor([[0.0, 179.9]], requires_grad=True)
    loss = gps_loss(kind, predicted, torch.tensor([[0.0, -179.9]]), ONE)
    value = 0.2 * KM_PER_DEGREE / 5000 if value is None else value
    assert float(loss.detach()) == pytest.approx(value, rel=2e-4)
    # the short way is east: a larger longitude costs less
    assert torch.autograd.grad(loss, predicted)[0][0, 1] < 0


@pytest.mark.parametrize("kind", ["mse", "mae", "smooth_l1", "haversine"])
@pytest.mark.parametrize(
    ("point", "truth"),
    [
        ([40.0, -100.0], [40.0, -100.0]),
        ([90.0, 0.0], [90.0, 50.0]),
        ([0.0, 0.0], [0.0, 180.0]),
        ([-90.0, 0.0], [90.0, 0.0]),
        ([40.0, -100.0], [40.0, -100.00001]),
    ],
    ids=["same", "pole", "antipode", "pole to pole", "a meter"],
)
def test_loss_and_gradient_stay_finite(kind, point, truth):
    predicted = torch.tensor([point], requires_grad=True)
    loss = gps_loss(kind, predicted, torch.tensor([truth]), ONE)
    gradient = torch.autograd.grad(loss, predicted)[0]
    assert loss.isfinite()
    assert gradient.isfinite().all()
    if point == truth:
        assert float(loss.detach()) == 0


@pytest.mark.parametrize("kind", ["mse", "mae", "smooth_l1", "haversine"])
def test_rows_without_a_position_change_nothing_either(kind):
    rng = np.random.default_rng(0)
    points, truth = (torch.tensor(rng.uniform(-60, 60, (6, 2)), dtype=torch.float32) for _ in range(2))
    truth[1], truth[4, 0] = math.nan, math.nan  # one without both, one without latitude
    counts = torch.tensor([True, False, True, True, False, True])
    predicted = points.clone().requires_grad_()
    loss = gps_loss(kind, predicted, truth, ONE)
    gradient = torch.autograd.grad(loss, predicted)[0]
    kept = points[counts].clone().requires_grad_()
    expected = gps_loss(kind, kept, truth[counts], ONE)
    torch.testing.assert_close(loss, expected)
    assert (gradient[~counts] == 0).all()
    torch.testing.assert_close(gradient[counts], torch.autograd.grad(expected, kept)[0])


@pytest.mark.parametrize("kind", ["mse", "mae", "smooth_l1", "haversine"])
def test_a_step_along_the_gradient_comes_nearer(kind):
    predicted = torch.tensor([[30.0, -90.0]], requires_grad=True)
    truth = torch.tensor([[35.0, -80.0]], dtype=torch.float64)
    loss = gps_loss(kind, predicted, truth, torch.tensor([46.0, 59.0]))
    gradient = torch.autograd.grad(loss, predicted)[0]
    moved = predicted.detach() - gradient / gradient.norm()
    assert gps_loss(kind, moved, truth, torch.tensor([46.0, 59.0])) < loss
    assert (gradient < 0).all()
