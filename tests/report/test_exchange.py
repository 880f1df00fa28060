"""KML, GPX and GeoParquet, each read back by a reader that is not ours."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest

from geohf.errors import DataError
from geohf.report.answers import write_answers

ROWS = [
    {
        "input": "a & b <1>.jpg",
        "latitude": 48.123456789,
        "longitude": -179.5,
        "confidence": 0.25,
        "answers": {"x": 1.0},
    },
    {"input": "b\x00.jpg", "latitude": -0.5, "longitude": 2.25, "confidence": None, "answers": {"y": 0.5}},
]
POINTS = np.array([[row["latitude"], row["longitude"]] for row in ROWS])


def test_kml(tmp_path):
    write_answers(tmp_path / "a.kml", ROWS)
    root, space = ElementTree.parse(tmp_path / "a.kml").getroot(), {"k": "http://www.opengis.net/kml/2.2"}
    marks = root.findall("k:Document/k:Placemark", space)
    assert [mark.findtext("k:name", None, space) for mark in marks] == ["a & b <1>.jpg", "b\ufffd.jpg"]
    found = [list(map(float, mark.findtext("k:Point/k:coordinates", "", space).split(","))) for mark in marks]
    np.testing.assert_allclose(found, POINTS[:, ::-1], atol=1e-7)  # longitude first
    told = {
        data.get("name"): data.findtext("k:value", None, space)
        for data in marks[0].iter(f"{{{space['k']}}}Data")
    }
    assert told == {"confidence": "0.25", "answers": '{"x":1.0}'}
    assert len(list(marks[1].iter(f"{{{space['k']}}}Data"))) == 1  # nothing for what is not known


def test_gpx(tmp_path):
    write_answers(tmp_path / "a.gpx", ROWS)
    root, space = ElementTree.parse(tmp_path / "a.gpx").getroot(), {"g": "http://www.topografix.com/GPX/1/1"}
    assert root.get("version") == "1.1"
    marks = root.findall("g:wpt", space)
    np.testing.assert_allclose([(float(m.get("lat")), float(m.get("lon"))) for m in marks], POINTS, atol=1e-7)
    assert marks[0].findtext("g:name", None, space) == "a & b <1>.jpg"
    assert json.loads(marks[0].findtext("g:desc", "", space)) == {"confidence": 0.25, "answers": {"x": 1.0}}


def test_geoparquet(tmp_path):
    import pyarrow.parquet as pq

    write_answers(tmp_path / "a.geoparquet", ROWS)
    table = pq.read_table(tmp_path / "a.geoparquet")
    geo = json.loads(table.schema.metadata[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    shapes = table["geometry"].to_pylist()
    assert [np.frombuffer(shape[5:], "<f8").tolist() for shape in shapes] == POINTS[:, ::-1].tolist()
    assert all(shape[:5] == b"\x01\x01\x00\x00\x00" for shape in shapes)  # little-endian, a point
    assert table["confidence"].to_pylist() == [0.25, None]
    geopandas = pytest.importorskip("geopandas", reason="needs geopandas")
    pytest.importorskip("shapely", reason="needs shapely")
    pytest.importorskip("pyproj", reason="needs pyproj")
    frame = geopandas.read_parquet(tmp_path / "a.geoparquet")
    assert [(point.y, point.x) for point in frame.geometry] == [tuple(point) for point in POINTS]


@pytest.mark.parametrize("ending", ["kml", "gpx", "geoparquet", "geojson"])
def test_answers_that_are_no_places(tmp_path, ending):
    with pytest.raises(DataError, match="no places in degrees"):
        write_answers(tmp_path / f"a.{ending}", [{"input": "a", "descriptor": [1.0]}])


def test_parquet_has_the_columns_of_every_row_as_csv_has(tmp_path):
    rows = [{"input": "a.jpg"}, {"input": "b.jpg", "radius_m": 5.0}]
    write_answers(tmp_path / "a.parquet", rows)
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == [
        {"input": "a.jpg", "radius_m": None},
        rows[1],
    ]


def test_whole_numbers_stay_whole_in_geoparquet_where_a_row_has_none(tmp_path):
    place = {"latitude": 1.0, "longitude": 2.0}
    write_answers(tmp_path / "a.geoparquet", [{"n": 2**60 + 1, **place}, place])
    assert pq.read_table(tmp_path / "a.geoparquet")["n"].to_pylist() == [2**60 + 1, None]
