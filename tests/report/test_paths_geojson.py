import json
import time

import numpy as np
import pytest

from geohf.errors import DataError
from geohf.geo import great_circle_m
from geohf.report.geojson import write_geojson, write_polygons
from geohf.report.paths import (
    check_points,
    cut_at_antimeridian,
    great_circle_path,
    unwrap_path,
    view_box,
)


def test_path_lies_on_the_great_circle():
    start, end = [48.86, 2.35], [40.71, -74.01]
    path = great_circle_path(start, end)
    assert path[0].tolist() == start
    assert path[-1].tolist() == end
    # No detour: the steps add up to the distance, and each is at most two degrees of arc.
    steps = great_circle_m(path[:-1], path[1:])
    assert steps.sum() == pytest.approx(great_circle_m(start, end), abs=1e-3)
    assert steps.max() <= np.radians(2) * 6371008.8
    assert path[:, 0].max() > 50  # north of both ends, as ships and aeroplanes go


@pytest.mark.parametrize(
    ("start", "end"),
    [([10.0, 20.0], [-10.0, -160.0]), ([90.0, 0.0], [-90.0, 0.0]), ([0.0, 0.0], [0.0, 180.0])],
)
def test_path_between_antipodes_is_half_a_turn(start, end):
    path = great_circle_path(start, end)
    assert np.isfinite(path).all()
    assert great_circle_m(path[:-1], path[1:]).sum() == pytest.approx(np.pi * 6371008.8, rel=1e-9)


def test_path_of_no_length():
    assert great_circle_path([5.0, 6.0], [5.0, 6.0]).tolist() == [[5.0, 6.0]] * 2


@pytest.mark.case("files-D11")
def test_cut_at_the_latitude_where_the_great_circle_crosses():
    # By symmetry the way from (10, 170) to (10, -170) crosses at atan(tan(10) / cos(10)) = 10.1511 degrees.
    first, second = cut_at_antimeridian(great_circle_path([10.0, 170.0], [10.0, -170.0], step_deg=90))
    np.testing.assert_allclose(first, [[10, 170], [10.15108, 180]], atol=1e-4)
    np.testing.assert_allclose(second, [[10.15108, -180], [10, -170]], atol=1e-4)
    # In small steps it is the same place.
    first, second = cut_at_antimeridian(great_circle_path([10.0, 170.0], [10.0, -170.0]))
    np.testing.assert_allclose([first[-1], second[0]], [[10.15108, 180], [10.15108, -180]], atol=1e-4)
    assert (first[:, 1] > 0).all()
    assert (second[:, 1] < 0).all()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ([[0, 179], [0, 180], [0, -179]], [[[0, 179], [0, 180]], [[0, -180], [0, -179]]]),
        ([[0, -179], [0, -180], [0, 179]], [[[0, -179], [0, -180]], [[0, 180], [0, 179]]]),
        ([[0, 179], [0, -180]], [[[0, 179], [0, 180]]]),
        ([[0, 10], [0, 20]], [[[0, 10], [0, 20]]]),
        ([[0, 180], [0, -180]], [[[0, 180], [0, -180]]]),
    ],
)
def test_cut_edge_cases(path, expected):
    assert [piece.tolist() for piece in cut_at_antimeridian(np.array(path, dtype=float))] == expected


def test_unwrapped_path_does_not_jump():
    path = unwrap_path(great_circle_path([0.0, 170.0], [0.0, -170.0]))
    assert path[-1, 1] == pytest.approx(190)
    assert np.abs(np.diff(path[:, 1])).max() < 3


@pytest.mark.parametrize(
    ("points", "box"),
    [
        ([[-18, 178], [-17, -179], [np.nan, np.nan]], (178, -18, 181, -17)),
        ([[-18, -179], [-17, 178], [-10, 179]], (178, -18, 181, -10)),
        ([[30, -120], [45, -70]], (-120, 30, -70, 45)),
        ([[0, 0], [10, 90], [0, 180], [-5, -90]], (90, -5, 360, 10)),
        ([[0, lon] for lon in range(-170, 180, 10)], (-180, 0, 180, 0)),
    ],
)
def test_view_box(points, box):
    west, south, east, north = view_box(np.array(points, dtype=float))
    if box[2] - box[0] == 270:  # four equal gaps: any of them may be left out
        assert east - west == 270
    else:
        assert (west, south, east, north) == box


def test_view_box_of_one_point_is_about_100_km_wide():
    west, south, east, north = view_box(np.array([[60.0, 179.9]]))
    assert great_circle_m([60.0, west], [60.0, east]) == pytest.approx(100e3, rel=0.02)
    assert great_circle_m([south, 0], [north, 0]) == pytest.approx(100e3, rel=0.02)
    assert west < 179.9 < east


def test_check_points_names_the_row():
    with pytest.raises(DataError, match=r"predicted: row 1 is \[200000.0, 10.0\].*1 such rows"):
        check_points([[1, 2], [200000, 10]], "predicted")
    with pytest.raises(DataError, match="row 0"):
        check_points([[np.nan, np.nan]], "predicted")
    with pytest.raises(DataError, match="row 0"):  # half a truth is a mistake, not an unknown one
        check_points([[np.nan, 3]], "truth", missing_ok=True)
    for bad in ([], [1, 2], [[1, 2, 3]], [["a", "b"]]):
        with pytest.raises(DataError, match="points"):
            check_points(bad, "points")
    given = np.array([[1.0, 190.0]])
    assert check_points(given, "points").tolist() == [[1.0, -170.0]]
    assert given[0, 1] == 190.0


def read(path):
    document = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(name))
    assert document["type"] == "FeatureCollection"
    features = document["features"]
    kinds = {"prediction": [], "error": []}
    for feature in features:
        assert feature["type"] == "Feature"
        kinds[feature["properties"]["kind"]].append(feature)
    return kinds["prediction"], kinds["error"]


def test_geojson_has_longitude_first_and_null_for_nan(tmp_path):
    path = tmp_path / "points.geojson"
    properties = {"state": ["Maine", "Utah"], "probability": np.array([0.5, np.nan], dtype=np.float32)}
    write_geojson(path, [[43.472421, -70.719764], [40.0, 190.0]], properties)
    points, lines = read(path)
    assert lines == []
    assert points[0]["geometry"] == {"type": "Point", "coordinates": [-70.719764, 43.472421]}
    assert points[1]["geometry"]["coordinates"] == [-170.0, 40.0]
    assert points[0]["properties"] == {"state": "Maine", "probability": 0.5, "kind": "prediction", "row": 0}
    assert points[1]["properties"]["probability"] is None


@pytest.mark.case("files-D11")
def test_geojson_errors_are_lines_from_truth_to_point(tmp_path):
    path = tmp_path / "points.geojson"
    predicted = [[0.0, 1.0], [-17.0, -179.0], [5.0, 5.0], [6.0, 6.0]]
    truth = [[0.0, 0.0], [-17.0, 179.0], [np.nan, np.nan], [6.0, 6.0]]
    write_geojson(path, predicted, [{"a": i} for i in range(4)], truth)
    points, lines = read(path)
    assert [point["properties"]["a"] for point in points] == [0, 1, 2, 3]
    first, _, unknown, exact = (point["properties"] for point in points)
    assert first["distance_m"] == pytest.approx(111195.08, abs=0.01)
    assert (first["truth_latitude"], first["truth_longitude"]) == (0.0, 0.0)
    assert [unknown[key] for key in ("truth_latitude", "truth_longitude", "distance_m")] == [None] * 3
    assert exact["distance_m"] == 0
    assert [line["properties"]["row"] for line in lines] == [0, 1]
    assert lines[0]["geometry"] == {"type": "LineString", "coordinates": [[0.0, 0.0], [1.0, 0.0]]}
    cut = lines[1]["geometry"]
    assert cut["type"] == "MultiLineString"
    (start, edge), (other_edge, end) = cut["coordinates"]
    assert (start, end) == ([179.0, -17.0], [-179.0, -17.0])
    assert (edge[0], other_edge[0]) == (180.0, -180.0)
    # tan(latitude) = tan(17) / cos(1): a little nearer to the pole than either end.
    assert (
        edge[1]
        == other_edge[1]
        == pytest.approx(-np.degrees(np.arctan(np.tan(np.radians(17)) / np.cos(np.radians(1)))))
    )


def shapes(path):
    """[(properties, [ring as (n, 2) longitude and latitude])] of a file of polygons."""
    features = json.loads(path.read_text())["features"]
    for one in features:
        geometry = one["geometry"]
        parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        yield one["properties"], [np.array(ring) for (ring,) in parts]


def signed_area(ring):
    return 0.5 * np.sum(ring[:-1, 0] * ring[1:, 1] - ring[1:, 0] * ring[:-1, 1])


@pytest.mark.case("files-A13")
def test_footprints_are_cut_at_180_and_run_counter_clockwise(tmp_path):
    path = tmp_path / "tiles.geojson"
    ring = [[-18.0, 179.0], [-18.0, -179.5], [-17.0, -179.5], [-17.0, 179.0]]
    plain = [[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]]
    write_polygons(path, [ring, ring[::-1], plain, plain[::-1]], {"a": [0, 1, 2, 3]})
    found = list(shapes(path))
    assert [len(rings) for _, rings in found] == [2, 2, 1, 1]
    for _, rings in found:
        assert all(signed_area(part) > 0 for part in rings)
        assert all(np.array_equal(part[0], part[-1]) for part in rings)
    for _, (east, west) in found[:2]:
        assert (east[:, 0].min(), east[:, 0].max()) == (179.0, 180.0)
        assert (west[:, 0].min(), west[:, 0].max()) == (-180.0, -179.5)
        assert signed_area(east) + signed_area(west) == pytest.approx(1.5)
    assert found[2][1][0].tolist() == [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]  # touching 180 cuts nothing


@pytest.mark.case("files-A13")
@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("start", [-180.0, -135.0, 20.0])
def test_a_footprint_round_the_pole_reaches_it(tmp_path, direction, start):
    path = tmp_path / "tiles.geojson"
    longitude = (start + direction * np.arange(8) * 45.0 + 180) % 360 - 180
    write_polygons(path, [np.stack([np.full(8, -80.0), longitude], 1)])
    ((_, rings),) = shapes(path)
    assert sum(map(signed_area, rings)) == pytest.approx(360 * 10)
    assert min(ring[:, 1].min() for ring in rings) == -90
    assert max(np.ptp(ring[:, 0]) for ring in rings) <= 360


def test_geojson_refuses_lengths_that_differ_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "points.geojson"
    path.write_text("old")
    with pytest.raises(DataError, match="truth has 1 rows for 2"):
        write_geojson(path, [[0, 1], [1, 2]], None, [[0, 0]])
    with pytest.raises(DataError, match="properties column 'a' has 1 values"):
        write_geojson(path, [[0, 1], [1, 2]], {"a": [1]})
    assert path.read_text() == "old"


def test_geojson_of_many_points_is_quick(tmp_path):
    rng = np.random.default_rng(0)
    truth = np.stack([rng.uniform(-60, 60, 5000), rng.uniform(-180, 180, 5000)], axis=1)
    begin = time.perf_counter()
    write_geojson(tmp_path / "many.geojson", truth + rng.normal(0, 3, truth.shape), None, truth)
    assert time.perf_counter() - begin < 20  # a second on an idle machine


@pytest.mark.case("files-A13", "files-D15")
@pytest.mark.parametrize(
    ("crs", "transform", "width"),
    [
        ("EPSG:32760", (1000, 0, 790000, 0, -1000, 8000000), 3.0),  # Fiji, over 180 degrees
        ("EPSG:3031", (1000, 0, -16000, 0, -1000, 16000), 360.0),  # the south pole inside
        ("EPSG:3031", (1000, 0, 0, 0, -1000, 32000), 90.0),  # the pole at a corner
        ("EPSG:32632", (10, 0, 500000, 0, 10, 5000000), 0.1),  # south up
    ],
)
def test_tiles_of_real_grids_are_valid_polygons(tmp_path, crs, transform, width):
    from types import SimpleNamespace

    from rasterio import Affine

    from geohf.tiles.outputs import _ring

    raster = SimpleNamespace(crs=crs, affine=Affine(*transform), transform=transform)
    table = SimpleNamespace(rasters=[raster], region=[0], boxes=np.array([[0, 0, 32, 32]]))
    path = tmp_path / "tiles.geojson"
    write_polygons(path, [_ring(table, 0)])
    ((_, rings),) = shapes(path)
    assert all(signed_area(ring) > 0 for ring in rings)
    assert sum(np.ptp(ring[:, 0]) for ring in rings) <= width


def test_properties_that_the_file_itself_writes_are_said_to_be_replaced(tmp_path, caplog):
    write_geojson(tmp_path / "a.geojson", [[1.0, 2.0]], {"kind": ["bench"], "name": ["a"]})
    assert "the properties kind are the file's own and replace those given" in caplog.text
    caplog.clear()
    write_geojson(tmp_path / "a.geojson", [[1.0, 2.0]], {"distance_m": [3.0]})
    assert not caplog.text
