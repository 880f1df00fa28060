"""Universal Transverse Mercator to degrees: Krüger's series in the third flattening.

Formulas: L. Krüger, Konforme Abbildung des Erdellipsoids in der Ebene, 1912; the coefficients to the fourth order
after C. F. F. Karney, Transverse Mercator with an accuracy of a few nanometers, J. Geodesy 85 (2011), eq. 35 and 36.
"""

from __future__ import annotations

import re

import numpy as np

from geohf.errors import DataError

from ._arrays import as_numpy, check_pairs_of_numbers

_AXIS_M, _FLATTENING = 6378137.0, 1 / 298.257223563  # WGS 84
_SCALE, _FALSE_EAST_M, _FALSE_NORTH_M = 0.9996, 500_000.0, 10_000_000.0
_N = _FLATTENING / (2 - _FLATTENING)
_RECTIFYING_M = _AXIS_M / (1 + _N) * (1 + _N**2 / 4 + _N**4 / 64)
# From the rectifying to the conformal sphere, and back.
_BETA = (
    _N / 2 - 2 * _N**2 / 3 + 37 * _N**3 / 96 - _N**4 / 360,
    _N**2 / 48 + _N**3 / 15 - 437 * _N**4 / 1440,
    17 * _N**3 / 480 - 37 * _N**4 / 840,
    4397 * _N**4 / 161280,
)
_ALPHA = (
    _N / 2 - 2 * _N**2 / 3 + 5 * _N**3 / 16 + 41 * _N**4 / 180,
    13 * _N**2 / 48 - 3 * _N**3 / 5 + 557 * _N**4 / 1440,
    61 * _N**3 / 240 - 103 * _N**4 / 140,
    49561 * _N**4 / 161280,
)
_ECCENTRICITY = np.sqrt(_FLATTENING * (2 - _FLATTENING))
_BANDS = "CDEFGHJKLMNPQRSTUVWX"


def utm_zone(text: str) -> tuple[int, bool]:
    """The number of a zone, and whether it lies north of the equator.

    Args:
        text: a number with the letter of a latitude band as in MGRS (`"54S"` is Tokyo, north), a number and a
            hemisphere (`"54 north"`), or an EPSG code (`"EPSG:32654"`).

    Raises:
        DataError: no such zone, or a number alone, which does not say the hemisphere.

    >>> utm_zone("54S"), utm_zone("23 south"), utm_zone("EPSG:32652")
    ((54, True), (23, False), (52, True))
    """
    text = str(text).strip()
    code = re.fullmatch(r"(?i)(?:epsg:)?32([67])(\d\d)", text)
    words = re.fullmatch(r"(\d{1,2})(?:\.0)?\s*([A-Za-z]*)", text)
    if code:
        number, north = int(code[2]), code[1] == "6"
    elif words and words[2]:
        number, name = int(words[1]), words[2].upper()
        if name in ("NORTH", "SOUTH"):
            north = name == "NORTH"
        elif len(name) == 1 and name in _BANDS:
            north = name >= "N"
        else:
            raise DataError(f"{words[2]!r} in the UTM zone {text!r} is no latitude band and no hemisphere")
    else:
        raise DataError(
            f"the UTM zone {text!r} needs a number and a hemisphere: '54 north', '54S' with the letter of a "
            "latitude band, or 'EPSG:32654'"
        )
    if not 1 <= number <= 60:
        raise DataError(f"there is no UTM zone {number}; they go from 1 to 60")
    return number, north


def points_from_utm(east_north, zone: str) -> np.ndarray:
    """Latitude and longitude in degrees of UTM coordinates, right to a micrometre within a zone and around it.

    Args:
        east_north: (n, 2) easting and northing in metres.
        zone: see :func:`utm_zone`.

    Returns:
        (n, 2) degrees on WGS 84; NaN where a coordinate is.

    Raises:
        DataError: an unknown zone.
        ValueError: a shape that is not (n, 2).

    >>> points_from_utm([[500000.0, 0.0]], "31 north").tolist()
    [[0.0, 3.0]]
    """
    number, north = utm_zone(zone)
    east_north = as_numpy(east_north, "east_north")
    check_pairs_of_numbers(east_north, "east_north", ndim=2)
    east, north_m = east_north.T
    xi = (north_m - (0.0 if north else _FALSE_NORTH_M)) / (_SCALE * _RECTIFYING_M)
    eta = (east - _FALSE_EAST_M) / (_SCALE * _RECTIFYING_M)
    turns = [2 * (k + 1) for k in range(4)]
    xi_, eta_ = xi.copy(), eta.copy()
    for beta, k in zip(_BETA, turns, strict=True):
        xi_ -= beta * np.sin(k * xi) * np.cosh(k * eta)
        eta_ -= beta * np.cos(k * xi) * np.sinh(k * eta)
    conformal = np.sin(xi_) / np.hypot(np.sinh(eta_), np.cos(xi_))  # tangent of the conformal latitude
    longitude = np.degrees(np.arctan2(np.sinh(eta_), np.cos(xi_))) + 6 * number - 183
    return np.stack([np.degrees(np.arctan(_geographic_tangent(conformal))), (longitude + 180) % 360 - 180], 1)


def utm_from_points(points, zone: str) -> np.ndarray:
    """Easting and northing in metres of (n, 2) degrees: the inverse of :func:`points_from_utm`.

    >>> utm_from_points([[0.0, 3.0]], "31 north").round(6).tolist()
    [[500000.0, 0.0]]
    """
    number, north = utm_zone(zone)
    points = as_numpy(points)
    check_pairs_of_numbers(points, ndim=2)
    away = np.radians((points[:, 1] - (6 * number - 183) + 180) % 360 - 180)
    conformal = _conformal_tangent(np.tan(np.radians(points[:, 0])))
    xi_ = np.arctan2(conformal, np.cos(away))
    eta_ = np.arcsinh(np.sin(away) / np.hypot(conformal, np.cos(away)))
    xi, eta = xi_.copy(), eta_.copy()
    for number_, alpha in enumerate(_ALPHA):
        k = 2 * (number_ + 1)
        xi += alpha * np.sin(k * xi_) * np.cosh(k * eta_)
        eta += alpha * np.cos(k * xi_) * np.sinh(k * eta_)
    scale = _SCALE * _RECTIFYING_M
    return np.stack([_FALSE_EAST_M + scale * eta, scale * xi + (0.0 if north else _FALSE_NORTH_M)], 1)


def _conformal_tangent(tangent):
    """Tangent of the conformal latitude from that of the geographic one (Karney, eq. 7 to 9)."""
    sigma = np.sinh(_ECCENTRICITY * np.arctanh(_ECCENTRICITY * tangent / np.hypot(1.0, tangent)))
    return tangent * np.hypot(1.0, sigma) - sigma * np.hypot(1.0, tangent)


def _geographic_tangent(conformal):
    """The inverse of `_conformal_tangent` by Newton's method (Karney, eq. 19 to 21), which needs three steps."""
    square = 1 - _ECCENTRICITY**2
    tangent = conformal / square
    for _ in range(4):
        found = _conformal_tangent(tangent)
        slope = square * np.hypot(1.0, found) * np.hypot(1.0, tangent) / (1 + square * tangent**2)
        tangent = tangent + (conformal - found) / slope
    return tangent
