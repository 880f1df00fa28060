"""Predictions as GeoJSON (RFC 7946), for a GIS or a web map."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import numpy as np

from geohf.io import atomic_write, columns, json_text
from geohf.report.paths import check_pairs, cut_at_antimeridian, great_circle_path
from geohf.report.rings import parts_of_ring


def write_geojson(
    path: str | os.PathLike,
    points,
    properties: Mapping | Iterable[Mapping] | None = None,
    truth=None,
) -> None:
    """Write points, and their errors where the truth is known, as one FeatureCollection.

    Every point becomes a Point feature with ``"kind": "prediction"``. With ``truth`` its properties also
    hold ``truth_latitude``, ``truth_longitude`` and ``distance_m``, and a feature with ``"kind": "error"``
    follows it: the great circle from the truth to the point, a LineString, or a MultiLineString that is
    cut at the antimeridian. ``"row"`` counts the points from 0 and ties the two together.

    Args:
        path: the file, replaced only when all of it is written.
        points: (n, 2) latitude, longitude in degrees. In the file longitude comes first, as the RFC wants.
        properties: columns of n values (a dict, a DataFrame) or n dicts; NaN becomes null.
        truth: (n, 2) like ``points``, NaN rows where it is unknown.

    Raises:
        DataError: coordinates that are not degrees, or lengths that differ.
    """
    points, truth, distance_m = check_pairs(points, truth)
    extra = columns(properties, len(points), "properties")
    with atomic_write(path) as file:
        file.write('{"type":"FeatureCollection","features":[\n')
        for row, point in enumerate(points):
            values = {name: column[row] for name, column in extra.items()}
            values.update(kind="prediction", row=row)
            if truth is not None and distance_m is not None:
                values.update(
                    truth_latitude=truth[row, 0],
                    truth_longitude=truth[row, 1],
                    distance_m=distance_m[row],
                )
            file.write(",\n" if row else "")
            file.write(_feature("Point", point[::-1], values))
            # not where it is unknown
            if truth is not None and distance_m is not None and distance_m[row] > 0:
                pieces = cut_at_antimeridian(great_circle_path(truth[row], point))
                # Seven decimals are a centimeter; the points themselves keep every digit.
                lines = [piece[:, ::-1].round(7) for piece in pieces]
                kind = "LineString" if len(lines) == 1 else "MultiLineString"
                coordinates = lines[0] if len(lines) == 1 else lines
                values = {"kind": "error", "row": row, "distance_m": distance_m[row]}
                file.write(",\n" + _feature(kind, coordinates, values))
        file.write("\n]}\n")


def write_polygons(
    path: str | os.PathLike, rings, properties: Mapping | Iterable[Mapping] | None = None
) -> None:
    """Write areas without holes as one FeatureCollection of Polygons, or of MultiPolygons cut at the antimeridian.

    Args:
        path: the file, replaced only when all of it is written.
        rings: n sequences of (latitude, longitude) in degrees, either way round, closed or not. Each step goes the
            shorter way; a ring that runs round the globe holds the pole that is nearer to it.
        properties: columns of n values (a dict, a DataFrame) or n dicts; NaN becomes null.

    Raises:
        DataError: lengths that differ.
    """
    rings = list(rings)
    extra = columns(properties, len(rings), "properties")
    with atomic_write(path) as file:
        file.write('{"type":"FeatureCollection","features":[\n')
        for row, ring in enumerate(rings):
            values = {name: column[row] for name, column in extra.items()}
            # Seven decimals are a centimeter.
            parts = [
                [part[:, ::-1].round(7).tolist()] for part in parts_of_ring(np.asarray(ring, np.float64))
            ]
            kind = "Polygon" if len(parts) == 1 else "MultiPolygon"
            file.write(
                (",\n" if row else "") + _feature(kind, parts[0] if len(parts) == 1 else parts, values)
            )
        file.write("\n]}\n")


def _feature(kind: str, coordinates, properties: dict) -> str:
    geometry = {"type": kind, "coordinates": coordinates}
    return json_text({"type": "Feature", "geometry": geometry, "properties": properties})
