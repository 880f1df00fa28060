"""Universal Transverse Mercator to degrees and back, with zones as people write them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from geohf.errors import DataError
from geohf.geo._arrays import as_rows, wrap_longitude
from geohf.geo.crs import transformed

if TYPE_CHECKING:
    from rasterio.crs import CRS

# in PROJ's own words, which need no database: a shell of conda or QGIS may name that of another version in PROJ_DATA
WGS84 = "+proj=longlat +datum=WGS84 +no_defs"

_FALSE_NORTH_M = 10_000_000.0
_BANDS = "CDEFGHJKLMNPQRSTUVWX"
# Whole countries lie in one zone: Norway reaches from -80 to 1,120 km in zone 33.
_EAST_M = (-1_000_000.0, 2_000_000.0)
_FARTHEST_DEG = 75.0  # from a zone's middle: at the equator PROJ refuses what is 82 degrees away, and all that is beside it
# zones of Patagonia and the Falklands, whose northings are those of the band S
_SOUTHERN_LAND = (18, 19, 20, 21)
# EPSG codes: the first, the last, the first one's zone, whether north
_CODES = (
    *((32601, 32660, 1, True), (32701, 32760, 1, False)),  # WGS 84
    (25828, 25838, 28, True),  # ETRS89
    (26901, 26923, 1, True),  # NAD83
    *((28348, 28358, 48, False), (7846, 7859, 46, False)),  # GDA94, GDA2020
    *((31965, 31976, 11, True), (31977, 31985, 17, False)),  # SIRGAS 2000
    *((3097, 3101, 51, True), (6688, 6692, 51, True)),  # JGD2000, JGD2011
)


# of the same, before the slash of a CRS's name
_DATUM = re.compile(r"(?i)(WGS ?84|ETRS89|NAD83|GDA(94|2020)|SIRGAS ?2000|JGD20(00|11)) ?(\(.*\))? ?/ ?")
_OTHER_DATUM = (
    "{} is no UTM zone on WGS 84 or a datum within two meters of it; convert the coordinates to latitude and "
    "longitude, or to EPSG:326xx or 327xx"
)


class _Zone(NamedTuple):
    number: int
    north: bool  # the hemisphere that the text says, of a letter that of its band
    letter: str  # of a latitude band, or empty


def utm_zone(text: str) -> tuple[int, bool]:
    """The number of a zone, and whether it lies north of the equator.

    Args:
        text: a number with the letter of a latitude band as in MGRS (`"54S"` is Tokyo, north), a number and a
            hemisphere (`"54 north"`), the name of a CRS (`"WGS 84 / UTM zone 54S"`, south), or an EPSG code of UTM
            (`"EPSG:32654"`, `"urn:ogc:def:crs:EPSG::25832"`) on WGS 84 or a datum within two meters of it: ETRS89,
            NAD83, GDA94, GDA2020, SIRGAS 2000, JGD2000, JGD2011.

    Raises:
        DataError: no such zone, a number alone, which does not say the hemisphere, or another datum.

    >>> utm_zone("54S"), utm_zone("23 south"), utm_zone("EPSG:32652")
    ((54, True), (23, False), (52, True))
    """
    return _zone(text)[:2]


def zone_with(zone: str, side: str) -> str:
    """A zone that is a number alone, with a letter or a hemisphere; any other as it is.

    >>> zone_with("55.0", "H"), zone_with("55H", "north")
    ('55 H', '55H')
    """
    number = re.fullmatch(r"\s*(\d{1,2})(?:\.0)?\s*", str(zone))
    return f"{number[1]} {side.strip()}".strip() if number else str(zone)


def side_of(zone: str | None) -> str:
    """The hemisphere that a zone, or a word alone, says; empty where it says none.

    >>> side_of("54 south"), side_of("north"), side_of(None)
    ('south', 'north', '')
    """
    if zone is None or str(zone).strip().lower() in ("north", "south"):
        return (zone or "").strip().lower()
    return "north" if _zone(zone).north else "south"


@lru_cache(maxsize=256)
def _zone(text: str) -> _Zone:
    text = str(text).strip()
    code = re.fullmatch(r"(?i)(?:.*epsg[:/]+(?:[\d.]*[:/])?)?(\d{4,5})", text)
    if code:
        for first, last, zone, north in _CODES:
            if first <= int(code[1]) <= last:
                return _Zone(zone + int(code[1]) - first, north, "")
        raise DataError(_OTHER_DATUM.format(f"EPSG:{int(code[1])}"))
    words = re.fullmatch(r"(?i)(.*/\s*)?(?:utm\s*)?(zone\s*)?(\d{1,2})(?:\.0)?\s*([a-z]*)", text)
    if not words or not words[4]:
        raise DataError(
            f"the UTM zone {text!r} needs a number and a hemisphere: '54 north', '54S' with the letter of a "
            "latitude band, or 'EPSG:32654'"
        )
    if words[1] and not _DATUM.fullmatch(words[1]):
        raise DataError(_OTHER_DATUM.format(repr(text)))
    number, name, is_name_of_crs = int(words[3]), words[4].upper(), bool(words[1] and words[2])
    if not 1 <= number <= 60:
        raise DataError(f"there is no UTM zone {number}; they go from 1 to 60")
    if name in ("NORTH", "SOUTH") or (is_name_of_crs and name in ("N", "S")):
        return _Zone(number, name[0] == "N", "")
    if len(name) != 1 or name not in _BANDS:
        raise DataError(f"{words[4]!r} in the UTM zone {text!r} is no latitude band and no hemisphere")
    return _Zone(number, name >= "N", name)


def points_and_reasons(east_north, zone: str) -> tuple[np.ndarray, dict[int, str]]:
    """Latitude and longitude in degrees of UTM coordinates, right to a micrometer within a zone and around it.

    The band S (32 to 40 north) is also written for "south": the northing says which, but for zones 18 to 21, where
    both are land. Every other letter must agree with the latitude to a degree; N stands for "north", too.

    Args:
        east_north: (n, 2) easting and northing in meters. A northing below zero counts from the equator.
        zone: see `utm_zone`; a letter is held against each northing.

    Returns:
        (n, 2) degrees on WGS 84, NaN where a coordinate is or where the row cannot lie in the zone; and position ->
        why it cannot.

    Raises:
        DataError: an unknown zone.
        ValueError: a shape that is not (n, 2).

    >>> points_and_reasons([[500000.0, 0.0]], "31 north")[0].round(9).tolist()
    [[0.0, 3.0]]
    """
    number, north, letter = _zone(zone)
    east_north = as_rows(east_north, "east_north")
    east, northing = east_north.T
    from_equator = np.where(northing < 0, northing, northing - (0.0 if north else _FALSE_NORTH_M))
    points = _degrees(east, from_equator, number)
    reasons: dict[int, str] = {}
    finite = np.isfinite(east_north).all(1)

    def note(rows, reason: str) -> None:
        for row in np.flatnonzero(finite & rows).tolist():
            if row not in reasons:
                reasons[row] = reason.format(f"({east[row]:.12g}, {northing[row]:.12g})")

    with np.errstate(invalid="ignore"):
        note(
            (np.abs(east_north) <= (1_000, 10_000)).all(1),
            "{} is no UTM easting and northing in meters; it looks like degrees or kilometers",
        )
        note(
            (east < _EAST_M[0]) | (east > _EAST_M[1]) | (np.abs(northing) > _FALSE_NORTH_M),
            f"{{}} is no UTM easting and northing: they lie between {_EAST_M[0]:,.0f} and {_EAST_M[1]:,.0f} m, and "
            f"{-_FALSE_NORTH_M:,.0f} and {_FALSE_NORTH_M:,.0f} m",
        )
        if letter == "S":
            band = _near_band(points[:, 0], letter)
            note(
                band & np.isin(number, _SOUTHERN_LAND),
                f"the zone {number}S of {{}} can be the band S of the north, or south; write '{number} north' or "
                f"'{number} south'",
            )
            south = _degrees(east, np.where(northing < 0, northing, northing - _FALSE_NORTH_M), number)
            points[~band] = south[~band]
        elif letter and letter != "N":
            low, high = _limits(letter)
            sides = f"{abs(low)} to {abs(high)} degrees {'north' if north else 'south'}"
            note(
                ~_near_band(points[:, 0], letter),
                f"{{}} does not lie in the latitude band {letter}, {sides}; write '{number} north' or '{number} south'",
            )
    points[list(reasons)] = np.nan
    return points, reasons


def _limits(letter: str) -> tuple[int, int]:
    south = 8 * _BANDS.index(letter) - 80
    return south, south + (12 if letter == "X" else 8)


def _near_band(latitude: np.ndarray, letter: str) -> np.ndarray:
    """A drive over the edge of a band may carry the letter where it began."""
    south, north = _limits(letter)
    return (latitude >= south - 1.0) & (latitude <= north + 1.0)


@lru_cache(maxsize=64)
def _projection(number: int) -> CRS:
    """A zone whose northings count from the equator, on either side of it."""
    from rasterio.crs import CRS

    return CRS.from_string(f"+proj=utm +zone={number} +datum=WGS84 +units=m +no_defs")


def _degrees(east: np.ndarray, from_equator: np.ndarray, number: int) -> np.ndarray:
    """(n, 2) latitude and longitude; NaN of what is no easting and northing."""
    points, meters = np.full((len(east), 2), np.nan), np.stack([east, from_equator], 1)
    with np.errstate(invalid="ignore"):
        possible = (_EAST_M[0] <= east) & (east <= _EAST_M[1]) & (np.abs(from_equator) <= _FALSE_NORTH_M)
    longitude, latitude = transformed(_projection(number), WGS84, meters[possible]).T
    points[possible] = np.stack([latitude, wrap_longitude(np, longitude)], 1)
    return points


def utm_from_points(points, zone: str) -> np.ndarray:
    """Easting and northing in meters of (n, 2) degrees: the inverse of `points_and_reasons`.

    NaN of what is no position, or farther than 75 degrees of longitude from the zone's middle.

    >>> utm_from_points([[0.0, 3.0]], "31 north").round(6).tolist()
    [[500000.0, 0.0]]
    """
    number, north = utm_zone(zone)
    points = as_rows(points)
    away = np.abs(wrap_longitude(np, points[:, 1] - (6 * number - 183)))
    possible = np.isfinite(points).all(1) & (np.abs(points[:, 0]) <= 90) & (away <= _FARTHEST_DEG)
    meters = np.full(points.shape, np.nan)
    meters[possible] = transformed(WGS84, _projection(number), points[possible, ::-1])
    return meters + np.array([0.0, 0.0 if north else _FALSE_NORTH_M])
