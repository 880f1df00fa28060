"""The one error that bad input raises."""

from __future__ import annotations

import math


class DataError(ValueError):
    """Input that cannot be used.

    The message names the file, the row where there is one, and what to do about it. Recipes print it
    without a traceback and end with exit code 2.
    """


def require_at_least(least: float, **values: float | None) -> None:
    """Raise DataError for the first of these numbers that is smaller, or not finite; None is left alone.

    >>> require_at_least(1, batch_size=0)
    Traceback (most recent call last):
    geohf.errors.DataError: batch_size must be at least 1, got 0
    """
    for name, value in values.items():
        if value is not None and not least <= value < math.inf:
            raise DataError(f"{name} must be at least {least}, got {value}")
