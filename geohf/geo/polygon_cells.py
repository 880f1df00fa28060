"""Geocells that keep to borders: polygons with many points are divided, those with few join a neighbor."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from geohf.errors import DataError, listed
from geohf.geo.areas import Area
from geohf.geo.distance import great_circle_m
from geohf.geo.quadtree import CellTree, cell_tree, nearest_areas
from geohf.geo.sphere import spherical_mean

logger = logging.getLogger(__name__)

_NUDGE = 1e-6  # degrees; a point on a shared border is in one polygon only, a little to the side


def polygon_cells(
    points: np.ndarray, areas: Mapping[str, Area], split: int, depth: int = 10
) -> tuple[CellTree, np.ndarray, list[str]]:
    """Cells that each lie in one polygon, or in neighbors that have few points: their tree, each point's cell, their names.

    A polygon with at least `split` points is divided by a quadtree; one with fewer than a quarter of that joins the
    neighbor with which it shares the longest border, or the nearest one, as in PIGEON's semantic geocells (Haas et al.,
    arXiv 2307.05845). Points outside all polygons go to the nearest one.

    Args:
        points: (n, 2) latitude and longitude in degrees.
        areas: name -> area. Those without a point are left out, with a word.

    Raises:
        DataError: two polygons overlap where there are points.
    """
    names, outlines = list(areas), list(areas.values())
    _refuse_overlaps(points, names, outlines)
    own = nearest_areas(outlines, points)
    counts = np.bincount(own, minlength=len(names))
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    if empty:
        logger.warning(
            "%d polygons have no training place and are left out: %s", len(empty), listed(empty, 10)
        )
    group = _merged(points, own, outlines, counts, split / 4)
    members: dict[int, list[int]] = defaultdict(list)
    for number in np.flatnonzero(counts):
        members[group[number]].append(int(number))
    parts = list(members.values())
    rows = [np.flatnonzero(np.isin(own, part)) for part in parts]
    unions = [Area([polygon for number in part for polygon in outlines[number].polygons]) for part in parts]
    tree, cell = cell_tree([points[part] for part in rows], split, depth, unions if len(unions) > 1 else ())
    labels = np.empty(len(points), np.int64)
    labels[np.concatenate(rows)] = cell
    titles = [" + ".join(names[number] for number in part) for part in parts]
    return tree, labels, _cell_titles(titles, [np.unique(labels[part]) for part in rows])


def _cell_titles(titles: list[str], cells: list[np.ndarray]) -> list[str]:
    """`Texas` for a polygon of one cell, `Texas 1`, `Texas 2` for one of several."""
    named = {
        int(cell): title if len(own) == 1 else f"{title} {i}"
        for title, own in zip(titles, cells, strict=True)
        for i, cell in enumerate(own, start=1)
    }
    return [named[cell] for cell in range(len(named))]


def _refuse_overlaps(points: np.ndarray, names: list[str], areas: list[Area]) -> None:
    first = np.full(len(points), -1)
    for number, area in enumerate(areas):
        inside = np.flatnonzero(area.contains(points))
        twice = inside[first[inside] >= 0]
        for row in twice:
            around = points[row] + _NUDGE * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
            other = areas[first[row]]
            if (area.contains(around) & other.contains(around)).all():
                latitude, longitude = points[row]
                raise DataError(
                    f"the polygons {names[first[row]]!r} and {names[number]!r} overlap: ({latitude:g}, {longitude:g}) "
                    "lies in both"
                )
        first[inside] = number


def _merged(points, own, areas, counts, least: float) -> np.ndarray:
    """(polygons,) a number each; polygons of one number are one group with at least so many points, if there are so many."""
    group = np.arange(len(areas))
    size = counts.astype(float)
    size[counts == 0] = np.inf  # are no group
    if not (size < least).any():
        return group
    borders = _borders(areas)
    middles = np.array(
        [spherical_mean(points[own == i]) if counts[i] else (np.nan, np.nan) for i in range(len(areas))]
    )
    while (size < least).any() and np.isfinite(size).sum() > 1:
        small = int(size.argmin())
        shared: dict[int, float] = defaultdict(float)
        for (a, b), length in borders.items():
            ga, gb = group[a], group[b]
            if small in (ga, gb) and ga != gb:
                shared[ga if gb == small else gb] += length
        known = {other: length for other, length in shared.items() if np.isfinite(size[other])}
        if known:
            other = max(known, key=lambda g: (known[g], -g))
        else:
            others = np.flatnonzero(np.isfinite(size) & (np.arange(len(size)) != small))
            mine = great_circle_m(middles[others], middles[small])
            other = int(others[mine.argmin()])
        group[group == small] = other
        size[other] += size[small]
        size[small] = np.inf
    return group


def _borders(areas: list[Area]) -> dict[tuple[int, int], float]:
    """(polygon, polygon) -> degrees of border that both are drawn with, edge for edge."""
    seen: dict[tuple, set[int]] = defaultdict(set)
    for number, area in enumerate(areas):
        for rings in area.polygons:
            for ring in rings:
                corners = [tuple(corner) for corner in ring.round(6).tolist()]
                for edge in pairwise(corners):
                    seen[tuple(sorted(edge))].add(number)
    lengths: dict[tuple[int, int], float] = defaultdict(float)
    for ((lat_1, lon_1), (lat_2, lon_2)), numbers in seen.items():
        if len(numbers) == 2:
            a, b = sorted(numbers)
            east = (lon_2 - lon_1) * np.cos(np.deg2rad((lat_1 + lat_2) / 2))
            lengths[a, b] += float(np.hypot(lat_2 - lat_1, east))
    return lengths
