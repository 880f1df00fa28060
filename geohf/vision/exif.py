"""Where and which way a photograph was taken, from its EXIF tags (CIPA DC-008, GPS attribute information)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image, UnidentifiedImageError


class ExifPosition(NamedTuple):
    """Latitude and longitude in degrees (WGS 84), heading in degrees clockwise from north or NaN."""

    latitude: float
    longitude: float
    heading: float


def exif_position(path: str | Path) -> ExifPosition | None:
    """The position that a photograph carries, or None where it carries none that can be read."""
    try:
        with Image.open(path) as image:
            gps = image.getexif().get_ifd(ExifTags.IFD.GPSInfo)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    latitude = _degrees(gps, ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLatitudeRef, "S")
    longitude = _degrees(gps, ExifTags.GPS.GPSLongitude, ExifTags.GPS.GPSLongitudeRef, "W")
    if latitude is None or longitude is None or abs(latitude) > 90 or abs(longitude) > 180:
        return None
    if latitude == longitude == 0:
        return None  # cameras write zeros, or 0/0, in place of a position that they do not have
    try:
        heading = float(gps.get(ExifTags.GPS.GPSImgDirection, math.nan)) % 360
    except (TypeError, ValueError, ZeroDivisionError):
        heading = math.nan
    return ExifPosition(latitude, longitude, heading)


def _degrees(gps, tag, reference, negative) -> float | None:
    try:
        degrees, minutes, seconds = (float(part) for part in gps[tag])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    value = degrees + minutes / 60 + seconds / 3600
    mark = gps.get(reference, "")
    mark = mark.decode("ascii", "ignore") if isinstance(mark, bytes) else str(mark)
    value = -value if mark.strip("\0 ").upper() == negative else value
    return value if math.isfinite(value) else None
