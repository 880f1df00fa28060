"""Times as people write them: labels of the steps of a sequence, and the moments at which photographs were taken."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from geohf.data.cells import text_of
from geohf.data.dates import FORMS, YEARS, matches
from geohf.errors import DataError
from geohf.io import natural_key

logger = logging.getLogger(__name__)

_LONG = 100_000  # plain numbers from here on may be dates in a form that is not known
_DAY_FIRST = re.compile(r"(?<!\d)\d{1,2}([-_./]?)\d{1,2}\1(19|20)\d\d(?!\d)")
_DAY_FIRST_APART = re.compile(r"(?<!\d)\d{1,2}([-./])\d{1,2}\1(19|20)\d\d(?!\d)")
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
    steps = _read(labels)
    if steps is None:
        return sorted(labels, key=natural_key)
    return [labels[i] for i in np.argsort(steps.times, kind="stable")]


def step_times(labels: Sequence[str]) -> StepTimes:
    """When the steps are that these labels name, oldest first; a warning where the labels do not tell.

    Read are years, months (201907, 2019-07, Jul 2019), quarters (2019Q3), dates (20190701, 2019-07-01, 2019182, 2019-W27,
    1 Jul 2019), with a time of day, too, and plain numbers, alone or inside names else alike (`t1`, `town.1989`).

    Raises:
        DataError: they do not ascend, two are the same time, or they are of several forms.

    >>> step_times(["1985", "1990", "2000"]).times.tolist()
    [1985.0, 1990.0, 2000.0]
    >>> (12 * np.diff(step_times(["201507", "201603"]).times)).round(9).item()
    8.0
    """
    steps = _read(labels)
    shown = shorten(labels)
    if steps is None:
        logger.warning(
            "the labels %s tell no time: they are taken in this order, as equal steps apart; say the order with "
            "--labels, and name them by years, months or dates if they are not equally far apart",
            shown,
        )
        return StepTimes(np.arange(len(labels), dtype=np.float64), "equal steps")
    _require_ascending(labels, steps)
    if steps.unit == "numbers" and np.abs(steps.times).max() >= _LONG:
        logger.warning("the labels %s count as plain numbers; write dates as 2019-07-31 or 20190731", shown)
    elif steps.unit == "numbers" and _may_be_years(labels, steps.times):
        logger.warning("the labels %s count as plain numbers; write years with four digits", shown)
    return steps


def _may_be_years(labels: Sequence[str], times: np.ndarray) -> bool:
    """Numbers of two digits that leave out decades, as 00, 05, 85, 90 do: years on both sides of 2000."""
    two = all(re.search(r"(?<!\d)\d\d$", label) for label in labels)
    return two and times[0] < 30 and times[-1] >= 70 and np.diff(times).max() > 30


def check_frames(frames: Sequence[Any]) -> None:
    """Hold frames that a user puts in order, oldest first, against the times that their labels or file names tell.

    Args:
        frames: labels and paths; what is neither is not looked at. Of files of one name their folders tell.

    Raises:
        DataError: these are dates, months, quarters or years and do not ascend; of other numbers a warning says so.
    """
    names = _names(frames)
    try:
        steps = _read(names)
    except DataError:  # whatever these names are, they tell no one order
        return
    if steps is None:
        return
    try:
        _require_ascending(names, steps)
    except DataError as error:
        if steps.unit != "numbers":
            raise
        logger.warning("%s, if these numbers are times", error)


def step_key(label: str) -> Any:
    """What two spellings of one step have in common: `1` and `01`, `201907` and `2019-07`."""
    for unit in FORMS:
        for years, match in matches(unit, label):
            if match[0] == label:
                return unit, years
    return float(label) if re.fullmatch(rf"[+-]?{_DIGITS}", label) else label


def times_of_frames(frames: Sequence[Any]) -> list[StepTimes | None] | None:
    """When frames were taken, as their labels or file names tell, see `check_frames`; None where one does not.

    Args:
        frames: None for a missing one.

    >>> times_of_frames(["a/20190731.tif", None])[0].unit
    'dates'
    """
    there = [frame for frame in frames if frame is not None]
    if not all(isinstance(frame, (str, os.PathLike)) for frame in there):
        return None
    try:
        steps = _read(_names(there))
    except DataError:
        return None
    if steps is None:
        return None
    times = iter(steps.times)
    return [None if frame is None else StepTimes(np.array([next(times)]), steps.unit) for frame in frames]


def _names(frames: Sequence[Any]) -> list[str]:
    paths = [Path(frame) for frame in frames if isinstance(frame, (str, os.PathLike))]
    names = [re.sub(r"\.[A-Za-z]\w*$", "", path.name) for path in paths]  # .1989 is no ending
    return [path.parent.name for path in paths] if len(set(names)) == 1 and len(names) > 1 else names


def time_of(cell: Any) -> StepTimes:
    """One date, month, quarter or year, alone or inside a name; its unit is `numbers` where it is none of them.

    Args:
        cell: text, a number, or what has an `isoformat` (datetime, pandas' Timestamp).

    Raises:
        DataError: it is no text of which a time or a number can be read.

    >>> time_of("2019-07"), time_of(2019).unit
    (StepTimes(times=array([2019.5]), unit='months'), 'years')
    """
    text = cell.isoformat() if hasattr(cell, "isoformat") else text_of(cell)
    if text is not None and text.endswith(".0"):
        text = text[:-2]
    step = None if text is None else _read([text])
    several = step is not None and step.unit not in FORMS and len(re.findall(r"\d+", str(text))) > 1
    if step is None or several:  # 2019-13-01 is not the year 2019
        raise DataError(f"{cell!r} is no date; write 2019-07-31, 2019-07 or 2019")
    return step


def shorten(labels: Sequence[str]) -> str:
    """Up to eight labels in a line, for messages."""
    labels = list(map(str, labels))
    return ", ".join(labels if len(labels) <= 8 else [*labels[:6], "...", labels[-1]])


def _read(labels: Sequence[str]) -> StepTimes | None:
    """The times of labels in any order; None where they tell none."""
    if not len(labels):
        return None
    for unit in FORMS:
        matched = [matches(unit, label) for label in labels]
        if all(matched):
            # of several times in every name the first that differs between names
            columns = list(zip(*matched, strict=False))
            varying = (column for column in columns if len({time for time, _ in column}) > 1)
            times = next(varying, columns[0])
            rest = [label.replace(match[0], "", 1) for label, (_, match) in zip(labels, times, strict=True)]
            return _distinct(labels, [time for time, _ in times], rest, unit)
    _refuse_mixed(labels)
    numbers = _numbers(labels)
    years = numbers is not None and all(number in YEARS for number in numbers)
    # of one year, as 1/2/2020 and 1/3/2020, they would count as the numbers 2 and 3
    day_first = _DAY_FIRST if numbers is None else _DAY_FIRST_APART
    may_be_dates = not years and (numbers is None or len(labels) > 1)
    if may_be_dates and all(map(day_first.search, labels)):
        raise DataError(
            f"the labels {shorten(labels)} begin with the day or the month; write 2019-07-31 or 20190731"
        )
    if numbers is None:
        return None
    return _distinct(labels, numbers, [""] * len(labels), "years" if years else "numbers")


def _require_ascending(labels: Sequence[str], steps: StepTimes) -> None:
    falls = np.flatnonzero(np.diff(steps.times) < 0)
    if len(falls):
        i = int(falls[0])
        raise DataError(
            f"the labels {shorten(labels)} do not ascend: {labels[i + 1]} is before {labels[i]}; give the oldest first"
        )


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
    units = [next((unit for unit in FORMS if matches(unit, label)), None) for label in labels]
    dated = {re.sub("[0-9]", "0", label): unit for label, unit in zip(labels, units, strict=True) if unit}
    if not dated:
        return
    for i, label in enumerate(labels):
        shape = re.sub("[0-9]", "0", label)
        if units[i] is None and shape in dated:
            raise DataError(f"the label {label!r} is none of the {dated[shape]} that the others are")
        numbers = re.findall("[0-9]+", label)
        if units[i] is None and len(numbers) == 1 and len(numbers[0]) == 4 and int(numbers[0]) in YEARS:
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


# ---- photographs

# powers of ten to nanoseconds
_UNITS = {"seconds": 9, "milliseconds": 6, "microseconds": 3, "nanoseconds": 0}
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
    if match := _MOMENT.fullmatch(text):
        import pandas as pd

        try:
            moment = pd.Timestamp("-".join(match.group(1, 2, 3)) + match[4])
            return int((moment.tz_localize("UTC") if moment.tzinfo is None else moment).as_unit("ns").value)
        except ValueError:
            raise DataError(f"{text!r} is no date with a time of day that exists") from None
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise DataError(f"{text!r} is no time: neither a number nor a date with a time of day") from None
    for power in _UNITS.values():
        ns = number.scaleb(power)
        if number.is_finite() and _SINCE_S * 10**9 <= ns < _UNTIL_S * 10**9:
            return int(ns)
    raise DataError(f"{text!r} is no time from 2000 to 2099 in {', '.join(_UNITS)}")
