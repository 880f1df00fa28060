import numpy as np
import pytest
import torch
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

from geohf.errors import DataError
from geohf.geo.scalers import SCALERS, CoordinateScaler, fit_scaler

THEIRS = {"robust": RobustScaler(), "standard": StandardScaler(), "minmax": MinMaxScaler((-1, 1))}


def points(frame, n, seed=0):
    rng = np.random.default_rng(seed)
    if frame == "wgs84":
        return rng.normal([36.37, 127.36], [0.01, 0.02], (n, 2))
    return rng.normal([221_400.0, 186_300.0], [300.0, 40.0], (n, 2))


@pytest.mark.parametrize("kind", SCALERS)
@pytest.mark.parametrize("frame", ["wgs84", "planar"])
@pytest.mark.parametrize("n", [1, 2, 3, 50, 1001])
def test_scalers_are_those_of_scikit_learn(kind, frame, n):
    train, new = points(frame, n), points(frame, 20, seed=1)
    ours, theirs = fit_scaler(train, kind, frame), THEIRS[kind].fit(train)
    for some in (train, new):
        np.testing.assert_allclose(ours.transform(some), theirs.transform(some), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(ours.inverse_transform(ours.transform(some)), some, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", SCALERS)
@pytest.mark.parametrize("value", [0.0, 36.123456789])
def test_a_constant_column_is_moved_and_not_stretched(kind, value):
    train = np.stack([np.full(50, value), np.linspace(127, 128, 50)], 1)
    ours = fit_scaler(train, kind)
    np.testing.assert_allclose(ours.transform(train), THEIRS[kind].fit_transform(train), atol=1e-9)
    np.testing.assert_allclose(ours.inverse_transform(ours.transform(train)), train, atol=1e-12)


def test_hand_numbers():
    train = [[1000.0, 10.0], [1001.0, 20.0], [1002.0, 30.0], [1003.0, 40.0], [1100.0, 50.0]]
    scaler = fit_scaler(train, "robust", "planar")
    assert scaler.center.tolist() == [1002.0, 30.0]
    assert scaler.scale.tolist() == [2.0, 20.0]
    assert scaler.transform([[1006.0, 10.0]]).tolist() == [[2.0, -1.0]]


@pytest.mark.parametrize("kind", SCALERS)
def test_a_region_may_lie_across_the_antimeridian(kind):
    plain = np.stack([np.linspace(-17, -16, 41), np.linspace(10, 12, 41)], 1)
    turned = plain + np.array([0.0, 169.0])  # 179 to 181 degrees
    turned[turned[:, 1] >= 180, 1] -= 360
    ours = fit_scaler(turned, kind)
    np.testing.assert_allclose(ours.transform(turned), fit_scaler(plain, kind).transform(plain), atol=1e-9)
    np.testing.assert_allclose(ours.inverse_transform(ours.transform(turned)), turned, atol=1e-9)


def test_what_comes_back_are_degrees():
    scaler = CoordinateScaler(np.array([80.0, 170.0]), np.array([10.0, 10.0]))
    assert scaler.inverse_transform([[5.0, 2.0]]).tolist() == [[90.0, -170.0]]


def test_torch_gives_what_numpy_gives_with_a_gradient():
    scaler = fit_scaler(points("wgs84", 30))
    some = points("wgs84", 7, seed=2)
    tensor = torch.tensor(some, requires_grad=True)
    scaled = scaler.transform(tensor)
    np.testing.assert_allclose(scaled.detach(), scaler.transform(some), rtol=0, atol=1e-12)
    scaled.sum().backward()
    np.testing.assert_allclose(tensor.grad, np.broadcast_to(1 / scaler.scale, (7, 2)))
    assert scaler.inverse_transform(torch.zeros(3, 2)).dtype == torch.float64


def test_several_scalers_are_one_by_rows():
    several = [fit_scaler(points("planar", 30, seed), frame="planar") for seed in range(3)]
    stack = CoordinateScaler.stack(several)
    some = points("planar", 3, seed=9)
    together = stack.transform(some)
    for i, scaler in enumerate(several):
        assert together[i].tolist() == scaler.transform(some[i]).tolist()
        assert stack[i].transform(some).tolist() == scaler.transform(some).tolist()


def test_a_config_keeps_every_digit():
    scaler = fit_scaler(points("wgs84", 31), "standard")
    again = CoordinateScaler.from_dict(scaler.to_dict(), "wgs84")
    assert again.center.tolist() == scaler.center.tolist()
    assert again.scale.tolist() == scaler.scale.tolist()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"center": [0, 0]}, "'center' and 'scale'"),
        ({"center": [0, 0], "scale": [1, 0]}, "above zero"),
        ({"center": [0, float("nan")], "scale": [1, 1]}, "finite"),
        ({"center": [0, 0, 0], "scale": [1, 1, 1]}, "shape"),
    ],
)
def test_damaged_numbers_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        CoordinateScaler.from_dict(numbers, "wgs84")


@pytest.mark.parametrize(
    ("some", "kind", "frame", "message"),
    [
        (np.empty((0, 2)), "robust", "wgs84", "at least one point"),
        ([[36.0, float("nan")]], "robust", "wgs84", "finite"),
        ([[36.0, 127.0]], "quantile", "wgs84", "scaler must be one of robust, standard, minmax"),
        ([[36.0, 127.0]], "robust", "utm", "frame must be one of wgs84, planar"),
        ([[0.0, 0.0], [0.0, 180.0]], "robust", "wgs84", "cancel out"),
    ],
)
def test_what_cannot_be_fitted_is_refused(some, kind, frame, message):
    with pytest.raises(DataError, match=message):
        fit_scaler(some, kind, frame)
