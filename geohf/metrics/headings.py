"""How well the direction of a camera is told: errors on the circle."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from geohf.geo.angles import wrap_degrees
from geohf.metrics.directions import HIGHER, MetricInfo

DEGREES = MetricInfo(False, "degrees")
HEADING_METRICS = {"heading_mean_deg": DEGREES, "heading_median_deg": DEGREES}
HEADING_METRICS |= {"heading_within_10": HIGHER, "heading_within_30": HIGHER}


def heading_errors(predicted, truth) -> np.ndarray:
    """Degrees between directions the short way round, 0 to 180; NaN where one is unknown.

    >>> heading_errors([359.0, 10.0], [1.0, 190.0]).tolist()
    [2.0, 180.0]
    """
    away = np.asarray(predicted, np.float64) - np.asarray(truth, np.float64)
    return np.abs(wrap_degrees(away))


def heading_metrics(predicted, truth) -> Mapping[str, float]:
    """The numbers of `HEADING_METRICS`: mean and median error, and shares within 10 and 30 degrees; none if none is known.

    Args:
        predicted, truth: degrees clockwise from north, of one shape, NaN where unknown.
    """
    errors = heading_errors(predicted, truth)
    errors = errors[np.isfinite(errors)]
    if not len(errors):
        return {}
    within = {f"heading_within_{limit}": float((errors <= limit).mean()) for limit in (10, 30)}
    return {"heading_mean_deg": float(errors.mean()), "heading_median_deg": float(np.median(errors))} | within


def constant_heading(headings) -> float:
    """The direction that lies nearest to all known ones on the mean, of whole degrees; 0 where none is known.

    >>> constant_heading([350.0, 10.0, np.nan])
    0.0
    """
    known = np.asarray(headings, np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return 0.0
    counts = np.bincount(np.round(known).astype(int) % 360, minlength=360)
    return float((heading_errors(np.arange(360)[:, None], np.arange(360)) @ counts).argmin())
