"""Angles in degrees: wrapped, and as people and cameras write them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

_PART = r"(\d+(?:\.\d+)?)"
# d, m and s are units in small letters alone: S is south
_ANGLE = re.compile(
    rf"([NSEW])?\s*([+-]?){_PART}\s*(?:deg|(?-i:d)|°|º|\s)?\s*(?:{_PART}\s*(?:['′’]|(?-i:m)|\s)?\s*)?"
    rf"(?:{_PART}\s*(?:\"|″|”|''|(?-i:s))?\s*)?([NSEW])?",
    re.IGNORECASE,
)


def wrap_degrees(degrees):
    """Longitudes, or differences of longitudes or of headings, in [-180, 180): a number, an array or a tensor, of its own type.

    >>> wrap_degrees(190.0), wrap_degrees(-541.0), wrap_degrees(180.0)
    (-170.0, 179.0, -180.0)
    """
    return (degrees + 180) % 360 - 180


def degrees_of(text: str, axis: str, side: str = "") -> float | None:
    """Degrees of an angle as text, or None where it is none of this axis, or does not say on which side it lies.

    Args:
        text: such as `48 deg 51' 24.00" N` of exiftool, `48°51'24"N`, `48.8567 N`.
        axis: `NS` or `EW`, the letters that count up and down.
        side: the letter that stands beside the angle, or a word that begins with it.

    >>> degrees_of("33 deg 51' 36.00\\" S", "NS"), degrees_of("151.5 E", "EW"), degrees_of("151.5 E", "NS")
    (-33.86, 151.5, None)
    """
    match = _ANGLE.fullmatch(str(text).strip())
    if not match:
        return None
    before, sign, *parts, behind = match.groups()
    letters = {letter.upper() for letter in (before, behind, side[:1]) if letter}
    if len(letters) > 1 or not letters <= {*axis} or not (letters or sign):
        return None
    down = axis[1] in letters
    if sign and letters and (sign == "-") != down:
        return None
    value = sexagesimal([float(part or 0) for part in parts])
    return None if value is None else -value if down or sign == "-" else value


def sexagesimal(parts: Sequence[float]) -> float | None:
    """Degrees of degrees, minutes and seconds, none below zero; None where they are no angle.

    Cameras write NaN (0/0) for seconds that they do not have, and for minutes where the degrees have decimals. What
    follows decimals must be 0: `33.86 18.42` is no angle, but a latitude and a longitude.

    >>> sexagesimal([48, 51.5, math.nan])
    48.858333333333334
    """
    degrees, minutes, seconds = [*parts, math.nan, math.nan][:3]
    if not math.isfinite(degrees) or (math.isnan(minutes) and degrees == int(degrees)):
        return None
    minutes, seconds = (0.0 if math.isnan(part) else part for part in (minutes, seconds))
    if not (degrees >= 0 and 0 <= minutes < 60 and 0 <= seconds <= 60):
        return None
    if (degrees % 1 and (minutes or seconds)) or (minutes % 1 and seconds):
        return None
    return degrees + minutes / 60 + seconds / 3600
