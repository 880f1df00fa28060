"""Where and which way a photograph was taken, from its EXIF tags (CIPA DC-008, GPS attribute information)."""

from __future__ import annotations

import logging
import math
import re
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image, UnidentifiedImageError

from geohf.errors import DataError, warn_once
from geohf.geo.angles import sexagesimal
from geohf.geo.frames import is_no_fix
from geohf.vision.images import heif_picture

logger = logging.getLogger(__name__)
# WGS-84, WGS 1984, EPSG:4326 and what geodesy has within meters of it; what says nothing says nothing else
_WGS84 = re.compile(
    r"(.*wgs[-_ ]?(19)?84.*|world geodetic system.*84.*|epsg:? ?4326"
    r"|(itrf|igs|etrs|gda|nad[-_ ]?83|jgd|cgcs|sirgas|kgd[-_ ]?2002|nzgd[-_ ]?2000|pz[-_ ]?90).*"
    r"|unknown|undefined|none|null|n/?a|[-0? ]+)?",
    re.IGNORECASE | re.DOTALL,
)


class ExifPosition(NamedTuple):
    """Latitude and longitude in degrees (WGS 84), heading in degrees clockwise from north or NaN."""

    latitude: float
    longitude: float
    heading: float


def exif_position(path: str | Path | BytesIO) -> ExifPosition | None:
    """The position that a photograph carries, or None where it carries none that can be read.

    Raises:
        DataError: it is of another datum than WGS 84, such as TOKYO, whose numbers lie hundreds of meters off.
    """
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
    datum = _text(gps, ExifTags.GPS.GPSMapDatum)
    if not _WGS84.fullmatch(datum):
        raise DataError(f"its EXIF gives a position of the datum {datum!r}: write it in degrees of WGS 84")
    if _text(gps, ExifTags.GPS.GPSStatus)[:1].upper() == "V":
        warn_once(
            logger,
            "photographs say (GPSStatus V) that their receiver had lost the satellites: such positions may be old",
        )
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
    mark = _text(gps, reference).upper()[:1]  # some write the whole word
    return None if mark not in signs or not mark else (-value if mark == signs[1] else value)


def _text(gps, tag) -> str:
    value = gps.get(tag, "")
    return (value.decode("ascii", "ignore") if isinstance(value, bytes) else str(value)).strip("\0 ")


def _number(part) -> float:
    try:
        return float(part)
    except ZeroDivisionError:  # 0/0 stands for a part that the camera does not have
        return math.nan
