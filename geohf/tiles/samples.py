"""What a sample says beside its frames: when they were taken, and what was last known of its targets."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from geohf.data.times import times_of_frames
from geohf.errors import DataError
from geohf.tiles.dates import dates_of_sample

SAMPLE_KEYS = ("frames", "last_values", "dates", "date", "region")


def dates_of(frames: Sequence, dates: Any, answered: Any, where: str) -> np.ndarray:
    """(frames + 1, 2) of a sample's frames and its answer, see `geohf.tiles.dates.frame_dates`.

    Args:
        dates: one a frame; None: as the files are named.
        answered: the answer's date.
        where: the sample, for messages.

    Raises:
        DataError: a date is missing or cannot be read, or a frame is of later than the answer.
    """
    if answered is None:
        raise DataError(f"{where}: this model sees dates, say for when it shall answer: 'date': '2022-07-31'")
    dates = times_of_frames(frames) if dates is None else dates
    if dates is None:
        raise DataError(f"{where}: this model sees dates, and no file's name tells them; give 'dates'")
    if len(dates) != len(frames):
        raise DataError(f"{where}: {len(dates)} dates for {len(frames)} frames")
    days_of_frames = dates_of_sample(dates, answered, where)
    late = [t for t, days in enumerate(days_of_frames[:, 0]) if days < 0 and frames[t] is not None]
    if late:
        raise DataError(f"{where}: the frame {late[0]} is of {dates[late[0]]}, after the answer's {answered}")
    return days_of_frames


def numbers_of(values: Any, targets: Sequence[str], name: str = "last_values") -> list[float]:
    """One number per target, NaN where it is not known.

    Args:
        values: a number, one per target, or a dict or Series by name; None where nothing is known.
        name: of the values, for messages.

    Raises:
        DataError: they are not of these targets.
    """
    if values is None:
        return [math.nan] * len(targets)
    if hasattr(values, "to_dict") and all(isinstance(name, str) for name in values.index):
        values = values.to_dict()  # a row of a pandas table
    if isinstance(values, Mapping):
        unknown = [target for target in values if target not in targets]
        if unknown:
            raise DataError(f"{name}: no target {unknown[0]!r}; the targets are {', '.join(targets)}")
        values = [values.get(target) for target in targets]
    try:  # of None NaN
        numbers = np.atleast_1d(np.asarray(values, np.float64))
    except (TypeError, ValueError):
        raise DataError(f"{name}: {values!r} are no numbers") from None
    if numbers.shape != (len(targets),):
        raise DataError(f"{name}: {numbers.size} numbers for {len(targets)} targets")
    if np.isinf(numbers).any():
        raise DataError(f"{name}: infinite; None or NaN stands for what is not known")
    return numbers.tolist()


def require_known_keys(sample: Mapping, where: str, known: Sequence[str] = SAMPLE_KEYS) -> None:
    """Refuse a key of a sample that is nearly one that counts; others are the user's own.

    Raises:
        DataError: there is one.
    """
    for key in sample:  # `region_id`, 0.8 from `region`, is a column of tables
        close = [] if key in known else difflib.get_close_matches(str(key), known, n=1, cutoff=0.81)
        if close and close[0] not in sample:
            raise DataError(f"{where}: has {key!r}, which is not looked at; is it {close[0]!r}?")
