"""The one error that bad input raises, and what its messages and those of warnings share."""

from __future__ import annotations

import difflib
import importlib
import logging
import math
import operator
import re
from collections.abc import Collection, Hashable, Iterable
from functools import cache
from numbers import Real
from typing import Any

ON_ERROR = ("raise", "skip")  # what becomes of rows that cannot be used


class DataError(ValueError):
    """Input that cannot be used.

    The message names the file, the row where there is one, and what to do; recipes print it and end with exit code 2.
    """

    def __init__(self, message: object = ""):
        text = str(message)
        # torch makes the error of a loader's worker anew, of the whole traceback as text, whose last line is the message
        if text.startswith(f"Caught {type(self).__name__} in DataLoader worker"):
            text = re.split(rf"^(?:\w+\.)*{type(self).__name__}: ", text, flags=re.MULTILINE)[-1].strip()
        super().__init__(text)


def require_at_least(least: float, **values: float | None) -> None:
    """Raise DataError for the first of these numbers that is smaller, or not finite; None is left alone.

    >>> require_at_least(1, batch_size=0)
    Traceback (most recent call last):
    geohf.errors.DataError: batch_size must be at least 1, got 0
    """
    for name, value in values.items():
        if value is not None and not least <= value < math.inf:
            raise DataError(f"{name} must be at least {least}, got {value}")


def require_whole(least: int, **values: Any) -> None:
    """Raise DataError for the first of these that is no whole number, or smaller; true and false are none.

    >>> require_whole(1, top_k=1.5)
    Traceback (most recent call last):
    geohf.errors.DataError: top_k must be a whole number of at least 1, got 1.5
    """
    for name, value in values.items():
        try:
            fits = not isinstance(value, bool) and operator.index(value) >= least
        except TypeError:
            fits = False
        if not fits:
            raise DataError(f"{name} must be a whole number of at least {least}, got {value!r}")


def require_share(**values: Any) -> None:
    """Raise DataError for the first of these that is no number from 0 to 1; true, false and None are none.

    >>> require_share(threshold="high")
    Traceback (most recent call last):
    geohf.errors.DataError: threshold must be a number from 0 to 1, got 'high'
    """
    for name, value in values.items():
        if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= float(value) <= 1:
            raise DataError(f"{name} must be a number from 0 to 1, got {value!r}")


def require_within(interval: str, **values: float | None) -> None:
    """Raise DataError for the first of these numbers outside an interval, whose ends `[` and `]` hold; None is left alone.

    >>> require_within("(0, 1]", layer_decay=0)
    Traceback (most recent call last):
    geohf.errors.DataError: layer_decay must be above 0 and at most 1, got 0
    """
    low, high = interval[1:-1].split(", ")
    ends = {"[": f"at least {low}", "(": f"above {low}", "]": f"at most {high}", ")": f"below {high}"}
    for name, value in values.items():
        above = value is None or value > float(low) or (value == float(low) and interval[0] == "[")
        below = value is None or value < float(high) or (value == float(high) and interval[-1] == "]")
        if not above or not below:
            told = [ends[mark] for mark, end in ((interval[0], low), (interval[-1], high)) if end != "inf"]
            raise DataError(f"{name} must be {' and '.join(told)}, got {value}")


def require_choice(allowed: Collection[str | None], **values: str | None) -> None:
    """Raise DataError for the first of these words that is not among the allowed ones; None is one where these hold it.

    >>> require_choice(("raise", "skip"), on_error="skipp")
    Traceback (most recent call last):
    geohf.errors.DataError: on_error must be one of raise, skip, got 'skipp' (did you mean 'skip'?)
    """
    for name, value in values.items():
        if value not in allowed:
            words = [word for word in allowed if word is not None]
            raise DataError(
                f"{name} must be one of {', '.join(words)}, got {value!r}{did_you_mean(value, words)}"
            )


@cache
def warn_once(logger: logging.Logger, message: str, *args: Hashable) -> None:
    """Log a warning the first time that it is asked for with these arguments, and not for every batch or chunk of rows."""
    logger.warning(message, *args)


def optional_package(name: str, extra: str, need: str) -> Any:
    """An installed package that geohf does without, or DataError, which names who needs it and the extra that brings it.

    >>> optional_package("no_such_package", "export", "exporting needs")
    Traceback (most recent call last):
    geohf.errors.DataError: exporting needs the package no_such_package: pip install 'geohf[export]'
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise DataError(f"{need} the package {name}: pip install 'geohf[{extra}]'") from None


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: which known one it is near to, or nothing.

    >>> did_you_mean("latitud", ["latitude", "longitude"])
    " (did you mean 'latitude'?)"
    >>> did_you_mean("x", ["latitude"])
    ''
    """
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def listed(names: Collection[object], most: int = 5) -> str:
    """Names for a message, no more than `most` of them.

    >>> listed([3, 5, 8], most=2)
    '3, 5 and 1 more'
    """
    shown = ", ".join(str(name) for name, _ in zip(names, range(most), strict=False))
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
