"""Positions in file names, as VPR-datasets-downloader writes them.

`@utm_east@utm_north@zone_number@zone_letter@latitude@longitude@pano_id@tile@heading@pitch@...@.jpg`; any field but
the first two may be empty, and what stands behind them may be left off.
"""

from __future__ import annotations

import math

import numpy as np

from geohf.errors import DataError
from geohf.geo.utm import points_from_utm


def point_of_name(name: str, utm: str | None = None) -> tuple[float, float, float]:
    """Latitude, longitude and heading in degrees that a file name carries; the heading is NaN where it is not there.

    Args:
        name: begins with `@`.
        utm: the zone where the name has none and no latitude and longitude either.

    Raises:
        DataError: fields that are no numbers, or no zone.

    >>> latitude, longitude, heading = point_of_name("@0448251.80@5411932.68@31@U@@@pano@@90.0@@@@2013@@.jpg")
    >>> round(latitude, 4), round(longitude, 4), heading
    (48.8582, 2.2945, 90.0)
    """
    fields = [*name.rpartition(".")[0].split("@")[1:], *[""] * 9][:9]
    east, north, latitude, longitude, heading = (_number(name, fields[i]) for i in (0, 1, 4, 5, 8))
    if not (math.isnan(latitude) or math.isnan(longitude)):
        return latitude, longitude, heading
    if math.isnan(east) or math.isnan(north):
        raise DataError(f"the name {name!r} must begin with @easting@northing@ in metres")
    zone = fields[2] + fields[3] if fields[2] else utm
    if zone is None:
        raise DataError(f"the name {name!r} has no UTM zone; say which with --utm '54 north'")
    point = points_from_utm(np.array([[east, north]]), zone)[0]
    return float(point[0]), float(point[1]), heading


def _number(name: str, field: str) -> float:
    try:
        return float(field) if field.strip() else math.nan
    except ValueError:
        raise DataError(f"{field!r} in the name {name!r} is not a number") from None
