"""Great circles on flat paper. All points are (latitude, longitude) in degrees, float64."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, overload

import numpy as np

from geohf.errors import DataError
from geohf.geo import area_from_geojson, great_circle_m, points_from_vectors, unit_vectors
from geohf.geo.angles import wrap_degrees


def check_points(points, what: str, missing_ok: bool = False) -> np.ndarray:
    """Points as a new float64 array (n, 2) with longitudes in -180..180.

    Unlike `geohf.geo.check_points` it takes any place on earth: a map shows predictions far from all others.

    Args:
        points: (n, 2) latitude and longitude in degrees.
        what: the name for messages.
        missing_ok: whether a row may be NaN, NaN.

    Raises:
        DataError: another shape, no row, a value that is not finite, a latitude beyond 90 degrees or
            a longitude beyond 360; the message names the first such row.
    """
    try:
        points = np.array(points, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what}: not an (n, 2) array of numbers ({error})") from None
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise DataError(f"{what}: shape {points.shape}; want (n, 2) latitude and longitude with n > 0")
    good = (np.abs(points[:, 0]) <= 90) & (np.abs(points[:, 1]) <= 360)
    if missing_ok:
        good |= np.isnan(points).all(axis=1)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise DataError(
            f"{what}: row {row} is {points[row].tolist()}, not (latitude, longitude) in degrees"
            f" ({int((~good).sum())} such rows); a planar frame has no place on a map of the earth"
        )
    wide = np.abs(points[:, 1]) > 180  # ±180 itself stays what the caller wrote
    points[wide, 1] = wrap_degrees(points[wide, 1])
    return points


@overload
def check_pairs(predicted: Any, truth: None) -> tuple[np.ndarray, None, None]: ...
@overload
def check_pairs(predicted: Any, truth: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...
def check_pairs(predicted: Any, truth: Any) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Predicted and true points (n, 2), checked, and their distances in meters (n,), NaN where unknown.

    Raises:
        DataError: as `check_points`, and lengths that differ.
    """
    predicted = check_points(predicted, "predicted")
    if truth is None:
        return predicted, None, None
    truth = check_points(truth, "truth", missing_ok=True)
    if len(truth) != len(predicted):
        raise DataError(f"truth has {len(truth)} rows for {len(predicted)} predicted points")
    return predicted, truth, great_circle_m(truth, predicted)


def outline_rings(source: Mapping | str | os.PathLike | None) -> list[list[np.ndarray]]:
    """Polygons of a GeoJSON document or file, each a list of rings (k, 2) whose longitudes do not jump.

    Raises:
        DataError: see `geohf.geo.area_from_geojson`.
    """
    return [] if source is None else area_from_geojson(source).polygons


def great_circle_path(start, end, step_deg: float = 2.0) -> np.ndarray:
    """The shortest way from start to end, (k, 2) with k >= 2, no step longer than `step_deg` of arc.

    Longitudes are in -180..180, so the path jumps where it crosses the antimeridian. Between antipodes,
    where every way is shortest, it goes over the north pole.

    >>> great_circle_path([0.0, 0.0], [0.0, 4.0]).round(9).tolist()
    [[0.0, 0.0], [0.0, 2.0], [0.0, 4.0]]
    """
    ends = np.array([start, end], dtype=np.float64)
    a, b = unit_vectors(ends)
    angle = np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)
    steps = max(1, int(np.ceil(np.degrees(angle) / step_deg - 1e-9)))
    if steps == 1:
        return ends
    # The direction at a in which the way leaves. For antipodes b has none to give: take the pole, or, from
    # pole to pole, any.
    for goal in (b, np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])):
        ahead = goal - (a @ goal) * a
        if np.linalg.norm(ahead) > 1e-9:
            break
    t = np.linspace(0.0, angle, steps + 1)[:, None]
    path = points_from_vectors(np.cos(t) * a + np.sin(t) * (ahead / np.linalg.norm(ahead)))
    path[0], path[-1] = ends  # not their rounded images
    return path


def cut_at_antimeridian(path: np.ndarray) -> list[np.ndarray]:
    """Pieces of a path (k, 2) that stay within -180..180, split where it crosses the antimeridian.

    Both ends of a cut have the latitude at which the great circle crosses. A piece without length is left
    out; a path without any is returned as it is.

    >>> [piece.round(2).tolist() for piece in cut_at_antimeridian(np.array([[0.0, 179.0], [0.0, -178.0]]))]
    [[[0.0, 179.0], [0.0, 180.0]], [[0.0, -180.0], [0.0, -178.0]]]
    """
    pieces = [[tuple(path[0])]]
    for (lat1, lon1), (lat2, lon2) in pairwise(path):
        if abs(lon2 - lon1) > 180:
            edge = np.copysign(180.0, lon1)
            to_edge, span = np.radians(wrap_degrees(edge - lon1)), np.radians(wrap_degrees(lon2 - lon1))
            crossing = lat1
            if abs(np.sin(span)) > 1e-12:  # else the two meridians are one, and so is the latitude
                tan1, tan2 = np.tan(np.radians([lat1, lat2]))
                slope = (tan1 * np.sin(span - to_edge) + tan2 * np.sin(to_edge)) / np.sin(span)
                crossing = float(np.degrees(np.arctan(slope)))
            pieces[-1].append((crossing, edge))
            pieces.append([(crossing, -edge)])
        pieces[-1].append((lat2, lon2))
    # dict.fromkeys drops repeated vertices: a path that ends on the antimeridian leaves a dot behind it.
    cut = [np.array(list(dict.fromkeys(piece))) for piece in pieces]
    return [piece for piece in cut if len(piece) > 1] or [path]


def unwrap_path(path: np.ndarray) -> np.ndarray:
    """A path (k, 2) without jumps: longitudes may leave -180..180."""
    path = path.copy()
    path[1:, 1] = path[0, 1] + np.cumsum(wrap_degrees(np.diff(path[:, 1])))
    return path


def view_box(points: np.ndarray) -> tuple[float, float, float, float]:
    """The smallest box that holds all points: (west, south, east, north) in degrees.

    `east` is above 180 where the box crosses the antimeridian, because the box leaves out the widest gap
    between neighboring longitudes. A box around most of the globe becomes -180 to 180, the map one knows.
    A NaN row is ignored. A box without size is widened to about 100 km.

    >>> view_box(np.array([[-18.0, 178.0], [-17.0, -179.0]]))
    (178.0, -18.0, 181.0, -17.0)
    """
    points = points[~np.isnan(points).any(axis=1)]
    longitudes = np.sort(points[:, 1])
    gaps = np.diff(longitudes, append=longitudes[0] + 360)
    widest = int(np.argmax(gaps))
    west, east = float(longitudes[(widest + 1) % len(longitudes)]), float(longitudes[widest])
    east += 360.0 if east < west else 0.0
    if east - west > 300:
        west, east = -180.0, 180.0
    south, north = float(points[:, 0].min()), float(points[:, 0].max())
    if east - west < 1e-9 and north - south < 1e-9:
        half = min(0.45 / max(float(np.cos(np.radians(south))), 1e-3), 90.0)
        west, south, east, north = west - half, max(south - 0.45, -90.0), east + half, min(north + 0.45, 90.0)
    return west, south, east, north
