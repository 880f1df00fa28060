"""When frames were taken, as a model sees it: days before the answered date, and the day of the year."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from geohf.data.dates import YEAR_DAYS
from geohf.data.times import StepTimes, time_of
from geohf.errors import DataError

DATED = ("dates", "months", "quarters", "years")  # units of labels that name a day of the year
DATE_FEATURES = 6
PLANES = 3  # what a recurrent layer sees of a date
_COMMON_YEAR = 365.0


def days_of(steps: StepTimes) -> tuple[np.ndarray, np.ndarray] | None:
    """The steps' days and days of the year; None where labels tell no dates.

    The day of the year counts from 0, in a year of 365 days: 29 February counts as 28 February, so that a date a
    whole number of years later has the same one.

    Returns:
        (n,) days since 1970, (n,) days from 0 to 365, both float64.

    >>> days, of_year = days_of(StepTimes(np.array([2019.5, 2020.5]), "months"))
    >>> of_year.tolist()
    [182.5, 182.5]
    """
    if steps.unit not in DATED:
        return None
    days = (steps.times - 1970) * YEAR_DAYS
    if steps.unit != "dates":  # months are shares of a year
        return days, (steps.times % 1) * _COMMON_YEAR
    stamps = np.floor(days + 1e-6).astype("datetime64[D]")
    years = stamps.astype("datetime64[Y]")
    of_year = (stamps - years.astype("datetime64[D]")).astype(np.float64)
    leap = (years + 1).astype("datetime64[D]") - years.astype("datetime64[D]") == np.timedelta64(366, "D")
    of_year -= leap & (of_year >= 59)
    return days, of_year + (days - np.floor(days + 1e-6)).clip(0)


def start_days(steps: StepTimes) -> np.ndarray | None:
    """(n,) int64 days since 1970 on which steps begin, by the calendar; None where they tell no dates.

    >>> start_days(StepTimes(np.array([2020.0, 2020 + 1 / 12]), "months")).tolist()
    [18262, 18293]
    """
    if steps.unit not in DATED:
        return None
    if steps.unit == "dates":
        return np.floor((steps.times - 1970) * YEAR_DAYS + 1e-6).astype(np.int64)
    months = np.round((steps.times - 1970) * 12).astype("datetime64[M]")
    return months.astype("datetime64[D]").astype(np.int64)


def frame_dates(days: np.ndarray, of_year: np.ndarray) -> np.ndarray:
    """What a model is told of dates: (..., n, 2) days before the last one, and days of the year, float32.

    Args:
        days, of_year: (..., n) of the frames and, last, of the answer, see `days_of`.
    """
    return np.stack([days[..., -1:] - days, of_year], -1).astype(np.float32)


def dates_of_sample(dates: Sequence[Any], answered: Any, where: str) -> np.ndarray:
    """`frame_dates` of one sample, (frames + 1, 2).

    Args:
        dates: one a frame, as people write them or as `StepTimes`; None of a frame that is missing.
        answered: the date of the answer.
        where: the sample, for messages.

    Raises:
        DataError: a date cannot be read.
    """
    end = _days(answered, where)
    days = [end if date is None else _days(date, where) for date in dates]
    return frame_dates(*np.array([*days, end]).T)


def _days(date: Any, where: str) -> tuple[float, float]:
    try:
        dated = days_of(date if isinstance(date, StepTimes) else time_of(date))
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    if dated is None:
        raise DataError(f"{where}: {date!r} is no date, write 2019-07-31, 2019-07 or 2019")
    return float(dated[0][0]), float(dated[1][0])


def date_features(dates: torch.Tensor, step_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a model sees of dates, whatever order the frames are in.

    Of a frame and of the answer: sine and cosine of one and of two turns a year, the decades to the answer, and
    log(1 + months) since the frame before, which for the answer is the newest one.

    Args:
        dates: (batch, steps + 1, 2), see `frame_dates`.
        step_mask: (batch, steps) bool; masked steps count nowhere.

    Returns:
        (batch, steps, `DATE_FEATURES`) of the frames, 0 where masked, and (batch, `DATE_FEATURES`) of the answer.
    """
    dates = dates.float()
    seen = torch.nn.functional.pad(step_mask, (0, 1), value=True)
    days = torch.where(seen, dates[..., 0], 0)
    before = step_mask[:, None] & (days[:, None, :-1] > days[..., None])  # (batch, steps + 1, steps)
    gaps = torch.where(before, days[:, None, :-1] - days[..., None], torch.inf).amin(-1)
    newest = torch.where(step_mask, days[:, :-1], torch.inf).amin(-1)  # 0 where it is of the answer's own day
    gaps = torch.cat([gaps[:, :-1], newest[:, None]], 1)
    turn = torch.where(seen, dates[..., 1], 0) * (2 * math.pi / _COMMON_YEAR)
    parts = [turn.sin(), turn.cos(), (2 * turn).sin(), (2 * turn).cos(), days / (10 * YEAR_DAYS)]
    features = torch.stack([*parts, torch.log1p(torch.where(gaps.isfinite(), gaps, 0).clamp(min=0) / 30)], -1)
    return torch.where(step_mask[..., None], features[:, :-1], 0), features[:, -1]


def date_planes(features: torch.Tensor) -> torch.Tensor:
    """(..., `PLANES`) of `date_features`: sine and cosine of the year, and the gap."""
    return features[..., [0, 1, 5]]
