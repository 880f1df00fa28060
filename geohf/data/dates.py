"""Dates, months and quarters in text, as decimal years."""

from __future__ import annotations

import re
from calendar import isleap
from collections.abc import Callable
from datetime import date, datetime

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_ENDS = ["uary", "ruary", "ch", "il", "", "e", "y", "ust", "tember", "ober", "ember", "ember"]
_NAMED = rf"(?P<month>{'|'.join(f'{m}(?:{end})?' for m, end in zip(_MONTHS, _ENDS, strict=True))})(?![a-z])"
YEARS = range(1800, 2201)
YEAR_DAYS = 365.2425  # the mean of the Gregorian calendar
_EPOCH = datetime(1970, 1, 1)
_CLOCK = (
    r"(?:(?P<mark>[T_ -]?)(?P<h>\d\d)(?P<c>:?)(?P<m>\d\d)(?:(?P=c)(?P<s>\d\d)(?:\.\d+)?)?(?!\d)"
    r"(?P<zone>[+-]\d\d:?\d\d)?)?"
)


def matches(unit: str, label: str) -> list[tuple[float, re.Match]]:
    """The times of this unit in a label, as years, and where they stand."""
    for pattern, years_of in FORMS[unit]:
        times = [(years_of(match), match) for match in pattern.finditer(label)]
        times = [(years, match) for years, match in times if years is not None]
        if times:
            return times
    return []


def _date_years(year: int, month: int, day: int, clock: re.Match | None = None) -> float | None:
    if year not in YEARS:
        return None
    try:
        moment = datetime(year, month, day)
    except ValueError:
        return None
    return 1970 + ((moment - _EPOCH).days + (_day_share(clock) if clock else 0.0)) / YEAR_DAYS


def _day_share(clock: re.Match) -> float:
    """The time of day as a share of a day, in UTC; 0 where digits behind a date are none."""
    part = clock.groupdict()
    if part.get("h") is None or (not part["c"] and not part["s"] and part["mark"] != "T"):
        return 0.0
    hours, minutes, seconds = (int(part[name] or 0) for name in "hms")
    if hours > 23 or minutes > 59 or seconds > 60:
        return 0.0
    zone = (part["zone"] or "+0000").replace(":", "")
    offset = int(zone[0] + "1") * (60 * int(zone[1:3]) + int(zone[3:]))
    return (60 * hours + minutes - offset) / 1440 + seconds / 86400


def _date(match: re.Match) -> float | None:
    return _date_years(int(match["year"]), _month_number(match), int(match["day"]), match)


def _day_of_year(match: re.Match) -> float | None:
    year, number = int(match[1]), int(match[2])
    first = _date_years(year, 1, 1) if 1 <= number <= 365 + isleap(year) else None
    return None if first is None else first + (number - 1) / YEAR_DAYS


def _week(match: re.Match) -> float | None:
    try:
        monday = date.fromisocalendar(int(match[1]), int(match[2]), 1)
    except ValueError:
        return None
    return _date_years(monday.year, monday.month, monday.day)


def _month(match: re.Match) -> float | None:
    year, month = int(match["year"]), _month_number(match)
    return year + (month - 1) / 12 if year in YEARS and 1 <= month <= 12 else None


def _month_number(match: re.Match) -> int:
    name = match["month"].lower()[:3]
    return _MONTHS.index(name) + 1 if name in _MONTHS else int(name)


def _quarter(match: re.Match) -> float | None:
    return int(match["year"]) + (int(match["quarter"]) - 1) / 4


def _form(pattern: str, years_of: Callable[[re.Match], float | None]) -> tuple[re.Pattern, Callable]:
    """A pattern that stands for itself in a name, and what it says; None where it only looks like a time."""
    return re.compile(rf"(?<!\d){pattern}(?!\d)", re.IGNORECASE | re.ASCII), years_of


FORMS = {
    "dates": (
        _form(rf"(?P<year>\d{{4}})(?P<month>\d\d)(?P<day>\d\d){_CLOCK}", _date),
        _form(rf"(?P<year>\d{{4}})([-_./])(?P<month>\d\d?)\2(?P<day>\d\d?)(?!\d){_CLOCK}", _date),
        _form(rf"(?P<day>\d\d?)[-_. ]?{_NAMED}[-_. ]?(?P<year>\d{{4}})", _date),
        _form(r"(\d{4})(\d{3})", _day_of_year),
        _form(r"(\d{4})-?W(\d\d)", _week),
    ),
    "months": (
        _form(r"(?P<year>\d{4})([-_./ ]?)(?P<month>\d\d)(?!\2\d)", _month),
        _form(r"(?<!\d[-_./])(?P<month>\d\d)[-_./](?P<year>\d{4})", _month),
        _form(rf"(?P<year>\d{{4}})[-_. ]?{_NAMED}", _month),
        _form(rf"(?<![a-z]){_NAMED}[-_. ]?(?P<year>\d{{4}})", _month),
    ),
    "quarters": (
        _form(r"(?P<year>\d{4})[-_ ]?Q(?P<quarter>[1-4])", _quarter),
        _form(r"Q(?P<quarter>[1-4])[-_ ]?(?P<year>\d{4})", _quarter),
    ),
}
