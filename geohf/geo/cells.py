"""Geocells for places that have no names: neighborhoods that the points themselves form."""

from __future__ import annotations

import heapq

import numpy as np

from geohf.geo._arrays import as_rows
from geohf.geo.distance import great_circle_m
from geohf.geo.sphere import spherical_mean, unit_vectors


def geo_cells(points, max_cells: int = 64, min_points: int = 3, min_radius_m: float = 25_000.0):
    """Divide points into cells by bisecting k-means on the sphere.

    The cell that reaches farthest from its center is cut in two until none reaches farther than `min_radius_m`, or
    there are `max_cells`. No cut leaves fewer than `min_points` points on a side. Deterministic: a cut starts from
    the two points that lie farthest apart from the center.

    Args:
        points: (n, 2) latitude and longitude in degrees.

    Returns:
        (labels, centroids): (n,) int64 and (cells, 2) degrees; cells are numbered from north to south.

    Raises:
        ValueError: no points, points that are not finite, or another shape.

    >>> labels, centroids = geo_cells([[52.5, 13.4], [52.6, 13.3], [55.7, 13.2], [55.6, 13.1]], min_points=2)
    >>> labels.tolist(), len(centroids)
    ([1, 1, 0, 0], 2)
    """
    points = as_rows(points)
    if not len(points) or not np.isfinite(points).all():
        raise ValueError("points must have shape (n, 2) with n > 0 and be finite; see geohf.geo.bad_points")
    vectors = unit_vectors(points)
    # the farthest-reaching first; of two that reach as far, the one made last
    open_cells = [_cell(points, np.arange(len(points)), 0)]
    closed: list[tuple[float, int, np.ndarray]] = []
    made = 1
    while open_cells and len(open_cells) + len(closed) < max_cells:
        cell = heapq.heappop(open_cells)
        radius, _, rows = cell
        halves = _bisect(vectors, points, rows) if -radius > min_radius_m else None
        if halves is None or min(map(len, halves)) < min_points:
            closed.append(cell)
        else:
            for half in halves:
                heapq.heappush(open_cells, _cell(points, half, -made))
                made += 1
    cells = [rows for _, _, rows in open_cells + closed]
    centroids = np.stack([spherical_mean(points[rows]) for rows in cells])
    order = np.lexsort((centroids[:, 1], -centroids[:, 0]))
    labels = np.empty(len(points), np.int64)
    for number, position in enumerate(order):
        labels[cells[position]] = number
    return labels, centroids[order]


def nearest_centroids(points, centroids) -> np.ndarray:
    """(n,) the number of the nearest of the (cells, 2) centroids to each of the (n, 2) points, all in degrees."""
    from scipy.spatial import cKDTree

    if not len(points):
        return np.empty(0, np.int64)
    vectors = unit_vectors(np.asarray(points, np.float64))
    return cKDTree(unit_vectors(np.asarray(centroids, np.float64))).query(vectors)[1].astype(np.int64)


def _cell(points, rows, order: int) -> tuple[float, int, np.ndarray]:
    """Minus how far a cell reaches in meters, what comes first of two that reach as far, and its rows."""
    return -float(great_circle_m(points[rows], spherical_mean(points[rows])).max()), order, rows


def _bisect(vectors, points, rows):
    own = vectors[rows]
    far = own[great_circle_m(points[rows], spherical_mean(points[rows])).argmax()]
    centers = np.stack([far, own[(own @ far).argmin()]])
    side = None
    for _ in range(50):
        before, side = side, (own @ centers.T).argmax(1)
        if side.min() == side.max():
            return None
        if before is not None and (side == before).all():
            break
        centers = np.stack([own[side == k].mean(0) for k in (0, 1)])
        centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    return rows[side == 0], rows[side == 1]
