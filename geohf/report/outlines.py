"""Border lines for orientation, from a GeoJSON file that nobody has checked."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from geohf.errors import DataError


def read_outlines(source: Mapping | str | os.PathLike | None) -> list[list[np.ndarray]]:
    """Polygons of a GeoJSON document, each a list of rings (k, 2) of latitude, longitude in degrees.

    Args:
        source: a path, or the document itself: a FeatureCollection, a Feature, a Polygon or a
            MultiPolygon. A feature without geometry is passed over, as RFC 7946 allows. None is no outline.

    Raises:
        DataError: no such file, no JSON, another geometry, or coordinates that are not degrees; the message
            names the file and the feature.
    """
    if source is None:
        return []
    name = "outlines"
    if not isinstance(source, Mapping):
        name = os.fspath(source)
        try:
            source = json.loads(Path(name).read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise DataError(f"{name}: {error.strerror or error}; give the path of a GeoJSON file") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name}: not JSON ({error})") from None
    return [polygon for where, geometry in _geometries(source, name) for polygon in _polygons(geometry, where)]


def _geometries(document, name: str) -> Iterator[tuple[str, Mapping]]:
    kind = document.get("type") if isinstance(document, Mapping) else None
    if kind == "FeatureCollection":
        features = document.get("features")
        if not isinstance(features, list):
            raise DataError(f"{name}: a FeatureCollection needs a list of features")
    else:
        features = [document if kind == "Feature" else {"type": "Feature", "geometry": document}]
    for index, feature in enumerate(features):
        if not isinstance(feature, Mapping) or feature.get("type") != "Feature":
            raise DataError(f"{name}: entry {index} is not a Feature")
        if feature.get("geometry") is not None:
            yield f"{name}: feature {index}", feature["geometry"]


def _polygons(geometry, where: str) -> Iterator[list[np.ndarray]]:
    kind = geometry.get("type") if isinstance(geometry, Mapping) else None
    if kind not in ("Polygon", "MultiPolygon"):
        raise DataError(f"{where} is {kind!r}; outlines are Polygon or MultiPolygon")
    coordinates = geometry.get("coordinates")
    polygons = [coordinates] if kind == "Polygon" else coordinates
    if not isinstance(polygons, list) or not all(isinstance(polygon, list) for polygon in polygons):
        raise DataError(f"{where}: coordinates of a {kind} are nested lists")
    for polygon in polygons:
        yield [_ring(ring, where) for ring in polygon]


def _ring(ring, where: str) -> np.ndarray:
    if not isinstance(ring, list) or len(ring) < 4:
        raise DataError(f"{where}: a ring is a list of at least four positions")
    for position in ring:
        if not isinstance(position, list) or len(position) < 2:
            raise DataError(f"{where}: {str(position)[:60]} is not a position [longitude, latitude]")
        for value, limit in zip(position, (360, 90), strict=False):
            # NaN fails the comparison too; a bool is an int to Python but no coordinate.
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= limit:
                raise DataError(f"{where}: {str(position)[:60]} is not [longitude, latitude] in degrees")
    return np.array([[position[1], position[0]] for position in ring], dtype=np.float64)
