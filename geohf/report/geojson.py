"""Predictions as GeoJSON (RFC 7946), for a GIS or a web map."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from geohf.geo.angles import wrap_degrees
from geohf.io import atomic_write, columns, json_text
from geohf.report.paths import check_pairs, cut_at_antimeridian, great_circle_path

logger = logging.getLogger(__name__)

_POLE = 90.0 - 1e-9


def write_geojson(
    path: str | os.PathLike, points, properties: Mapping | Iterable[Mapping] | None = None, truth=None
) -> None:
    """Write points, and their errors where the truth is known, as one FeatureCollection.

    Every point becomes a Point feature with `"kind": "prediction"`. With `truth` it also has `truth_latitude`,
    `truth_longitude` and `distance_m`, and a feature with `"kind": "error"` follows: the great circle from the truth to
    the point, cut at the antimeridian. `"row"` counts the points from 0 and ties the two together.

    Args:
        path: the file, replaced only when all of it is written.
        points: (n, 2) latitude, longitude in degrees. In the file longitude comes first, as the RFC wants.
        properties: columns of n values (a dict, a DataFrame) or n dicts; NaN becomes null.
        truth: (n, 2) like `points`, NaN rows where it is unknown.

    Raises:
        DataError: coordinates that are not degrees, or lengths that differ.
    """
    points, truth, distance_m = check_pairs(points, truth)
    extra = columns(properties, len(points), "properties")
    own = {"kind", "row"} | (set() if truth is None else {"truth_latitude", "truth_longitude", "distance_m"})
    if taken := sorted(own & extra.keys()):
        logger.warning(
            "%s: the properties %s are the file's own and replace those given", path, ", ".join(taken)
        )

    def features() -> Iterator[str]:
        for row, point in enumerate(points):
            values = {name: column[row] for name, column in extra.items()}
            values |= {"kind": "prediction", "row": row}
            if truth is None or distance_m is None:
                yield _feature("Point", [point[::-1]], values)
                continue
            distance = {"distance_m": distance_m[row]}
            there = {"truth_latitude": truth[row, 0], "truth_longitude": truth[row, 1]}
            yield _feature("Point", [point[::-1]], values | there | distance)
            if distance_m[row] > 0:  # not where it is unknown
                pieces = cut_at_antimeridian(great_circle_path(truth[row], point))
                # Seven decimals are a centimeter; the points themselves keep every digit.
                lines = [piece[:, ::-1].round(7) for piece in pieces]
                yield _feature("LineString", lines, {"kind": "error", "row": row} | distance)

    _write(path, features())


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

    def features() -> Iterator[str]:
        for row, ring in enumerate(rings):
            values = {name: column[row] for name, column in extra.items()}
            # Seven decimals are a centimeter.
            yield _feature("Polygon", [[part[:, ::-1].round(7)] for part in parts_of_ring(ring)], values)

    _write(path, features())


def _write(path: str | os.PathLike, features: Iterable[str]) -> None:
    with atomic_write(path) as file:
        file.write('{"type":"FeatureCollection","features":[\n')
        for number, feature in enumerate(features):
            file.write(",\n" * (number > 0) + feature)
        file.write("\n]}\n")


def _feature(kind: str, parts: list, properties: dict) -> str:
    """A feature of one geometry, or of a Multi- one of several."""
    several = len(parts) > 1
    geometry = {"type": f"Multi{kind}" if several else kind, "coordinates": parts if several else parts[0]}
    return json_text({"type": "Feature", "geometry": geometry, "properties": properties})


def parts_of_ring(ring: np.ndarray) -> list[np.ndarray]:
    """The pieces of a ring within -180..180, each closed and counter-clockwise, as GeoJSON wants them (RFC 7946).

    Args:
        ring: (n, 2) latitude and longitude in degrees, closed or not, either way round. Each step goes the shorter
            way; a ring that runs round the globe holds the pole that is nearer to it.

    Returns:
        At least one (k, 2) closed ring.

    >>> for part in parts_of_ring(np.array([[0, 179], [0, -179], [1, -179], [1, 179]])): print(part.tolist())
    [[0.0, 179.0], [0.0, 180.0], [1.0, 180.0], [1.0, 179.0], [0.0, 179.0]]
    [[0.0, -180.0], [0.0, -179.0], [1.0, -179.0], [1.0, -180.0], [0.0, -180.0]]
    """
    ring = _unwrapped(_around_poles(np.asarray(ring, np.float64)))
    west, east = (np.floor((ring[:, 1].min() + 180) / 360), np.ceil((ring[:, 1].max() + 180) / 360))
    parts = []
    for turn in 360.0 * np.arange(west, max(east, west + 1)):
        part = ring - [0.0, turn]
        for edge, side in ((-180.0, 1.0), (180.0, -1.0)):
            part = _clipped(part, edge, side)
        if len(part) > 2 and _twice_the_area(part):
            part = part if _twice_the_area(part) > 0 else part[::-1]
            parts.append(np.concatenate([part, part[:1]]))
    return parts or [np.concatenate([ring, ring[:1]])]


def _around_poles(ring: np.ndarray) -> np.ndarray:
    """The ring, open; a corner on a pole, whose longitude means nothing, takes those of its neighbors."""
    if np.array_equal(ring[0], ring[-1]):
        ring = ring[:-1]
    corners: list[tuple[float, float]] = []
    for i, (latitude, longitude) in enumerate(ring):
        if abs(latitude) > _POLE:
            before, behind = ring[i - 1][1], ring[(i + 1) % len(ring)][1]
            corners += [(latitude, before), (latitude, behind)]
        else:
            corners.append((latitude, longitude))
    return np.array(corners)


def _unwrapped(ring: np.ndarray) -> np.ndarray:
    """The ring without jumps of longitude; one that ends a turn from where it began goes home over the pole."""
    steps = wrap_degrees(np.diff(ring[:, 1], append=ring[0, 1]))
    longitude = ring[0, 1] + np.concatenate([[0.0], np.cumsum(steps)])
    unwrapped = np.stack([ring[:, 0], longitude[:-1]], 1)
    if abs(longitude[-1] - longitude[0]) < 180.0:
        return unwrapped
    pole = float(np.copysign(90.0, ring[:, 0].mean()))
    home = [(ring[0, 0], longitude[-1]), (pole, longitude[-1]), (pole, longitude[0])]
    return np.concatenate([unwrapped, home])


def _clipped(ring: np.ndarray, edge: float, side: float) -> np.ndarray:
    """The part of an open ring east (side 1) or west (-1) of a meridian: Sutherland and Hodgman's clipping."""
    out: list[tuple[float, float]] = []
    for (lat_1, lon_1), (lat_2, lon_2) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        inside_1, inside_2 = side * (lon_1 - edge) >= 0, side * (lon_2 - edge) >= 0
        if inside_1:
            out.append((lat_1, lon_1))
        if inside_1 != inside_2:
            crossing = (lat_1 + (edge - lon_1) / (lon_2 - lon_1) * (lat_2 - lat_1), edge)
            if crossing not in ((lat_1, lon_1), (lat_2, lon_2)):
                out.append(crossing)
    return np.array(out).reshape(-1, 2)


def _twice_the_area(ring: np.ndarray) -> float:
    """Twice the area in square degrees, above zero where the ring runs counter-clockwise."""
    lat, lon = ring.T
    return float(np.sum(lon * np.roll(lat, -1) - np.roll(lon, -1) * lat))
