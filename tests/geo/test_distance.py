"""Distances against hand-computed arcs and a float64 form on vectors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import haversine_distances

from geohf.geo import EARTH_RADIUS_M, distance_matrix_m, great_circle_m

R = EARTH_RADIUS_M
latitudes = st.floats(-90, 90, allow_nan=False)
longitudes = st.floats(-180, 180, allow_nan=False)
points = st.tuples(latitudes, longitudes)


def vincenty(a, b):
    """Vincenty's form on a sphere in Python floats: well conditioned everywhere, written out independently."""
    p, q = math.radians(a[0]), math.radians(b[0])
    # The difference in degrees is exact for near longitudes; math.remainder wraps it without rounding.
    turn = math.radians(math.remainder(a[1] - b[1], 360.0))
    y = math.hypot(
        math.cos(q) * math.sin(turn),
        # cos p sin q - sin p cos q cos turn, without the cancellation: sin(q-p) + sin p cos q (1 - cos turn)
        math.sin(math.radians(b[0] - a[0])) + math.sin(p) * math.cos(q) * 2 * math.sin(turn / 2) ** 2,
    )
    x = math.sin(p) * math.sin(q) + math.cos(p) * math.cos(q) * math.cos(turn)
    return R * math.atan2(y, x)


def pairs_at_all_scales(count=4000, seed=0):
    """Pairs from 1 m to the antipode, everywhere, also next to poles, antipodes and the antimeridian."""
    rng = np.random.default_rng(seed)
    a = np.stack([np.degrees(np.arcsin(rng.uniform(-1, 1, count))), rng.uniform(-180, 180, count)], 1)
    a[: count // 8, 0] = np.sign(rng.normal(size=count // 8)) * (90 - 10.0 ** rng.uniform(-5, 0, count // 8))
    a[count // 8 : count // 4, 1] = 180 - 10.0 ** rng.uniform(-5, 0, count // 4 - count // 8)
    angle = np.radians(10.0 ** rng.uniform(-5, math.log10(180), count))
    bearing = rng.uniform(0, 2 * np.pi, count)
    start = a.copy()
    start[count // 2 :: 3] = np.stack([-a[count // 2 :: 3, 0], a[count // 2 :: 3, 1] + 180], 1)
    lat = np.radians(start[:, 0])
    end = np.arcsin(
        np.clip(np.sin(lat) * np.cos(angle) + np.cos(lat) * np.sin(angle) * np.cos(bearing), -1, 1)
    )
    turn = np.arctan2(
        np.sin(bearing) * np.sin(angle) * np.cos(lat), np.cos(angle) - np.sin(lat) * np.sin(end)
    )
    b = np.stack([np.degrees(end), (start[:, 1] + np.degrees(turn) + 180) % 360 - 180], 1)
    return a, b


@pytest.mark.parametrize(
    ("a", "b", "arc_degrees"),
    [
        ((0, 0), (0, 1), 1),  # along the equator
        ((0, 0), (1, 0), 1),  # along a meridian
        ((0, 179.5), (0, -179.5), 1),  # across the antimeridian
        ((0, 0), (0, 359), 1),  # another turn
        ((89.5, 0), (89.5, 180), 1),  # over the pole
        ((90, 0), (-90, 77), 180),  # pole to pole
        ((0, 0), (0, 180), 180),  # antipodes
        ((30, 40), (-30, -140), 180),
        ((60, 0), (60, 180), 60),
        ((0, 0), (45, 90), 90),
        ((90, 13), (90, -100), 0),  # one pole, two longitudes
    ],
)
def test_known_arcs(a, b, arc_degrees):
    expected = R * math.radians(arc_degrees)
    assert great_circle_m(a, b) == pytest.approx(expected, abs=1e-7)
    assert distance_matrix_m([a], [b])[0, 0] == pytest.approx(expected, abs=1e-7)
    assert great_circle_m(torch.tensor(a).double(), torch.tensor(b).double()).item() == pytest.approx(
        expected, abs=1e-7
    )


def test_another_radius():
    assert great_circle_m([0, 0], [0, 90], radius_m=6371000.0) == pytest.approx(
        6371000.0 * math.pi / 2, rel=1e-15
    )
    assert distance_matrix_m([[0, 0]], [[0, 90]], radius_m=2.0)[0, 0] == pytest.approx(math.pi, rel=1e-15)


def test_float64_everywhere():
    a, b = pairs_at_all_scales()
    expected = np.array([vincenty(p, q) for p, q in zip(a.tolist(), b.tolist(), strict=True)])
    assert np.abs(great_circle_m(a, b) - expected).max() < 1e-8
    matrix = distance_matrix_m(a[:300], b[:300])
    assert np.abs(np.diag(matrix) - expected[:300]).max() < 1e-8
    tensors = distance_matrix_m(torch.from_numpy(a[:300]), torch.from_numpy(b[:300]))
    assert np.abs(tensors.numpy() - matrix).max() < 1e-8


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_float32_within_three_meters(kind):
    a, b = (side.astype(np.float32) for side in pairs_at_all_scales(seed=1))
    # The reference starts from the same rounded degrees, so that only the arithmetic is judged.
    expected = np.array([vincenty(p, q) for p, q in zip(a.tolist(), b.tolist(), strict=True)])
    assert expected.min() < 5
    assert expected.max() > R * math.pi - 5
    if kind == "torch":
        found = great_circle_m(torch.from_numpy(a), torch.from_numpy(b))
        assert found.dtype == torch.float32
        found = found.numpy()
    else:
        found = great_circle_m(a, b)
        assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 3.0
    # Where the usual form fails on the same numbers, so that the bound means something.
    p, q = np.radians(a), np.radians(b)
    h = np.sin((p - q)[:, 0] / 2) ** 2 + np.cos(p[:, 0]) * np.cos(q[:, 0]) * np.sin((p - q)[:, 1] / 2) ** 2
    usual = np.float32(2 * R) * np.arcsin(np.sqrt(np.minimum(h, np.float32(1))))
    assert np.abs(usual - expected).max() > 1000.0


def test_float32_within_three_meters_for_a_million_pairs():
    rng = np.random.default_rng(4)
    lat, lon = np.degrees(np.arcsin(rng.uniform(-1, 1, (2, 1000)))), rng.uniform(-180, 180, (2, 1000))
    a, b = torch.from_numpy(np.stack([lat, lon], -1)).float()
    expected = distance_matrix_m(a.double(), b.double())
    assert (great_circle_m(a[:, None], b) - expected).abs().max() < 3.0


def test_float32_matrix_within_a_meter():
    a, b = (side[:500].astype(np.float32) for side in pairs_at_all_scales(seed=2))
    expected = distance_matrix_m(a.astype(np.float64), b.astype(np.float64))
    for found in (
        distance_matrix_m(a, b),
        distance_matrix_m(torch.from_numpy(a), torch.from_numpy(b)).numpy(),
    ):
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() <= 1.0  # half a float32 step at 20,000 km


def test_agrees_with_scikit_learn_away_from_the_antipode():
    a, b = (side[::8] for side in pairs_at_all_scales(seed=3))
    expected = haversine_distances(np.radians(a), np.radians(b)) * R
    found = distance_matrix_m(a, b)
    ordinary = found < 0.9 * math.pi * R
    assert np.abs(found - expected)[ordinary].max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((10.0, 20.0), (10.0, 20.0)),
        ((90.0, 0.0), (90.0, 50.0)),
        ((0.0, 180.0), (0.0, -180.0)),
        ((0.0, 0.0), (0.0, 180.0)),
        ((35.0, 10.0), (-35.0, -170.0)),
        ((90.0, 0.0), (-90.0, 0.0)),
        ((10.0, 20.0), (10.0, 20.00001)),
        ((1e-30, 0.0), (0.0, 1e-30)),
    ],
)
def test_gradients_are_finite(a, b, dtype):
    a = torch.tensor(a, dtype=dtype, requires_grad=True)
    b = torch.tensor(b, dtype=dtype, requires_grad=True)
    distance = great_circle_m(a, b)
    gradients = torch.autograd.grad(distance, (a, b), create_graph=True)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    total = sum(gradient.sum() for gradient in gradients)
    if total.requires_grad:
        for second in torch.autograd.grad(total, (a, b), allow_unused=True):
            assert second is None or not torch.isnan(second).any()


def test_gradient_is_zero_at_distance_zero_and_at_the_antipode():
    a = torch.tensor([[10.0, 20.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[10.0, 20.0], [0.0, 180.0]], dtype=torch.float64)
    great_circle_m(a, b)[0].backward()
    assert a.grad.abs().max() == 0
    a.grad = None
    # The slope of the antipode is 0 through sqrt(g) = 0; what is left of sqrt(h) is rounding of cos(90°).
    great_circle_m(a, b)[1].backward()
    assert a.grad.abs().max() < 1e-8


def test_gradient_is_meters_per_degree():
    a = torch.tensor([0.0, 0.0], dtype=torch.float64, requires_grad=True)
    great_circle_m(a, torch.tensor([3.0, 0.0], dtype=torch.float64)).backward()
    assert a.grad[0].item() == pytest.approx(-R * math.pi / 180, rel=1e-12)
    assert a.grad[1].item() == pytest.approx(0, abs=1e-6)


def test_gradcheck_of_both():
    a = torch.tensor([[10.0, 20.0], [50.0, 179.0]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[11.0, 22.0], [-30.0, -170.0], [80.0, 4.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, y: great_circle_m(x[:, None], y[None]) / R, (a, b))
    assert torch.autograd.gradcheck(lambda x, y: distance_matrix_m(x, y) / R, (a, b))


def test_dtypes_and_shapes():
    assert great_circle_m([0, 0], [0, 1]).dtype == np.float64
    assert great_circle_m(np.zeros((3, 1, 2), np.int32), np.zeros((4, 2))).shape == (3, 4)
    assert great_circle_m(np.zeros((0, 2)), np.zeros(2)).shape == (0,)
    assert (
        great_circle_m(torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.int64)).dtype
        == torch.float64
    )
    assert great_circle_m(torch.zeros(2).half(), torch.ones(2).half()).dtype == torch.float32
    assert distance_matrix_m(np.zeros((0, 2)), np.zeros((5, 2))).shape == (0, 5)
    assert distance_matrix_m(np.zeros((5, 2)), np.zeros((0, 2))).shape == (5, 0)
    assert distance_matrix_m(torch.zeros(0, 2), torch.zeros(5, 2)).shape == (0, 5)


def test_chunks_do_not_show():
    rng = np.random.default_rng(0)
    a, b = (
        rng.uniform(-80, 80, (700, 2)),
        rng.uniform(-80, 80, (333, 2)),
    )  # several chunks, the last one short
    assert np.array_equal(distance_matrix_m(a, b)[650:], distance_matrix_m(a[650:], b))
    tensors = distance_matrix_m(torch.from_numpy(a), torch.from_numpy(b))
    assert torch.allclose(
        tensors, great_circle_m(torch.from_numpy(a)[:, None], torch.from_numpy(b)), atol=1e-7
    )


def test_nan_stays_nan():
    assert math.isnan(great_circle_m([math.nan, 0.0], [1.0, 2.0]))
    assert torch.isnan(great_circle_m(torch.tensor([0.0, math.nan]), torch.tensor([1.0, 2.0])))
    assert np.isnan(distance_matrix_m([[math.nan, 0.0]], [[1.0, 2.0]])).all()


def test_errors_are_clear():
    with pytest.raises(TypeError, match="cannot be mixed"):
        great_circle_m(np.zeros(2), torch.zeros(2))
    with pytest.raises(TypeError, match="cannot be mixed"):
        distance_matrix_m(torch.zeros(1, 2), [[0, 0]])
    with pytest.raises(ValueError, match=r"a must have shape \(\.\.\., 2\).*got \(3,\)"):
        great_circle_m(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(4, 2\) do not broadcast"):
        great_circle_m(torch.zeros(3, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"b must have shape \(n, 2\)"):
        distance_matrix_m(np.zeros((2, 2)), np.zeros(2))


@settings(max_examples=150, deadline=None)
@given(points, points, points)
def test_a_metric(a, b, c):
    ab, bc, ac = great_circle_m(a, b), great_circle_m(b, c), great_circle_m(a, c)
    assert ab == great_circle_m(b, a)
    assert 0 <= ab <= math.pi * R + 1e-8
    assert ac <= ab + bc + 1e-7
    assert great_circle_m(a, a) == 0
    assert ab == pytest.approx(vincenty(a, b), abs=1e-8)


@settings(max_examples=150, deadline=None)
@given(points, points, st.floats(-360, 360), st.integers(-2, 2))
def test_turning_the_globe_changes_nothing(a, b, turn, rounds):
    expected = great_circle_m(a, b)
    turned = great_circle_m((a[0], a[1] + turn), (b[0], b[1] + turn + 360 * rounds))
    assert turned == pytest.approx(expected, abs=1e-5)  # the sums of degrees round
    mirrored = great_circle_m((-a[0], -a[1]), (-b[0], -b[1]))
    assert mirrored == pytest.approx(expected, abs=1e-8)
    assert distance_matrix_m([a], [b])[0, 0] == pytest.approx(expected, abs=1e-8)
