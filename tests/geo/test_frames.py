"""Coordinate frames: what is refused, how rows are named, and what is never guessed."""

import math

import numpy as np
import pytest
import torch

from geohf.errors import DataError
from geohf.geo import bad_points, check_points, frame_distance, frame_mean, great_circle_m

DAEJEON = np.array([36.35, 127.38]) + np.linspace(0, 0.1, 20)[:, None]  # a table of 20 rows


def with_row(row, position=7):
    table = DAEJEON.copy()
    table[position] = row
    return table


def test_good_points_come_back_wrapped_in_float64():
    found = check_points([[36, 180.0], [-90, 359.5], [90, -180]])
    assert found.dtype == np.float64
    assert found.tolist() == [[36, -180], [-90, -0.5], [90, -180]]
    almost = np.nextafter(180.0, 0.0)
    assert check_points([[0, almost]]).tolist() == [[0, almost]]
    planar = np.array([[191034.2, 240023.9], [-3.0, 7.0]])
    assert np.array_equal(check_points(planar, "planar"), planar)
    assert check_points(np.zeros((0, 2))).shape == (0, 2)
    assert check_points(torch.tensor([[1.0, 2.0]])).tolist() == [[1, 2]]


def test_input_is_not_changed():
    table = np.array([[36.0, 190.0]])
    check_points(table)[0] = 0
    planar = np.array([[1000.0, 190.0]])
    check_points(planar, "planar")[0] = 0
    assert table.tolist() == [[36, 190]]
    assert planar.tolist() == [[1000, 190]]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((math.nan, 127), "latitude nan is not finite"),
        ((36, math.inf), "longitude inf is not finite"),
        ((-95, 200), r"latitude -95 is outside -90\.\.90$"),
        ((127.4, 36.3), r"latitude 127.4 is outside -90\.\.90; latitude and longitude look swapped"),
        ((36.3, -181), r"longitude -181 is outside -180\.\.360"),
        ((36.3, 360), r"longitude 360 is outside -180\.\.360"),
        ((191034.25, 36), r"\(191034.25, 36\) are no degrees; planar data need frame='planar'"),
    ],
)
def test_rows_out_of_range(row, reason):
    found = bad_points(with_row(row))
    assert [position for position, _ in found] == [7]
    with pytest.raises(DataError, match=rf"labels\.csv: 1 of 20 rows.*\n  row 107: {reason}"):
        check_points(with_row(row), rows=range(100, 120), source="labels.csv")


def test_five_rows_are_shown_and_the_others_counted():
    table = DAEJEON.copy()
    table[3:11, 0] = math.nan
    with pytest.raises(DataError) as caught:
        check_points(table, source="labels.csv")
    message = str(caught.value)
    assert message.startswith("labels.csv: 8 of 20 rows")
    assert [f"row {row}:" in message for row in (2, 3, 7, 8)] == [False, True, True, False]
    assert message.endswith("and 3 more rows")
    assert [position for position, _ in bad_points(table)] == list(range(3, 11))


def test_swapped_rows_within_range():
    # Kenya: both orders are degrees, so only the company tells them apart.
    rng = np.random.default_rng(0)
    table = np.stack([rng.uniform(-4, 4, 50), rng.uniform(34, 41, 50)], 1)
    assert bad_points(table) == []
    table[[4, 30]] = table[[4, 30]][:, ::-1]
    found = bad_points(table)
    assert [position for position, _ in found] == [4, 30]
    assert "look swapped" in found[0][1]
    with pytest.raises(DataError, match=r"row 4: .* km from the center .* look swapped"):
        check_points(table)


def test_far_rows_that_are_not_swapped_stay():
    table = np.array([[0.0, 37.0]]) + np.random.default_rng(1).normal(0, 0.1, (50, 2))
    table[3] = (48.85, 2.35)  # Paris: exchanged it lies at (2.35, 48.85), 1300 km from the others
    assert bad_points(table) == []


def test_points_all_over_the_world_are_no_strays():
    rng = np.random.default_rng(2)
    table = np.stack([rng.uniform(-80, 80, 300), rng.uniform(-180, 180, 300)], 1)
    assert bad_points(table) == []


def test_a_planar_table_declared_as_degrees():
    table = np.array([[191034.0, 240023.0], [191100.0, 240100.0], [36.0, 127.0]])
    with pytest.raises(
        DataError, match=r"t\.csv: .*look planar.*declare frame='planar'.*row 12 \(191034, 240023\)"
    ):
        check_points(table, rows=[12, 13, 14], source="t.csv")
    with pytest.raises(DataError, match="declare frame='planar'"):  # leaving rows out must not hide it
        bad_points(table)


def test_degrees_declared_as_planar():
    for table in (DAEJEON, DAEJEON[:, ::-1], DAEJEON[:1]):
        with pytest.raises(DataError, match="frame='wgs84'"):
            check_points(table, "planar")
        with pytest.raises(DataError, match="frame='wgs84'"):
            bad_points(table, "planar")
    # One row outside the range of degrees shows that the table is planar.
    assert bad_points(with_row((500.0, 20.0)), "planar") == []
    assert bad_points([[1000.0, math.nan], [2000.0, 5.0]], "planar") == [
        (0, "row 0: second coordinate nan is not finite")
    ]


def test_argument_errors():
    with pytest.raises(DataError, match="frame must be one of wgs84, planar, got 'utm'"):
        check_points(DAEJEON, "utm")
    with pytest.raises(ValueError, match=r"shape \(n, 2\)"):
        check_points([1.0, 2.0])
    with pytest.raises(ValueError, match="rows names 3 rows, points has 20"):
        check_points(DAEJEON, rows=[1, 2, 3])
    with pytest.raises(DataError, match="frame must be one of wgs84, planar"):
        frame_distance([0, 0], [1, 1], "utm")


def test_frame_distance():
    a, b = [[180000.0, 3.0], [0.0, 0.0]], [180003.0, 7.0]
    assert frame_distance(a, b, "planar").tolist() == [5.0, math.hypot(180003, 7)]
    assert frame_distance([1.0, 2.0], [3.0, 4.0]) == great_circle_m([1.0, 2.0], [3.0, 4.0])
    point = torch.tensor([3.0, 4.0], requires_grad=True)
    frame_distance(point, torch.zeros(2), "planar").backward()
    assert torch.allclose(point.grad, torch.tensor([0.6, 0.8]))
    point.grad = None
    frame_distance(point, point.detach(), "planar").backward()
    assert point.grad.tolist() == [0, 0]


def test_frame_mean():
    points = np.array([[0.0, 179.0], [0.0, -179.0]])
    assert frame_mean(points, frame="planar").tolist() == [0, 0]
    assert frame_mean(points).tolist() == pytest.approx([0, -180])
    weights = torch.tensor([[1.0, 3.0], [1.0, 0.0]])
    found = frame_mean(torch.tensor([[0.0, 0.0], [400.0, 800.0]]), weights, "planar")
    assert found.tolist() == [[300, 600], [0, 0]]
    assert found.dtype == torch.float32
    with pytest.raises(ValueError, match="all zero"):
        frame_mean(points, [0, 0], "planar")


@pytest.mark.case("files-A12")
def test_no_fix_is_no_point_but_of_a_plane():
    table = [[48.85, 2.35], [0.0, 0.0], [0.0, 6.6], [-0.0, 0.0], [0.5, 0.0]]
    assert [position for position, _ in bad_points(table)] == [1, 3]
    assert bad_points([[0.0, 0.0], [5000.0, 3000.0]], "planar") == []


@pytest.mark.case("files-C12")
def test_a_swapped_table_whose_latitudes_exceed_is_named():
    reasons = [reason for _, reason in bad_points([[127.4, 36.4], [128.0, 35.1]])]
    assert len(reasons) == 2
    assert all("latitude and longitude look swapped" in reason for reason in reasons)


def test_a_table_in_radians_is_told_of(caplog):
    degrees = np.array([[48.9, 2.4], [40.4, -3.7], [52.5, 13.4], [59.3, 18.1], [-33.9, 151.2]])
    bad_points(degrees, source="degrees.csv")
    bad_points(np.radians(degrees)[:4], source="few.csv")
    bad_points(np.radians(degrees) * 1000, "planar")
    bad_points(np.zeros((9, 2)), source="zeros.csv")  # told of as no positions
    assert not caplog.text
    bad_points(np.radians(degrees), source="radians.csv")
    assert "radians.csv: all positions lie in the sea" in caplog.text
