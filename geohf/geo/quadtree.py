"""Geocells as a tree: boxes cut at the medians of their points, alone or inside polygons, with all their ancestors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from geohf.errors import require_at_least
from geohf.geo._arrays import as_rows, wrap_longitude
from geohf.geo.areas import Area
from geohf.geo.distance import great_circle_m

_EDGE = 1e-9  # degrees by which edges that are one may differ as they are written


@dataclass
class CellTree:
    """Cells that divide the whole earth, and what they are parts of.

    A node cuts its points at a latitude (axis 0) or longitude (axis 1): below `threshold` they go to `low`, else to
    `high`, which name another node, or the leaf i as -1 - i. Leaves are the cells, numbered depth first.

    Attributes:
        roots: where the points of each part of the earth begin, as `low` does; one, where there are no polygons.
        axis, threshold, low, high: one entry per node.
        levels: the parent of each cell, then the parent of each of those parents, and so on; each entry numbers its
            parents from 0. There is no level of one part, and none with more than half as many parts as the next.
        areas: the polygons that are the parts, one `Area` a root; empty where there is one root.
    """

    roots: list[int]
    axis: list[int]
    threshold: list[float]
    low: list[int]
    high: list[int]
    levels: list[list[int]]
    areas: list[Area] = field(default_factory=list)

    @property
    def cells(self) -> int:
        """The number of leaves."""
        return -min([*self.roots, *self.low, *self.high])

    def assign(self, points) -> np.ndarray:
        """(n,) the cell of each of the (n, 2) points in degrees; there is always one."""
        points = _wrapped(points)
        node = np.array(self.roots)[nearest_areas(self.areas, points)]
        axis, threshold = np.array(self.axis, int), np.array(self.threshold)
        low, high = np.array(self.low, int), np.array(self.high, int)
        while (inner := node >= 0).any():
            at = node[inner]
            values = points[inner, axis[at]]
            node[inner] = np.where(values < threshold[at], low[at], high[at])
        return -1 - node

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON; outlines to 1e-6 degrees."""
        rings = [
            [[ring.round(6).tolist() for ring in polygon] for polygon in area.polygons] for area in self.areas
        ]
        names = ("roots", "axis", "threshold", "low", "high", "levels")
        return {name: getattr(self, name) for name in names} | {"areas": rings}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> CellTree:
        """The inverse of `to_dict`; entries that make no tree are a ValueError."""
        areas = [
            Area([[np.array(ring) for ring in polygon] for polygon in area])
            for area in saved.get("areas") or []
        ]
        tree = cls(**{name: saved[name] for name in cls.__dataclass_fields__ if name != "areas"}, areas=areas)
        nodes = len(tree.axis)
        sides = [*tree.roots, *tree.low, *tree.high]
        if not nodes == len(tree.threshold) == len(tree.low) == len(tree.high):
            raise ValueError("the nodes of a cell tree need one axis, threshold, low and high each")
        # each node and each leaf is named once, and a node only by an earlier one: so no walk goes in a circle
        leaves, inner = sorted(-1 - s for s in sides if s < 0), sorted(s for s in sides if s >= 0)
        later = all(
            s < 0 or s > i for i, pair in enumerate(zip(tree.low, tree.high, strict=True)) for s in pair
        )
        if leaves != list(range(len(leaves))) or inner != list(range(nodes)) or not later:
            raise ValueError("the nodes of a cell tree are not a tree")
        if len(tree.roots) != max(1, len(areas)) or not set(tree.axis) <= {0, 1}:
            raise ValueError("a cell tree needs one root an area, and the axes 0 and 1")
        size = len(leaves)
        for parents in tree.levels:
            if len(parents) != size or sorted(set(parents)) != list(range(len(set(parents)))):
                raise ValueError("the levels of a cell tree must name a parent for each part")
            size = len(set(parents))
        return tree


def quadtree(points, split: int = 1000, depth: int = 10) -> tuple[CellTree, np.ndarray]:
    """Cut the points' box at the median latitude and each half at its own median longitude, again and again.

    A box with fewer than `split` points is a cell. Source: Astruc et al., OpenStreetView-5M, arXiv 2404.18873,
    whose cells have `split` 1000 and `depth` 10. A cut that would leave a side without a point is not made.

    Args:
        points: (n, 2) latitude and longitude in degrees.
        split: points of a box that is cut.
        depth: cuts in four, one within the other, at the most.

    Returns:
        (the tree, (n,) int64 the cell of each point).

    Raises:
        ValueError: no points, points that are not finite, or a `split` below 2.

    >>> tree, labels = quadtree([[0, 0], [1, 9], [5, 2], [6, 3], [7, 8]], split=4)
    >>> labels.tolist(), tree.cells, tree.levels
    ([0, 1, 2, 3, 3], 4, [])
    """
    return cell_tree([points], split, depth)


def tree_of_boxes(low, high) -> CellTree:
    """The tree whose cell i is the i-th of some boxes that do not overlap, as published cells are given.

    It is cut where the boxes on both sides are as many as can be. What lies in none of them belongs to one nearby. Boxes
    that no cuts from side to side tell apart are a ValueError.

    Args:
        low, high: (n, 2) their southwestern and northeastern corners in degrees.
    """
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    roots: list[int] = [0]
    nodes: list[list] = []
    # boxes, and who calls them what
    todo: list[tuple[np.ndarray, list, int]] = [(np.arange(len(low)), roots, 0)]
    while todo:
        boxes, parent, side = todo.pop()
        if len(boxes) == 1:
            parent[side] = -1 - int(boxes[0])
            continue
        axis, threshold = _between(low[boxes], high[boxes])
        parent[side] = len(nodes)
        nodes.append([axis, threshold, 0, 0])
        below = high[boxes, axis] <= threshold + _EDGE
        todo += [(boxes[~below], nodes[-1], 3), (boxes[below], nodes[-1], 2)]
    return CellTree(roots, *_columns(nodes), [])


def _columns(nodes: list[list]) -> tuple[list, list, list, list]:
    """Axes, thresholds, and lower and upper sides of nodes."""
    axis, threshold, low, high = ([node[i] for node in nodes] for i in range(4))
    return axis, threshold, low, high


def _between(low: np.ndarray, high: np.ndarray) -> tuple[int, float]:
    """The axis and threshold that leave these boxes whole and divide them most evenly."""
    best: tuple[float, int, float] | None = None
    for axis in (0, 1):
        cuts = np.unique(low[:, axis])[1:]
        begun = np.searchsorted(np.sort(low[:, axis]), cuts - _EDGE)
        ended = np.searchsorted(np.sort(high[:, axis]), cuts + _EDGE, side="right")
        for cut, count in zip(cuts[begun == ended], begun[begun == ended], strict=True):
            candidate = (abs(2 * count - len(low)), axis, float(cut))
            best = min(best or candidate, candidate) if 0 < count < len(low) else best
    if best is None:
        raise ValueError("the boxes of cells overlap, or no cut from side to side tells them apart")
    return best[1:]


def cell_tree(
    parts: Sequence, split: int, depth: int = 10, areas: Sequence[Area] = ()
) -> tuple[CellTree, np.ndarray]:
    """A quadtree for each part of the earth, under one roof, and the cell of each point of all parts, one after the other.

    Args:
        parts: (n, 2) points in degrees, one array per part, none empty.
        areas: what the parts are, for several of them.
    """
    require_at_least(2, split=split)
    sizes = [len(part) for part in parts]
    if not sizes or not all(sizes):
        raise ValueError("cells need points, in each part")
    grower = _Grower(np.concatenate([_wrapped(part) for part in parts]), split)
    ends = np.cumsum(sizes)
    roots = [
        grower.grow(np.arange(end - size, end), (number,), depth)
        for number, (size, end) in enumerate(zip(sizes, ends, strict=True))
    ]
    tree = CellTree(roots, *_columns(grower.nodes), _levels(grower.paths), list(areas))
    labels = np.empty(len(grower.points), np.int64)
    labels[np.concatenate(grower.rows)] = np.repeat(np.arange(len(grower.rows)), [*map(len, grower.rows)])
    return tree, labels


@dataclass
class _Grower:
    """The nodes and leaves of trees as they grow, depth first; of each leaf its part and quarters, and its rows."""

    points: np.ndarray
    split: int
    nodes: list[list] = field(default_factory=list)
    paths: list[tuple[int, ...]] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)

    def grow(
        self, rows: np.ndarray, path: tuple[int, ...], depth: int, axis: int = 0, quarter: int = 0
    ) -> int:
        """A node or leaf for these rows, as `CellTree` calls it: cut at the median latitude, then the longitude."""
        if axis == 2:
            return self.grow(rows, (*path, quarter), depth - 1)
        if axis == 0 and (
            depth == 0 or len(rows) < self.split or (self.points[rows] == self.points[rows[0]]).all()
        ):
            self.paths.append(path)
            self.rows.append(rows)
            return -len(self.paths)
        values = self.points[rows, axis]
        threshold = float(np.median(values))
        below = values < threshold
        if not below.any():
            return self.grow(rows, path, depth, axis + 1, quarter * 2)
        number, node = len(self.nodes), [axis, threshold, 0, 0]
        self.nodes.append(node)
        node[2] = self.grow(rows[below], path, depth, axis + 1, quarter * 2)
        node[3] = self.grow(rows[~below], path, depth, axis + 1, quarter * 2 + 1)
        return number


def _levels(paths: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Parents level by level, see `CellTree`, of the paths of leaves in depth-first order."""
    shared = np.array([-1] + [_common(a, b) for a, b in pairwise(paths)])
    deepest = max(map(len, paths))
    # a leaf that ends above a depth stands there for itself
    numbers = [np.cumsum(shared < depth) - 1 for depth in range(deepest, 0, -1)]
    levels, below = [], numbers[0]
    for own in numbers[1:]:
        if own[-1] == 0:
            break
        if 2 * own[-1] > below[-1]:  # says little that the level below does not say
            continue
        first = np.flatnonzero(np.diff(below, prepend=-1))
        levels.append(own[first].tolist())
        below = own
    return levels


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many entries two paths begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def nearest_areas(areas: Sequence[Area], points: np.ndarray) -> np.ndarray:
    """(n,) the first area that holds each of the (n, 2) points, else the nearest one; 0 where there are none."""
    nearest = np.full(len(points), -1 if areas else 0)
    for number, area in enumerate(areas):
        left = np.flatnonzero(nearest < 0)
        nearest[left[area.contains(points[left])]] = number
    outside = np.flatnonzero(nearest < 0)
    if len(outside):
        away = [great_circle_m(points[outside], area.nearest(points[outside])) for area in areas]
        nearest[outside] = np.argmin(away, 0)
    return nearest


def _wrapped(points) -> np.ndarray:
    """(n, 2) float64, longitudes in [-180, 180)."""
    points = as_rows(points)
    if not np.isfinite(points).all():
        raise ValueError("cells need finite points; see geohf.geo.bad_points")
    return np.stack([points[:, 0], wrap_longitude(np, points[:, 1])], 1)
