"""What one would say of a tile without looking at an image: persistence and trend."""

from __future__ import annotations

import numpy as np

TREND_VALUES = 3  # the trend goes through so many of the last known values


def baselines(values: np.ndarray, steps: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Persistence and trend of targets.

    Args:
        values: (n, all steps, targets), NaN where unknown. What lies at `steps` or later is not looked at.
        steps: (n,) the steps to predict.
        times: (all steps,) of the steps.

    Returns:
        The last known value, and the least-squares line through the last `TREND_VALUES` known ones at the
        step's time (the last value where only one is known); both (n, targets), NaN where none is known.

    >>> last, trend = baselines(np.array([[[1.0], [2.0], [4.0]]]), np.array([2]), np.arange(3.0))
    >>> last.item(), trend.item()
    (2.0, 3.0)
    """
    before = np.arange(values.shape[1])[None, :, None] < steps[:, None, None]
    known = before & np.isfinite(values)
    rank = known[:, ::-1].cumsum(1)[:, ::-1]  # 1 for the last known value, 2 for the one before
    last = np.where(known & (rank == 1), values, 0).sum(1)
    used = known & (rank <= TREND_VALUES)
    count = used.sum(1)
    count_or_one = np.maximum(count, 1)
    clock = times[None, :, None] * np.ones_like(values)
    mean_time = np.where(used, clock, 0).sum(1) / count_or_one
    mean = np.where(used, values, 0).sum(1) / count_or_one
    apart = np.where(used, clock - mean_time[:, None], 0)
    spread = (apart**2).sum(1)
    covariance = (apart * np.where(used, values - mean[:, None], 0)).sum(1)
    slope = np.divide(covariance, spread, out=np.zeros_like(spread), where=spread > 0)
    trend = mean + slope * (times[steps][:, None] - mean_time)
    none = count == 0
    return np.where(none, np.nan, last), np.where(none, np.nan, trend)
