"""The two coordinate reference systems that `frame` names, and the checks that keep one from being taken for the other.

`wgs84`: latitude and longitude in degrees, distances along great circles in meters.
`planar`: two columns in the data's own unit (a projected or local frame), Euclidean distances in that unit.

Nothing is guessed: values that do not fit the declared frame are an error that says which rows.
"""

from __future__ import annotations

import logging

import numpy as np

from geohf.errors import DataError, require_choice, warn_once
from geohf.geo._arrays import as_floats, as_pairs, as_rows, cast_like, guarded_sqrt, namespace, wrap_longitude
from geohf.geo.distance import EARTH_RADIUS_M, great_circle_m
from geohf.geo.sphere import mean_weights, points_from_vectors, spherical_mean, unit_vectors, weighted_sum

logger = logging.getLogger(__name__)

FRAMES = ("wgs84", "planar")

_SHOWN_ROWS = 5
_RADIANS_ROWS = 5  # fewer may lie anywhere
_STRAY_M = 1_000_000.0
_STRAY_TIMES_P90 = 10.0


def check_frame(frame: str) -> str:
    """Return `frame`, or raise DataError when it is not one of `FRAMES`."""
    require_choice(FRAMES, frame=frame)
    return frame


def check_points(points, frame: str = "wgs84", rows=None, source: str = "") -> np.ndarray:
    """Return the points as float64, `wgs84` longitudes in [-180, 180), or say which rows do not fit the frame and why.

    Args:
        points: (n, 2) latitude and longitude in degrees for `wgs84`, data units for `planar`.
        frame: `"wgs84"` or `"planar"`.
        rows: (n,) names of the rows for the message, such as line numbers of a CSV; default 0..n-1.
        source: what the points come from, such as a file name, for the message.

    Raises:
        DataError: rows that `bad_points` finds (five are shown, the others counted), or a table in the other frame.
        ValueError: a shape that is not (n, 2).

    >>> check_points([[36.4, 190.0]])
    array([[  36.4, -170. ]])
    >>> check_points([[36.4, 127.4], [127.4, 36.4]], rows=[2, 3], source="labels.csv")
    Traceback (most recent call last):
        ...
    geohf.errors.DataError: labels.csv: 1 of 2 rows do not fit frame='wgs84':
      row 3: latitude 127.4 is outside -90..90; latitude and longitude look swapped
    """
    reasons = bad_points(points, frame, rows, source)
    points = as_rows(points)
    if reasons:
        lines = [f"  {reason}" for _, reason in reasons[:_SHOWN_ROWS]]
        if len(reasons) > _SHOWN_ROWS:
            lines.append(f"  and {len(reasons) - _SHOWN_ROWS} more rows")
        head = f"{_prefix(source)}{len(reasons)} of {len(points)} rows do not fit frame={frame!r}:"
        raise DataError("\n".join([head, *lines]))
    if frame == "wgs84":
        return np.stack([points[:, 0], wrap_longitude(np, points[:, 1])], 1)
    return points.copy()


def bad_points(points, frame: str = "wgs84", rows=None, source: str = "") -> list[tuple[int, str]]:
    """Find the rows that do not fit the frame, for callers that leave them out and count them.

    For both frames: values that are not finite. For `wgs84`: 0, 0, a latitude outside -90..90, a longitude outside
    -180..360, values beyond 360 (planar data), and rows whose latitude and longitude look swapped: only the exchanged
    values are degrees, or the row lies more than 1000 km and more than 10 times the 90th percentile of all
    distances from the center of the table while the exchanged row lies among the rest. A `wgs84` table that could
    be radians gets a word.

    Args:
        points, frame, rows, source: as for `check_points`.

    Returns:
        (position, reason) in ascending position; the reason begins with the row's name.

    Raises:
        DataError: the table as a whole belongs to the other frame, which leaving rows out cannot mend: most rows of a
            `wgs84` table lie beyond 360, or all rows of a `planar` table could be degrees.
        ValueError: a shape that is not (n, 2), or a length of `rows` that is not n.

    >>> bad_points([[48.9, 2.4], [float("nan"), 2.4], [99.0, 190.0]])
    [(1, 'row 1: latitude nan is not finite'), (2, 'row 2: latitude 99 is outside -90..90')]
    """
    check_frame(frame)
    points = as_rows(points)
    if rows is not None and len(rows) != len(points):
        raise ValueError(f"rows names {len(rows)} rows, points has {len(points)}")
    finite = np.isfinite(points).all(1)
    _refuse_other_frame(points, finite, frame, rows, source)
    names = ("latitude", "longitude") if frame == "wgs84" else ("first coordinate", "second coordinate")
    reasons = {}
    for position in np.flatnonzero(~finite).tolist():
        column = int(np.isfinite(points[position, 0]))
        reasons[position] = f"{names[column]} {points[position, column]:.12g} is not finite"
    if frame == "wgs84":
        placed = points[finite & ~is_no_fix(*points.T)]
        # off the Gulf of Guinea, where there is no land
        if len(placed) >= _RADIANS_ROWS and (np.abs(placed) <= (np.pi / 2, np.pi)).all():
            warn_once(
                logger,
                "%sall positions lie in the sea within 1.6 degrees of latitude and 3.2 of longitude of (0, 0), as radians do: "
                "latitude and longitude are read as degrees", _prefix(source),
            )  # fmt: skip
        reasons |= impossible_points(points)
        _add_swapped_reasons(points, reasons)
    return [(position, f"row {_name(rows, position)}: {reasons[position]}") for position in sorted(reasons)]


def impossible_points(points: np.ndarray) -> dict[int, str]:
    """Position -> reason of (n, 2) rows that are no degrees, or 0, 0, whatever the other rows are; NaN is unknown.

    >>> impossible_points(np.array([[48.9, 2.4], [np.nan, np.nan], [127.4, 36.4]]))
    {2: 'latitude 127.4 is outside -90..90; latitude and longitude look swapped'}
    """
    lat, lon = points.T
    reasons = dict.fromkeys(
        np.flatnonzero(is_no_fix(lat, lon)).tolist(), "(0, 0) stands for a position that is not known"
    )
    outside = (np.abs(lat) > 90.0) | (lon < -180.0) | (lon >= 360.0)
    for i in np.flatnonzero(outside & np.isfinite(points).all(1)).tolist():
        if max(abs(lat[i]), abs(lon[i])) > 360.0:
            reasons[i] = f"({lat[i]:.12g}, {lon[i]:.12g}) are no degrees; planar data need frame='planar'"
        elif abs(lat[i]) > 90.0:
            reasons[i] = f"latitude {lat[i]:.12g} is outside -90..90"
            if -180.0 <= lat[i] < 360.0 and abs(lon[i]) <= 90.0:
                reasons[i] += "; latitude and longitude look swapped"
        else:
            reasons[i] = f"longitude {lon[i]:.12g} is outside -180..360"
    return reasons


def is_no_fix(latitude, longitude):
    """Whether a position is 0, 0: receivers, cameras and tables write zeros for a place that they do not know.

    >>> is_no_fix(0.0, -0.0), is_no_fix(0.0, 6.6)
    (True, False)
    """
    return (latitude == 0) & (longitude == 0)


def _refuse_other_frame(points, finite, frame, rows, source) -> None:
    """Raise DataError when the table as a whole is in the other frame."""
    size = np.abs(points)
    if frame == "wgs84":
        odd = finite & (size > 360.0).any(1)
        refused = 2 * odd.sum() > finite.sum()
        text = (
            f"{odd.sum()} of {len(points)} rows hold values beyond 360, which are no degrees. The data look "
            "planar (projected or local): declare frame='planar', or bring them to degrees where the task takes nothing else"
        )
    else:
        odd = finite
        refused = finite.any() and (size[finite] <= 180.0).all() and (size[finite] <= 90.0).any(1).all()
        text = (
            "all rows lie within the range of degrees (90 and 180). If they are latitude and longitude, declare "
            "frame='wgs84'; if they are planar, use a smaller unit or move the origin so that this is plain to see"
        )
    if not refused:
        return
    first = ", ".join(shown_rows(points, np.flatnonzero(odd)[:_SHOWN_ROWS], rows))
    raise DataError(f"{_prefix(source)}points do not fit frame={frame!r}: {text}. First: {first}")


def shown_rows(points, positions, rows=None) -> list[str]:
    """`row 3 (48.9, 2.4)` of each of these positions, for a message."""
    return [f"row {_name(rows, i)} ({points[i, 0]:.12g}, {points[i, 1]:.12g})" for i in positions.tolist()]


def _add_swapped_reasons(points, reasons) -> None:
    """Rows within the range of degrees that lie far from all others, but among them once exchanged."""
    usable = np.ones(len(points), bool)
    usable[list(reasons)] = False
    positions = np.flatnonzero(usable)
    if len(positions) < 3:
        return
    kept = points[positions]
    # The median of each component stays with the majority, where a mean follows the strays.
    center = np.median(unit_vectors(kept), axis=0)
    if not np.linalg.norm(center) > 1e-6:  # points all over the globe have no center to be far from
        return
    center = points_from_vectors(center)
    distance_m = great_circle_m(kept, center)
    limit_m = max(_STRAY_M, _STRAY_TIMES_P90 * float(np.percentile(distance_m, 90, method="lower")))
    far = distance_m > limit_m
    if not far.any() or far.all():
        return
    reach_m = distance_m[~far].max()
    exchanged_m = great_circle_m(kept[:, ::-1], center)
    swapped = far & (np.abs(kept[:, 1]) <= 90.0) & (exchanged_m <= reach_m)
    for i, stray_m in zip(positions[swapped].tolist(), distance_m[swapped].tolist(), strict=True):
        reasons[i] = (
            f"({points[i, 0]:.12g}, {points[i, 1]:.12g}) lies {stray_m / 1000:.0f} km from the center of the table "
            "and would lie among the other rows if exchanged; latitude and longitude look swapped"
        )


def _name(rows, position: int) -> str:
    return str(position if rows is None else rows[position])


def _prefix(source: str) -> str:
    return f"{source}: " if source else ""


def frame_distance(a, b, frame: str = "wgs84"):
    """Distances (...) between points: meters along the great circle, or Euclidean in data units.

    Args:
        a, b: (..., 2), broadcast, both numpy or both torch (dtype and gradient are kept; it is zero at distance
            zero).
        frame: `"wgs84"` or `"planar"`.

    >>> float(frame_distance([180000.0, 3.0], [180003.0, 7.0], "planar"))
    5.0
    """
    if check_frame(frame) == "wgs84":
        return great_circle_m(a, b, EARTH_RADIUS_M)
    xp = namespace(a, b)
    a, b = as_pairs(a, "a"), as_pairs(b, "b")
    return guarded_sqrt(xp, ((a - b) ** 2).sum(-1))[()]


def frame_mean(points, weights=None, frame: str = "wgs84"):
    """Means (..., 2) of points: on the sphere, or of the columns, in the inputs' dtype.

    Args:
        points, weights: (..., n, 2) and (..., n), numpy or torch, as in `spherical_mean`, which also says what is
            refused.
        frame: `"wgs84"` or `"planar"`.

    >>> frame_mean([[0.0, 0.0], [400.0, 800.0]], [1, 3], "planar")
    array([300., 600.])
    """
    if check_frame(frame) == "wgs84":
        return spherical_mean(points, weights)
    dtype = as_floats(points).dtype
    points, weights = mean_weights(points, weights)
    return cast_like(weighted_sum(weights, points), dtype)
