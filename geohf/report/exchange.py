"""Answers with a place for other programs: KML (OGC 2.3), GPX 1.1 and GeoParquet 1.1."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np

from geohf.io import atomic_path, atomic_write, json_text

_UNREADABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 cannot hold


def write_kml(path: str | os.PathLike, points: np.ndarray, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a Placemark a row, its other cells as ExtendedData.

    Args:
        points: (n, 2) latitude and longitude in degrees.
        rows: n answers; `input` names each.
    """
    root = ElementTree.Element("kml", xmlns="http://www.opengis.net/kml/2.2")
    document = ElementTree.SubElement(root, "Document")
    for number, (point, row) in enumerate(zip(points, rows, strict=True)):
        mark = ElementTree.SubElement(document, "Placemark")
        _text(mark, "name", row.get("input", number))
        told = ElementTree.SubElement(mark, "ExtendedData")
        for name, value in _others(row):
            _text(ElementTree.SubElement(told, "Data", name=_readable(name)), "value", value)
        _text(ElementTree.SubElement(mark, "Point"), "coordinates", ",".join(map(_degrees, point[::-1])))
    _write_xml(path, root)


def write_gpx(path: str | os.PathLike, points: np.ndarray, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a waypoint a row, its other cells as JSON in `desc`; see `write_kml`."""
    root = ElementTree.Element(
        "gpx", version="1.1", creator="geohf", xmlns="http://www.topografix.com/GPX/1/1"
    )
    for number, (point, row) in enumerate(zip(points, rows, strict=True)):
        mark = ElementTree.SubElement(root, "wpt", lat=_degrees(point[0]), lon=_degrees(point[1]))
        _text(mark, "name", row.get("input", number))
        _text(mark, "desc", json_text(dict(_others(row))))
    _write_xml(path, root)


def write_geoparquet(path: str | os.PathLike, points: np.ndarray, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table with `geometry`, points as WKB in longitude and latitude, and a column a cell.

    Cells that hold several values are JSON; see `write_kml`.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet

    flat = [{n: json_text(v) if isinstance(v, (dict, list)) else v for n, v in row.items()} for row in rows]
    table = pa.Table.from_pandas(pd.DataFrame(flat), preserve_index=False)
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


def _text(parent: ElementTree.Element, name: str, value: Any) -> None:
    text = json_text(value) if isinstance(value, (dict, list)) else str(value)
    ElementTree.SubElement(parent, name).text = _readable(text)


def _readable(text: str) -> str:
    return _UNREADABLE.sub("\ufffd", text)


def _write_xml(path: str | os.PathLike, root: ElementTree.Element) -> None:
    ElementTree.indent(root)
    with atomic_write(path, binary=True) as file:
        ElementTree.ElementTree(root).write(file, encoding="utf-8", xml_declaration=True)
