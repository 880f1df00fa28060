"""Times as people write them: labels of the steps of a sequence, and the moments at which photographs were taken."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

import numpy as np

from geohf.data.tables import text_of
from geohf.errors import DataError
from geohf.io import natural_key

logger = logging.getLogger(__name__)

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_NAMED = rf"(?P<month>{'|'.join(_MONTHS)})[a-z]*"
_YEARS = range(1800, 2201)
_LONG = 100_000  # plain numbers from here on may be dates in a form that is not known
_EPOCH, _YEAR_DAYS = datetime(1970, 1, 1), 365.2425
_CLOCK = (
    r"(?:(?P<mark>[T_ -]?)(?P<h>\d\d)(?P<c>:?)(?P<m>\d\d)(?:(?P=c)(?P<s>\d\d)(?:\.\d+)?)?(?!\d)"
    r"(?P<zone>[+-]\d\d:?\d\d)?)?"
)
_DAY_FIRST = re.compile(r"(?<!\d)\d{1,2}([-_./]?)\d{1,2}\1(19|20)\d\d(?!\d)")
_DIGITS = r"\d+(?:\.\d+)?"


class StepTimes(NamedTuple):
    """When the steps of a sequence are.

    times: (n,) float64, ascending: years, or what the labels count.
    unit: `dates`, `months`, `quarters`, `years` or `numbers`; `equal steps` where the labels tell no time.
    """

    times: np.ndarray
    unit: str


def order_labels(labels: Sequence[str]) -> list[str]:
    """Labels that were found, oldest first: dates and months by time, numbers as numbers, else in natural order.

    >>> order_labels(["t10", "t9", "t1"]), order_labels(["2020-01", "2019-11"])
    (['t1', 't9', 't10'], ['2019-11', '2020-01'])

    Raises:
        DataError: see `step_times`.
    """
    found = _read(labels)
    if found is None:
        return sorted(labels, key=natural_key)
    return [labels[i] for i in np.argsort(found.times, kind="stable")]


def step_times(labels: Sequence[str]) -> StepTimes:
    """When the steps are that these labels name, oldest first; a warning where the labels do not tell.

    Read are years, months (201907, 2019-07, Jul 2019), quarters (2019Q3), dates (20190701, 2019-07-01, 2019182,
    2019-W27, 1 Jul 2019), perhaps with a time of day, and plain numbers, alone or inside names that are alike but
    for them (`t1` ... `t12`, `town.1989`).

    Raises:
        DataError: they do not ascend, two are the same time, or they are of several forms.

    >>> step_times(["1985", "1990", "2000"]).times.tolist()
    [1985.0, 1990.0, 2000.0]
    >>> (12 * np.diff(step_times(["201507", "201603"]).times)).round(9).item()
    8.0
    """
    found = _read(labels)
    shown = shorten(labels)
    if found is None:
        logger.warning(
            "the labels %s tell no time: they are taken in this order, as equal steps apart; say the order with "
            "--labels, and name them by years, months or dates if they are not equally far apart",
            shown,
        )
        return StepTimes(np.arange(len(labels), dtype=np.float64), "equal steps")
    falls = np.flatnonzero(np.diff(found.times) < 0)
    if len(falls):
        i = int(falls[0])
        raise DataError(
            f"the labels {shown} do not ascend: {labels[i + 1]} is before {labels[i]}; give the oldest first"
        )
    if found.unit == "numbers" and np.abs(found.times).max() >= _LONG:
        logger.warning("the labels %s count as plain numbers; write dates as 2019-07-31 or 20190731", shown)
    return found


def step_key(label: str) -> Any:
    """What two spellings of one step have in common: `1` and `01`, `201907` and `2019-07`."""
    for unit in _FORMS:
        for years, match in _matches(unit, label):
            if match[0] == label:
                return unit, years
    return float(label) if re.fullmatch(rf"[+-]?{_DIGITS}", label) else label


def shorten(labels: Sequence[str]) -> str:
    """Up to eight labels in a line, for messages."""
    labels = list(map(str, labels))
    return ", ".join(labels if len(labels) <= 8 else [*labels[:6], "...", labels[-1]])


def _read(labels: Sequence[str]) -> StepTimes | None:
    """The times of labels in any order; None where they tell none."""
    if not len(labels):
        return None
    for unit in _FORMS:
        found = [_matches(unit, label) for label in labels]
        if all(found):
            times = _varying(found)
            rest = [label.replace(match[0], "", 1) for label, (_, match) in zip(labels, times, strict=True)]
            return _distinct(labels, [time for time, _ in times], rest, unit)
    _refuse_mixed(labels)
    numbers = _numbers(labels)
    if numbers is None and all(_DAY_FIRST.search(label) for label in labels):
        raise DataError(f"the labels {shorten(labels)} begin with the day; write 2019-07-31 or 20190731")
    if numbers is None:
        return None
    years = all(number in _YEARS for number in numbers)
    return _distinct(labels, numbers, [""] * len(labels), "years" if years else "numbers")


def _varying(found: list[list]) -> list:
    """Of several times in every name the first that differs between names."""
    columns = list(zip(*found, strict=False))
    return next((column for column in columns if len({time for time, _ in column}) > 1), columns[0])


def _distinct(labels, times, rest, unit: str) -> StepTimes | None:
    seen: dict = {}
    for label, key in zip(labels, zip(times, rest, strict=True), strict=True):
        if key in seen:
            raise DataError(f"the labels {seen[key]!r} and {label!r} are the same step; keep one")
        seen[key] = label
    if len(set(times)) < len(times):  # names that tell more than a time, such as 2019_dry, 2019_wet
        return None
    return StepTimes(np.array(times, np.float64), unit)


def _refuse_mixed(labels: Sequence[str]) -> None:
    """No form reads all labels; those that one reads must not stand beside years, nor beside dates that do not exist."""
    units = [next((unit for unit in _FORMS if _matches(unit, label)), None) for label in labels]
    dated = {re.sub("[0-9]", "0", label): unit for label, unit in zip(labels, units, strict=True) if unit}
    if not dated:
        return
    for i, label in enumerate(labels):
        shape = re.sub("[0-9]", "0", label)
        if units[i] is None and shape in dated:
            raise DataError(f"the label {label!r} is none of the {dated[shape]} that the others are")
        numbers = re.findall("[0-9]+", label)
        if units[i] is None and len(numbers) == 1 and len(numbers[0]) == 4 and int(numbers[0]) in _YEARS:
            units[i] = "years"
    if None not in units:
        kinds = dict(zip(units, labels, strict=True))
        listed = " and ".join(f"{unit} ({label})" for unit, label in kinds.items())
        raise DataError(f"the labels mix {listed}; write them all in one form")


def _numbers(labels: Sequence[str]) -> list[float] | None:
    """The numbers that labels are, or the one that differs in names that are else alike."""
    if all(re.fullmatch(rf"[+-]?{_DIGITS}", label) for label in labels):
        compact = all(re.fullmatch(r"\d{8}", label) and _DAY_FIRST.fullmatch(label) for label in labels)
        return None if compact else [float(label) for label in labels]
    words = [re.split(f"({_DIGITS})", label.lower()) for label in labels]
    if len({tuple(word[::2]) for word in words}) > 1 or len(words[0]) < 3:
        return None
    columns = np.array([[float(number) for number in word[1::2]] for word in words])
    columns = columns[:, (columns != columns[0]).any(0)] if len(labels) > 1 else columns[:, :1]
    # 2018-2019, 2019-2020: two numbers that go together are one
    if not columns.shape[1] or (np.diff(columns - columns[:, :1], axis=0) != 0).any():
        return None
    return columns[:, 0].tolist()


def _matches(unit: str, label: str) -> list[tuple[float, re.Match]]:
    """The times of this unit in a label, as years, and where they stand."""
    for pattern, years_of in _FORMS[unit]:
        found = [(years_of(match), match) for match in pattern.finditer(label)]
        found = [(years, match) for years, match in found if years is not None]
        if found:
            return found
    return []


def _date_years(year: int, month: int, day: int, clock: re.Match | None = None) -> float | None:
    if year not in _YEARS:
        return None
    try:
        moment = datetime(year, month, day)
    except ValueError:
        return None
    return 1970 + ((moment - _EPOCH).days + (_day_share(clock) if clock else 0.0)) / _YEAR_DAYS


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
    first = _date_years(year, 1, 1)
    return None if first is None or not 1 <= number <= 366 else first + (number - 1) / _YEAR_DAYS


def _week(match: re.Match) -> float | None:
    try:
        monday = date.fromisocalendar(int(match[1]), int(match[2]), 1)
    except ValueError:
        return None
    return _date_years(monday.year, monday.month, monday.day)


def _month(match: re.Match) -> float | None:
    year, month = int(match["year"]), _month_number(match)
    return year + (month - 1) / 12 if year in _YEARS and 1 <= month <= 12 else None


def _month_number(match: re.Match) -> int:
    name = match["month"].lower()
    return _MONTHS.index(name) + 1 if name in _MONTHS else int(name)


def _quarter(match: re.Match) -> float | None:
    return int(match["year"]) + (int(match["quarter"]) - 1) / 4


def _form(pattern: str, years_of: Callable[[re.Match], float | None]) -> tuple[re.Pattern, Callable]:
    """A pattern that stands for itself in a name, and what it says; None where it only looks like a time."""
    return re.compile(rf"(?<!\d){pattern}(?!\d)", re.IGNORECASE | re.ASCII), years_of


_FORMS = {
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


# ---- photographs

_UNITS = {
    "seconds": 9,
    "milliseconds": 6,
    "microseconds": 3,
    "nanoseconds": 0,
}  # powers of ten to nanoseconds
_SINCE_S, _UNTIL_S = 946_684_800, 4_102_444_800  # 2000 to 2100
_EMPTY = ("", "nan", "nat", "none", "null", "na", "<na>")
_MOMENT = re.compile(r"(\d{4})[-:/](\d\d)[-:/](\d\d)([T ]\d\d:?\d\d.*)")


def time_ns(cell: Any) -> int | None:
    """A cell's time in nanoseconds since 1970; None for an empty one.

    Args:
        cell: a number in seconds, milliseconds, microseconds or nanoseconds, which its size tells for the years 2000
            to 2099, as text or float too; or a date with a time of day, in UTC where it names no zone.

    Raises:
        DataError: it is neither.

    >>> time_ns("1641321200.5") == time_ns(1641321200500) == time_ns("2022-01-04T18:33:20.5") == 1641321200500000000
    True
    """
    text = text_of(cell)
    if text is None or text.lower() in _EMPTY:
        return None
    match = _MOMENT.fullmatch(text)
    if match is not None:
        return _moment_ns("-".join(match.group(1, 2, 3)) + match[4], text)
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise DataError(f"{text!r} is no time: neither a number nor a date with a time of day") from None
    for power in _UNITS.values():
        ns = number.scaleb(power)
        if number.is_finite() and _SINCE_S * 10**9 <= ns < _UNTIL_S * 10**9:
            return int(ns)
    raise DataError(f"{text!r} is no time from 2000 to 2099 in {', '.join(_UNITS)}")


def _moment_ns(text: str, shown: str) -> int:
    import pandas as pd

    try:
        moment = pd.Timestamp(text)
        moment = moment.tz_localize("UTC") if moment.tzinfo is None else moment
        return int(moment.as_unit("ns").value)
    except ValueError:
        raise DataError(f"{shown!r} is no date with a time of day that exists") from None
