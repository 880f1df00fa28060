"""Where and which way a photograph was taken, from its EXIF tags (CIPA DC-008, GPS attribute information)."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image, UnidentifiedImageError

from geohf.geo.angles import sexagesimal
from geohf.geo.frames import is_no_fix
from geohf.vision.images import heif_picture


class ExifPosition(NamedTuple):
    """Latitude and longitude in degrees (WGS 84), heading in degrees clockwise from north or NaN."""

    latitude: float
    longitude: float
    heading: float


def exif_position(path: str | Path | BytesIO) -> ExifPosition | None:
    """The position that a photograph carries, or None where it carries none that can be read."""
    try:
        gps = _gps_tags(path)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    latitude = _degrees(gps, ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLatitudeRef, "NS")
    longitude = _degrees(gps, ExifTags.GPS.GPSLongitude, ExifTags.GPS.GPSLongitudeRef, "EW")
    if latitude is None or longitude is None or abs(latitude) > 90 or abs(longitude) > 180:
        return None
    if is_no_fix(latitude, longitude):
        return None
    try:
        heading = float(gps.get(ExifTags.GPS.GPSImgDirection, math.nan)) % 360
    except (TypeError, ValueError, ZeroDivisionError):
        heading = math.nan
    return ExifPosition(latitude, longitude, heading)


def _gps_tags(path: str | Path | BytesIO) -> dict:
    try:
        with Image.open(path) as image:
            return image.getexif().get_ifd(ExifTags.IFD.GPSInfo)
    except UnidentifiedImageError:
        return heif_picture(path, str(path)).getexif().get_ifd(ExifTags.IFD.GPSInfo)


def _degrees(gps, tag, reference, signs: str) -> float | None:
    """Degrees, negative in the hemisphere of the second sign; None where the tags do not say which: there is no default."""
    try:
        degrees, minutes, seconds = (_number(part) for part in gps[tag])
    except (KeyError, TypeError, ValueError):
        return None
    value = sexagesimal([degrees, minutes, seconds])
    if value is None:
        return None
    mark = gps.get(reference, "")
    mark = mark.decode("ascii", "ignore") if isinstance(mark, bytes) else str(mark)
    mark = mark.strip("\0 ").upper()[:1]  # some write the whole word
    return None if mark not in signs or not mark else (-value if mark == signs[1] else value)


def _number(part) -> float:
    try:
        return float(part)
    except ZeroDivisionError:  # 0/0 stands for a part that the camera does not have
        return math.nan
