"""A model's answers as one file, in the format that its ending names."""

from __future__ import annotations

import html
import json
import logging
import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from geohf.errors import DataError
from geohf.io import NOT_XML, add_element, atomic_path, atomic_write, json_text, plain, write_xml
from geohf.report.geojson import write_geojson
from geohf.report.maps import write_map
from geohf.report.paths import check_points
from geohf.report.tables import column_names, format_number, write_csv

if TYPE_CHECKING:
    import pyarrow

logger = logging.getLogger(__name__)

PLACED = ("latitude", "longitude")  # degrees, where a row has both
THUMBNAIL = "thumbnail"  # of a row for HTML: its photograph as a data URI


def write_kml(path: str | os.PathLike, points: np.ndarray, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a Placemark a row, its other cells as ExtendedData.

    Args:
        points: (n, 2) latitude and longitude in degrees.
        rows: n answers; `input` names each.
    """
    root = ElementTree.Element("kml", xmlns="http://www.opengis.net/kml/2.2")
    document = add_element(root, "Document")
    for number, (point, row) in enumerate(zip(points, rows, strict=True)):
        mark = add_element(document, "Placemark")
        add_element(mark, "name", _xml_text(row.get("input", number)))
        told = add_element(mark, "ExtendedData")
        for name, value in _others(row):
            add_element(add_element(told, "Data", name=_xml_text(name)), "value", _xml_text(value))
        add_element(add_element(mark, "Point"), "coordinates", ",".join(map(_degrees, point[::-1])))
    write_xml(path, root, declaration=True)


def write_gpx(path: str | os.PathLike, points: np.ndarray, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a waypoint a row, its other cells as JSON in `desc`; see `write_kml`."""
    root = ElementTree.Element(
        "gpx", version="1.1", creator="geohf", xmlns="http://www.topografix.com/GPX/1/1"
    )
    for number, (point, row) in enumerate(zip(points, rows, strict=True)):
        mark = add_element(root, "wpt", lat=_degrees(point[0]), lon=_degrees(point[1]))
        add_element(mark, "name", _xml_text(row.get("input", number)))
        add_element(mark, "desc", _xml_text(dict(_others(row))))
    write_xml(path, root, declaration=True)


def write_geoparquet(path: str | os.PathLike, points: np.ndarray, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table with `geometry`, points as WKB in longitude and latitude, and a column per cell.

    Cells that hold several values are JSON; see `write_kml`.
    """
    import pyarrow as pa
    import pyarrow.parquet

    table = _arrow_table(rows, (dict, list))
    shapes = [struct.pack("<BIdd", 1, 1, longitude, latitude) for latitude, longitude in points.tolist()]
    table = table.append_column("geometry", pa.array(shapes, pa.binary()))
    kind = {"encoding": "WKB", "geometry_types": ["Point"]}  # no crs: longitude and latitude, OGC:CRS84
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": kind}}
    table = table.replace_schema_metadata({"geo": json.dumps(geo)})
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(table, temporary)


def _others(row: Mapping[str, Any]) -> list[tuple[str, Any]]:
    placed = ("input", "latitude", "longitude")
    return [(name, value) for name, value in row.items() if name not in placed and value is not None]


def _degrees(value: float) -> str:
    return f"{value:.9f}"  # a tenth of a millimeter


def _xml_text(value: Any) -> str:
    text = json_text(value) if isinstance(value, (dict, list)) else str(value)
    return NOT_XML.sub("\ufffd", text)


def check_format(path: str | os.PathLike) -> str:
    """The ending of a file of answers.

    Raises:
        DataError: none that `write_answers` knows.
    """
    ending = Path(path).suffix.lower()
    if ending not in WRITERS:
        raise DataError(
            f"{path}: ends in none of {', '.join(WRITERS)}, which say the format; a folder of Parquet ends in /"
        )
    return ending


def write_answers(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as `.csv`, `.jsonl` (one JSON object a line), `.parquet` or `.html`, or as points, `.geojson`,
    `.geoparquet`, `.kml` or `.gpx`.

    The first two take rows that are read from a file as they are written, twice for CSV; the others hold all in memory.

    Points are of the rows that have `latitude` and `longitude`; the others are counted in a warning. HTML is a map of
    them (its title counts the others) with circles of `radius_m` or areas (`credible_regions`, `regions`) and the
    photograph of a row's `thumbnail`, a data URI; a table where no row has a place. It needs no network.

    Raises:
        DataError: an unknown ending, or points of rows of which none has a place, or that are no degrees.
    """
    WRITERS[check_format(path)](path, rows)


def _write_jsonl(path, rows: Iterable[Mapping]) -> None:
    with atomic_write(path) as file:
        file.writelines(json_text(row) + "\n" for row in rows)


def _placed(path, rows: list) -> tuple[np.ndarray, list]:
    """(n, 2) degrees of the rows that have a position, and these rows; the others are told of where they are not all."""
    placed = [row for row in rows if all(row.get(name) is not None for name in PLACED)]
    left = len(rows) - len(placed)
    if left and placed:
        logger.warning("%s: %d of %d answers have no position and are not on the map", path, left, len(rows))
    return np.array([[row[name] for name in PLACED] for row in placed], np.float64), placed


def write_parquet(path, rows: Iterable[Mapping], metadata: Mapping[str, str] | None = None) -> None:
    """Write rows as Parquet; dicts, whose keys differ from row to row, are JSON text.

    Args:
        metadata: text for the file's schema.
    """
    import pyarrow.parquet

    table = _arrow_table(rows, (Mapping,)).replace_schema_metadata(metadata)
    with atomic_write(path, binary=True) as file:
        pyarrow.parquet.write_table(table, file)


def _arrow_table(rows: Iterable[Mapping], as_text: tuple[type, ...]) -> pyarrow.Table:
    """Rows as a table of all their keys; cells of these types as JSON text."""
    import pyarrow

    flat = [{n: json_text(v) if isinstance(v, as_text) else plain(v) for n, v in row.items()} for row in rows]
    # of rows alone pyarrow would take the columns of the first
    return pyarrow.table({name: [row.get(name) for row in flat] for name in column_names(flat)})


def _points_by(write: Callable[..., None]) -> Callable[..., None]:
    def write_points(path, rows: Iterable[Mapping]) -> None:
        points, placed = _placed(path, list(rows))
        if not placed:
            raise DataError(f"{path}: these answers are no places in degrees; take .csv, .jsonl or .html")
        check_points(points, "predicted")
        write(path, points, placed)

    return write_points


def _write_html(path, rows: Iterable[Mapping]) -> None:
    every = list(rows)
    points, placed = _placed(path, every)
    if not placed:
        _write_table(path, [{k: v for k, v in row.items() if k != THUMBNAIL} for row in every])
        return
    title, left = "Predictions", len(every) - len(placed)
    if left:
        title += f" ({left} of {len(every)} without a position: not on the map)"
    radius = [row.get("radius_m") for row in placed]
    told = {"input", THUMBNAIL, *PLACED, *(() if None in radius else ("radius_m",))}  # by the map itself
    write_map(
        path,
        points,
        labels=[row.get("input", i) for i, row in enumerate(placed)],
        details=[
            {k: v for k, v in row.items() if not (k in told or isinstance(v, (list, dict)))} for row in placed
        ],
        radius_m=radius,
        title=title,
        regions=[_areas(row) for row in placed],
        thumbnails=[row.get(THUMBNAIL) for row in placed],
    )


def _areas(row: Mapping) -> Mapping[str, Mapping]:
    """Percent -> GeoJSON of a row; the `regions` of a region model are names with their probabilities, and no areas."""
    areas = row.get("credible_regions") or row.get("regions") or {}
    return areas if all(isinstance(area, Mapping) for area in areas.values()) else {}


def _write_table(path, rows: list) -> None:
    names = column_names(rows)
    with atomic_write(path) as file:
        file.write("<!doctype html><html lang=en><meta charset=utf-8><title>Predictions</title>")
        # no script and no request, whatever a file may be called
        file.write(
            "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        )
        file.write("<style>body{font:14px system-ui;margin:2em}td,th{padding:.2em .8em;text-align:left;")
        file.write("border-bottom:1px solid #ddd}</style>\n<h1>Predictions</h1><table>\n")
        file.write(_line("th", names))
        file.writelines(_line("td", [format_number(row.get(name)) for name in names]) for row in rows)
        file.write("</table></html>\n")


def _line(tag: str, cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>\n"


WRITERS = {
    ".csv": write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": write_parquet,
    ".html": _write_html,
    ".geojson": _points_by(write_geojson),
    ".geoparquet": _points_by(write_geoparquet),
    ".kml": _points_by(write_kml),
    ".gpx": _points_by(write_gpx),
}
