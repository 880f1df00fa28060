"""Filters that find points which cannot be right: by deviation, by density, by range, and regions too small.

Each takes (n, 2) points in degrees (`frame="wgs84"`) or data units (`"planar"`), or their groups, and says which
rows it keeps and why it drops the others. The columns of `wgs84` points are taken around the points' mean, so that
the antimeridian cuts through no table.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from geohf.geo._arrays import as_numpy, as_rows
from geohf.geo.dbscan import dbscan
from geohf.geo.scalers import around_mean

_COLUMNS = ("latitude", "longitude")


class Filtered(NamedTuple):
    """What a filter found.

    kept: (n,) bool.
    reasons: (n,) str objects, why a row is dropped; None for rows that are kept.
    """

    kept: np.ndarray
    reasons: np.ndarray


def mad_filter(points, threshold: float = 4.0, frame: str = "wgs84") -> Filtered:
    """Keep rows within `threshold` (above zero) raw MADs of the median, in each column by itself.

    The MAD is the median distance from the median, without the factor 1.4826 that makes it a standard deviation.
    A column with MAD 0, where more than half of the values are equal, drops nothing.

    >>> mad_filter([[1000, 0], [1001, 0], [1002, 0], [1003, 0], [1090, 0]], 4, "planar").reasons.tolist()[-1]
    'latitude 1090 lies 88 MAD from the median 1002, more than 4'
    """
    if not threshold > 0:
        raise ValueError(f"threshold must be above zero, got {threshold}")
    columns = _columns(points, frame)
    if not len(columns):
        return _all_kept(0)
    median = np.median(columns, axis=0)
    away = np.abs(columns - median)
    mad = np.median(away, axis=0)
    times = away / np.where(mad > 0, mad, np.inf)

    def reason(row: int, column: int) -> str:
        return f"{times[row, column]:.3g} MAD from the median {median[column]:.10g}, more than {threshold:g}"

    # not by the quotient: a value exactly on the limit is kept, as the rule says
    return _by_column(columns, (away > threshold * mad) & (mad > 0), reason)


def dbscan_filter(points, eps: float, min_samples: int = 10, frame: str = "wgs84") -> Filtered:
    """Keep rows that DBSCAN puts into a cluster; see `geohf.geo.dbscan`.

    >>> dbscan_filter([[1000, 0], [1000, 3], [1000, 90]], 5, 2, "planar").reasons.tolist()[-1]
    'noise: in no cluster of 2 points within 5'
    """
    kept = dbscan(points, eps, min_samples, frame) >= 0
    unit = " m" if frame == "wgs84" else ""
    noise = f"noise: in no cluster of {min_samples} points within {eps:g}{unit}"
    return Filtered(kept, np.array([noise, None], object)[kept.astype(int)])


def percentile_filter(points, low: float = 1.0, high: float = 99.0, frame: str = "wgs84") -> Filtered:
    """Keep rows between two percentiles of each column, both included.

    >>> percentile_filter([[1000 + i, 0] for i in range(101)], 1, 99, "planar").kept.sum()
    np.int64(99)
    """
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles must be 0 <= low < high <= 100, got {low} and {high}")
    columns = _columns(points, frame)
    return _outside(columns, np.array([low, high]), 0.0, f"percentiles {low:g} to {high:g}")


def iqr_filter(points, factor: float = 1.5, frame: str = "wgs84") -> Filtered:
    """Keep rows within `factor` interquartile ranges of the quartiles of each column (Tukey's fences).

    A column whose quartiles are equal drops nothing.

    >>> iqr_filter([[1000, 0], [1001, 0], [1002, 0], [1003, 0], [1090, 0]], 1.5, "planar").kept.tolist()
    [True, True, True, True, False]
    """
    if not factor > 0:
        raise ValueError(f"factor must be above zero, got {factor}")
    columns = _columns(points, frame)
    return _outside(columns, np.array([25.0, 75.0]), factor, f"quartiles widened by {factor:g} IQR")


def min_rows_filter(groups, rows: int = 20) -> Filtered:
    """Keep rows whose group has at least `rows` rows; groups are (n,) anything that sorts.

    >>> min_rows_filter(["a", "a", "b"], 2).reasons.tolist()
    [None, None, 'group b has fewer than 2 rows (1)']
    """
    names, number, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    texts = [
        None if size >= rows else f"group {name} has fewer than {rows} rows ({size})"
        for name, size in zip(names, sizes, strict=True)
    ]
    return Filtered((sizes >= rows)[number], np.array(texts, object)[number])


def filter_groups(points, groups, points_filter: Callable[..., Filtered], **options) -> Filtered:
    """Apply a filter of points, with its own options, to each group by itself; groups are (n,) anything that sorts.

    >>> points = [[1000, 0], [1001, 0], [1002, 0], [5000, 0], [5001, 0], [5002, 0]]
    >>> filter_groups(points, [0, 0, 0, 1, 1, 1], percentile_filter, low=0, high=50, frame="planar").kept.sum()
    np.int64(4)
    """
    points = as_numpy(points)
    names, number = np.unique(np.asarray(groups), return_inverse=True)
    result = _all_kept(len(points))
    by_group = np.argsort(number, kind="stable")
    ends = np.searchsorted(number[by_group], np.arange(len(names) + 1))
    for begin, end in itertools.pairwise(ends):
        rows = by_group[begin:end]
        result.kept[rows], result.reasons[rows] = points_filter(points[rows], **options)
    return result


def _columns(points, frame: str) -> np.ndarray:
    points = as_rows(points)
    if not np.isfinite(points).all():
        raise ValueError("a filter needs finite points; see geohf.geo.bad_points")
    return around_mean(points, frame)


def _outside(columns: np.ndarray, percentiles: np.ndarray, widen: float, what: str) -> Filtered:
    if not len(columns):
        return _all_kept(0)
    low, high = np.percentile(columns, percentiles, axis=0)
    room = widen * (high - low)
    low, high = low - room, high + room

    def reason(_: int, column: int) -> str:
        return f"outside {low[column]:.10g} to {high[column]:.10g} ({what})"

    dropped: np.ndarray = (columns < low) | (columns > high)
    return _by_column(columns, dropped & ((room > 0) | (widen == 0)), reason)


def _by_column(columns: np.ndarray, dropped: np.ndarray, reason: Callable[[int, int], str]) -> Filtered:
    """The first column that drops a row gives the reason: where its value lies."""
    result = Filtered(np.logical_not(dropped.any(1)), np.full(len(dropped), None, object))
    rows = np.flatnonzero(~result.kept)
    for row, column in zip(rows.tolist(), dropped[rows].argmax(1).tolist(), strict=True):
        result.reasons[row] = f"{_COLUMNS[column]} {columns[row, column]:.10g} lies {reason(row, column)}"
    return result


def _all_kept(n: int) -> Filtered:
    return Filtered(np.ones(n, bool), np.full(n, None, object))
