"""Positions in file names, as VPR-datasets-downloader and GSV-Cities write them.

`City_0000001_2015_02_120_latitude_longitude_panoid.JPG`: place, year, month, degrees from north, degrees. And
`@utm_east@utm_north@zone_number@zone_letter@latitude@longitude@pano_id@tile@heading@pitch@...@.jpg`; any field but
the first two may be empty, and what stands behind them may be left off.
"""

from __future__ import annotations

import math
import re

import numpy as np

from geohf.errors import DataError
from geohf.geo import EARTH_RADIUS_M
from geohf.geo.utm import points_and_reasons, side_of, zone_with

PLANAR = "planar"  # instead of a UTM zone: meters that lie nowhere on earth, as AmsterTime's and Nordland's
_PLANAR_NORTH_M, _PLANAR_EAST_M = 50_000, 10_000_000  # farther from the equator east is no longer to scale
_DEGREES = r"(-?\d+\.\d+)"
_GSV_CITIES = re.compile(rf".+?_\d{{5,}}_\d{{4}}_\d{{2}}_(-?\d+)_{_DEGREES}_{_DEGREES}_.+")


def point_of_name(name: str, utm: str | None = None) -> tuple[float, float, float] | None:
    """Latitude, longitude and heading in degrees that a file name carries, NaN where the heading is not there; None: none.

    Args:
        utm: the zone where the name has none and no latitude and longitude either, or the hemisphere of a zone that
            is a number alone; `planar` puts meters that are none of UTM on a sphere, along its equator.

    Raises:
        DataError: fields that are no numbers, or no zone.

    >>> point_of_name("Melbourne_0000001_2015_02_120_-37.81361_0144.96305_CAoSLEFGMVFpcE.JPG"), point_of_name("a.jpg")
    ((-37.81361, 144.96305, 120.0), None)
    >>> latitude, longitude, heading = point_of_name("@0448251.80@5411932.68@31@U@@@pano@@90.0@@@@2013@@.jpg")
    >>> round(latitude, 4), round(longitude, 4), heading
    (48.8582, 2.2945, 90.0)
    """
    city = _GSV_CITIES.fullmatch(name)
    if city:
        heading, latitude, longitude = map(float, city.groups())
        return latitude, longitude, heading % 360
    if not name.startswith("@"):
        return None
    fields = [*name.rpartition(".")[0].split("@")[1:], *[""] * 9][:9]
    east, north, latitude, longitude, heading = (_number(name, fields[i]) for i in (0, 1, 4, 5, 8))
    if not (math.isnan(latitude) or math.isnan(longitude)):
        return latitude, longitude, heading
    if math.isnan(east) or math.isnan(north):
        raise DataError(f"the name {name!r} must begin with @easting@northing@ in meters")
    side = side_of(None if utm == PLANAR else utm)
    zone = zone_with(fields[2], fields[3] or side) if fields[2] else utm
    if zone is None:
        raise DataError(f"the name {name!r} has no UTM zone; say which with --utm '54 north'")
    points, reasons = points_in(zone, np.array([[east, north]]))
    if reasons:
        raise DataError(f"the name {name!r}: {reasons[0]}")
    return *points[0].tolist(), heading


def points_in(zone: str, east_north: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
    """`points_and_reasons` of a UTM zone, or of a plane on a sphere's equator, where great circles are as long as its lines."""
    if zone != PLANAR:
        return points_and_reasons(east_north, zone)
    east, north = east_north.T
    far = (np.abs(north) > _PLANAR_NORTH_M) | (np.abs(east) > _PLANAR_EAST_M)
    reason = "has no UTM zone, and its meters are none of a plane; say which with --utm '54 north'"
    # a quarter around the earth: (0, 0) would stand for a position that is not known
    points = np.degrees(np.stack([north, east], 1) / EARTH_RADIUS_M) + np.array([0.0, 90.0])
    points[far] = math.nan
    return points, dict.fromkeys(np.flatnonzero(far).tolist(), reason)


def _number(name: str, field: str) -> float:
    try:
        return float(field) if field.strip() else math.nan
    except ValueError:
        raise DataError(f"{field!r} in the name {name!r} is not a number") from None
