"""A grid of cells in which all points of one cell lie within a given distance of each other.

Cells are `eps / sqrt(2)` high and wide, so that their diagonal is at most `eps`. On the sphere they are cut along
parallels and meridians, in every row as many as its longer parallel needs. Sorted by row and bin, a cell's neighbors
are one or two ranges of cells a row: about 20 cells, where cubes in space would be 124.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from geohf.geo._arrays import wrap_longitude
from geohf.geo._metric import chord_m
from geohf.geo.distance import EARTH_RADIUS_M

# Cells are this much smaller than they may be, and ranges this much wider: room for rounding.
_ROOM = 1e-6
_MOST_CELLS = 2.0**62


class Grid(NamedTuple):
    """Points sorted by cell, and every cell's neighborhood.

    order: (n,) point numbers, sorted by cell.
    start: (n_cells + 1,) position in `order` where each cell begins.
    ranges: one (step, low, high) a row of the neighborhood, own row first, then by distance, two where a row wraps
        around the antimeridian: the neighbors of cell c that lie `step` rows up are the cells low[c]..high[c]-1.
    """

    order: np.ndarray
    start: np.ndarray
    ranges: list[tuple[int, np.ndarray, np.ndarray]]


def sphere_grid(points: np.ndarray, eps_m: float) -> Grid:
    """Grid of (n, 2) degrees for a great-circle distance of `eps_m` meters."""
    half = min(eps_m / (2.0 * EARTH_RADIUS_M), np.pi / 2)
    side = chord_m(eps_m) / np.sqrt(2.0) * (1.0 - _ROOM)
    rows = int(np.ceil(np.pi * EARTH_RADIUS_M / side))
    height = np.pi / rows
    stride = int(np.ceil(2.0 * np.pi * EARTH_RADIUS_M / side)) + 1
    if float(rows) * stride > _MOST_CELLS:
        raise ValueError(f"eps of {eps_m} m is too small for a grid over the globe; use at least 0.02 m")

    def cosines(row):
        """Least and greatest cosine of latitude in a row."""
        south = row * height - np.pi / 2
        ends = np.clip(np.cos([south, south + height]), 0.0, 1.0)
        widest = np.where((south <= 0) & (south + height >= 0), 1.0, ends.max(0))
        return ends.min(0), widest

    def bins_of(row):
        return np.maximum(1, np.ceil(2.0 * np.pi * EARTH_RADIUS_M / side * cosines(row)[1])).astype(np.int64)

    row = np.clip(np.floor((points[:, 0] + 90.0) * (rows / 180.0)).astype(np.int64), 0, rows - 1)
    bins = bins_of(row)
    turned = wrap_longitude(np, points[:, 1]) + 180.0
    key = row * stride + np.minimum((turned * (bins / 360.0)).astype(np.int64), bins - 1)
    del row, bins, turned
    order, start, keys = _sorted_cells(key)
    row, bin_ = np.divmod(keys, stride)
    bins, narrow = bins_of(row), cosines(row)[0]
    ranges = []
    for step in _steps(int(2.0 * half / height) + 1):
        other = row + step
        there = (other >= 0) & (other < rows)
        other = np.clip(other, 0, rows - 1)
        count = bins_of(other)
        # sin²(d/2) = sin²(Δφ/2) + cosφ1 cosφ2 sin²(Δλ/2), solved for the widest Δλ that d = eps allows.
        gap = max(abs(step) - 1, 0) * height
        rest = max(np.sin(half) ** 2 - np.sin(gap / 2) ** 2, 0.0)
        sine = np.sqrt(np.minimum(rest / np.maximum(narrow * cosines(other)[0], 1e-300), 1.0))
        reach = np.where(sine < 1.0, 2.0 * np.arcsin(sine), np.pi) / (2.0 * np.pi) * (1.0 + _ROOM)
        low = np.floor((bin_ / bins - reach) * count - _ROOM).astype(np.int64)
        high = np.floor(((bin_ + 1) / bins + reach) * count + _ROOM).astype(np.int64) + 1
        around = high - low >= count
        low, high = np.where(around, 0, low), np.where(around, count, high)
        base = other * stride
        ranges.append((step, *_find(keys, base, np.maximum(low, 0), np.minimum(high, count), there)))
        wraps = there & ((low < 0) | (high > count))
        if wraps.any():
            first = np.where(low < 0, low + count, 0)
            last = np.where(low < 0, count, high - count)
            ranges.append((step, *_find(keys, base, first, last, wraps)))
    return Grid(order, start, ranges)


def plane_grid(points: np.ndarray, eps: float) -> Grid:
    """Grid of (n, 2) planar points for a Euclidean distance of `eps`."""
    origin = points.min(0)
    side = eps / np.sqrt(2.0) * (1.0 - _ROOM)
    span = float((points.max(0) - origin).max()) / side + 1.0
    if not span**2 < _MOST_CELLS:
        raise ValueError(
            f"eps of {eps} is too small for points that span {span * side:.6g}; is it in their unit?"
        )
    stride = int(span) + 1
    cell = ((points - origin) / side).astype(np.int64)
    order, start, keys = _sorted_cells(cell[:, 0] * stride + cell[:, 1])
    row, bin_ = np.divmod(keys, stride)
    ranges = []
    for step in _steps(2):
        gap = max(abs(step) - 1, 0) * side
        reach = np.sqrt(eps**2 - gap**2) / side + _ROOM
        low = np.maximum(np.floor(bin_ - reach).astype(np.int64), 0)
        high = np.minimum(np.floor(bin_ + 1 + reach).astype(np.int64) + 1, stride)
        ranges.append((step, *_find(keys, (row + step) * stride, low, high, row + step >= 0)))
    return Grid(order, start, ranges)


def _sorted_cells(key: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order of the points by cell (by number within a cell), where cells begin, and the cells' keys."""
    order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    return order, np.append(first, len(key)), key[first]


def _steps(reach: int) -> list[int]:
    """0, 1, -1, 2, -2 and so on."""
    return [0, *(sign * step for step in range(1, reach + 1) for sign in (1, -1))]


def _find(keys, base, low, high, there) -> tuple[np.ndarray, np.ndarray]:
    """Ranges of positions in `keys` for keys base+low..base+high-1; empty where not `there`."""
    first = np.searchsorted(keys, base + low)
    last = np.searchsorted(keys, base + high)
    return first, np.where(there, np.maximum(first, last), first)
