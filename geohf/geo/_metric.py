"""Points as vectors in which a radius search is exact: what the neighbor searches share.

"Within r along the great circle" is "within the chord `2 R sin(r / 2R)`" of the straight line in space. So any
Euclidean search over `R` times the unit vectors is a great-circle search, at the poles and the antimeridian too.
"""

from __future__ import annotations

import numpy as np

from geohf.errors import DataError, listed
from geohf.geo._arrays import as_rows
from geohf.geo.distance import EARTH_RADIUS_M
from geohf.geo.frames import check_frame, shown_rows
from geohf.geo.sphere import unit_vectors

# Rounding of R times a unit vector and of a difference of two: a chord is known to a few 1e-9 m.
CHORD_SLACK_M = 1e-8


def as_degrees(points, name: str = "points") -> np.ndarray:
    """(n, 2) float64 degrees, or DataError with the first rows that are not finite or no degrees."""
    points = as_rows(points, name)
    # Written so that NaN is bad: every comparison with it is false.
    good = (np.abs(points[:, 0]) <= 90.0) & (points[:, 1] >= -180.0) & (points[:, 1] < 360.0)
    _refuse(points, good, name, "no latitude in -90..90 and longitude in -180..360")
    return points


def in_frame(points, frame: str) -> np.ndarray:
    """(n, 2) float64 points that are finite, and degrees in `wgs84`; errors as `as_degrees`."""
    if check_frame(frame) == "wgs84":
        return as_degrees(points)
    points = as_rows(points)
    _refuse(points, np.isfinite(points).all(1), "points", "not finite")
    return points


def _refuse(points, good, name, what) -> None:
    bad = np.flatnonzero(~good)
    if len(bad):
        raise DataError(f"{name}: {what} in {listed(shown_rows(points, bad))}")


def check_length(name: str, value: float, zero: bool = False) -> float:
    """Return a length as float, or raise ValueError unless it is finite and above zero (or at least zero)."""
    value = float(value)
    if not (np.isfinite(value) and (value > 0 or (zero and value == 0))):
        raise ValueError(f"{name} must be finite and {'at least' if zero else 'above'} zero, got {value}")
    return value


def chord_m(radius_m: float) -> float:
    """Length in meters of the chord under a great-circle arc; the diameter for arcs of half a turn and more."""
    return 2.0 * EARTH_RADIUS_M * float(np.sin(min(radius_m / (2.0 * EARTH_RADIUS_M), np.pi / 2)))


def search_space(points, radius: float, frame: str) -> tuple[np.ndarray, float]:
    """Vectors of points (see `in_frame`), and the Euclidean threshold that means "within `radius`" in the frame:
    (n, 3) meters and the chord for `wgs84`, (n, 2) data units and the radius for `planar`.
    """
    return (EARTH_RADIUS_M * unit_vectors(points), chord_m(radius)) if frame == "wgs84" else (points, radius)


def quick_tree(vectors: np.ndarray):
    """A k-d tree split at midpoints: radius searches with it are 1.2 to 2.4 times as fast as with a balanced one."""
    from scipy.spatial import cKDTree

    return cKDTree(vectors, balanced_tree=False, compact_nodes=False)
