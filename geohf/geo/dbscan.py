"""DBSCAN whose memory grows with the points and not with the pairs, in meters on the sphere or in the plane."""

from __future__ import annotations

import numpy as np

from geohf.geo._grid import Grid, plane_grid, sphere_grid
from geohf.geo._metric import check_length, in_frame, search_space

_CHUNK = 1 << 16  # distances tested at a time
_FIRST_BLOCK = 16  # candidates of a point tested before it is asked again whether it needs more


def dbscan(points, eps: float, min_samples: int = 10, frame: str = "wgs84") -> np.ndarray:
    """Density clusters: DBSCAN of Ester et al., KDD 1996, exact.

    A point with at least `min_samples` points within `eps` (itself counted, the rim included) is a core point. Core
    points within `eps` of each other share a cluster. Another point within `eps` of core points is a border point
    of that of their clusters whose first core point comes first in the table. So the labels are scikit-learn's up
    to numbering.

    Points are sorted into cells in which all points are within `eps` of each other, so a cell of `min_samples`
    points needs no distance at all, and clusters are connected components of cells.

    Args:
        points: (n, 2) latitude and longitude in degrees for `wgs84`, data units for `planar`.
        eps: great-circle meters for `wgs84`, data units for `planar`; above zero.
        min_samples: at least 1.
        frame: `"wgs84"` or `"planar"`.

    Returns:
        (n,) int64 labels, -1 for noise; clusters are numbered in order of their first point in the table.

    Raises:
        ValueError: a shape that is not (n, 2), eps or min_samples out of range, eps too small for the extent.
        DataError: values that are not finite or no degrees; names the rows.

    >>> dbscan([[0, 0], [0, 179.9999], [0, -179.9999], [0, 180.0], [0, 0.0001]], eps=25, min_samples=2)
    array([0, 1, 1, 1, 0])
    >>> dbscan([[1000, 0], [1000, 3], [1000, 90]], eps=5, min_samples=2, frame="planar")
    array([ 0,  0, -1])
    """
    points = in_frame(points, frame)
    eps = check_length("eps", eps)
    if min_samples != int(min_samples) or min_samples < 1:
        raise ValueError(f"min_samples must be a whole number of at least 1, got {min_samples}")
    if not len(points):
        return np.empty(0, np.int64)
    grid = sphere_grid(points, eps) if frame == "wgs84" else plane_grid(points, eps)
    vectors, threshold = search_space(points, eps, frame)
    vectors = vectors[grid.order]
    limit = threshold * threshold
    core = _core_points(vectors, grid, limit, int(min_samples))
    # Numbers of core points before every position: ranges of points become ranges of core points.
    before = np.concatenate([[0], np.cumsum(core)])
    core_vectors = vectors[core]
    cluster = _cell_clusters(core_vectors, grid, before, limit)
    label = np.full(len(core), -1, np.int64)
    sizes = np.diff(grid.start)
    label[core] = np.repeat(cluster, sizes)[core]
    # In order of their first core points in the table: a border point takes the lowest.
    cluster = _rank_of_first(_in_table(label, grid), cluster.max() + 1)[cluster]
    label[core] = np.repeat(cluster, sizes)[core]
    _label_borders(label, vectors, core, core_vectors, cluster, grid, before, limit)
    label = _in_table(label, grid)
    return _rank_of_first(label, cluster.max() + 1)[label]


def _spread(first: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranges first..first+length-1 laid end to end: (which range, which position)."""
    owner = np.repeat(np.arange(len(first)), length)
    offset = np.cumsum(length) - length
    return owner, np.arange(len(owner)) + (first - offset)[owner]


def _portions(length: np.ndarray):
    """Slices of ranges whose lengths sum to about `_CHUNK` (a longer range comes alone)."""
    ends = np.cumsum(length)
    begin = 0
    while begin < len(length):
        done = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + _CHUNK, side="right")))
        yield slice(begin, end)
        begin = end


def _candidates(rows: np.ndarray, at: np.ndarray, end: np.ndarray, undecided):
    """Rows with their candidates at..end-1: (some of the rows, which of these, which candidate) again and again.

    Next to a full cell a few candidates settle a point; the block doubles for those that they leave `undecided`.
    """
    block = _FIRST_BLOCK
    while len(rows):
        length = np.minimum(end - at, block)
        for part in _portions(length):
            yield rows[part], *_spread(at[part], length[part])
        more = (at + length < end) & undecided(rows)
        rows, at, end = rows[more], (at + length)[more], end[more]
        block *= 2


def _squared(a: np.ndarray, i: np.ndarray | slice, b: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Squared lengths of `a[i] - b[j]`."""
    gap = a[i] - b[j]
    return np.einsum("ij,ij->i", gap, gap)


def _core_points(vectors: np.ndarray, grid: Grid, limit: float, min_samples: int) -> np.ndarray:
    """(n,) bool in cell order."""
    sizes = np.diff(grid.start)
    reachable = sum(grid.start[high] - grid.start[low] for _, low, high in grid.ranges)
    core = np.repeat(sizes >= min_samples, sizes)
    undecided = np.repeat((sizes < min_samples) & (reachable >= min_samples), sizes)
    point = np.flatnonzero(undecided)
    cell = np.repeat(np.arange(len(sizes)), sizes)[point]
    neighbors = np.zeros(len(point), np.int64)
    for _, low, high in grid.ranges:
        todo = np.flatnonzero(neighbors < min_samples)
        at, end = grid.start[low[cell[todo]]], grid.start[high[cell[todo]]]
        for rows, owner, other in _candidates(todo, at, end, lambda rows: neighbors[rows] < min_samples):
            near = _squared(vectors, point[rows][owner], vectors, other) <= limit
            neighbors[rows] += np.bincount(owner[near], minlength=len(rows))
    core[point[neighbors >= min_samples]] = True
    return core


def _cell_clusters(core_vectors: np.ndarray, grid: Grid, before: np.ndarray, limit: float) -> np.ndarray:
    """(n_cells,) component of every cell with core points, -1 for the others."""
    first = before[grid.start]
    filled = np.diff(first) > 0
    count = int(filled.sum())
    cluster = np.full(len(filled), -1, np.int64)
    if not count:
        return cluster
    number = np.concatenate([[0], np.cumsum(filled)])
    starts = np.append(first[:-1][filled], first[-1])
    middle = _middle_points(core_vectors, starts)
    joined, open_pairs = [], []
    for step, low, high in grid.ranges:
        if step < 0:  # seen from the other side
            continue
        low, high = number[low[filled]], number[high[filled]]
        if step == 0:
            low = np.maximum(low, np.arange(count) + 1)
        length = np.maximum(high - low, 0)
        for part in _portions(length):
            a, b = _spread(low[part], length[part])
            a += part.start
            # Full neighbors are nearly always joined by the points in their middles.
            near = _squared(core_vectors, middle[a], core_vectors, middle[b]) <= limit
            joined.append(np.stack([a[near], b[near]]).astype(np.int32))
            open_pairs.append(np.stack([a[~near], b[~near]]).astype(np.int32))
    component = _components(count, np.concatenate(joined, 1))
    pairs = np.concatenate(open_pairs, 1)
    del joined, open_pairs
    pairs = pairs[:, component[pairs[0]] != component[pairs[1]]]
    pairs = _near_boxes(core_vectors, starts, pairs, limit)
    component = _join_exactly(core_vectors, starts, pairs, component, limit)
    cluster[filled] = component
    return cluster


def _components(count: int, edges: np.ndarray) -> np.ndarray:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(edges.shape[1], bool), (edges[0], edges[1])), (count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _middle_points(vectors: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Of every cell the point closest to the mean of its points."""
    sizes = np.diff(starts)
    mean = np.add.reduceat(vectors, starts[:-1], axis=0) / sizes[:, None]
    cell = np.repeat(np.arange(len(sizes)), sizes)
    distance = _squared(vectors, slice(None), mean, cell)
    least = np.flatnonzero(distance == np.minimum.reduceat(distance, starts[:-1])[cell])
    middle = np.empty(len(sizes), np.int64)
    middle[cell[least]] = least
    return middle


def _near_boxes(vectors, starts, pairs, limit) -> np.ndarray:
    """The pairs of cells whose bounding boxes come within the limit."""
    if not pairs.shape[1]:
        return pairs
    low = np.minimum.reduceat(vectors, starts[:-1], axis=0)
    high = np.maximum.reduceat(vectors, starts[:-1], axis=0)
    a, b = pairs
    gap = np.maximum(np.maximum(low[a] - high[b], low[b] - high[a]), 0.0)
    return pairs[:, np.einsum("ij,ij->i", gap, gap) <= limit]


def _join_exactly(vectors, starts, pairs, component, limit) -> np.ndarray:
    """Join components whose cells hold core points within the limit, testing as few points as possible."""
    sizes = np.diff(starts)
    work = sizes[pairs[0]] * sizes[pairs[1]]
    by_work = np.argsort(work, kind="stable")
    pairs, work = pairs[:, by_work], work[by_work]
    while pairs.shape[1]:
        # Cheap pairs first: each join makes other pairs needless.
        end = max(1, int(np.searchsorted(np.cumsum(work), _CHUNK, side="right")))
        a, b = pairs[:, :end]
        if end == 1 and work[0] > _CHUNK:
            near = np.array([_touch(vectors, starts, a[0], b[0], limit)])
        else:
            owner, rank = _spread(np.zeros(end, np.int64), work[:end])
            i, j = np.divmod(rank, sizes[b][owner])
            close = _squared(vectors, starts[a][owner] + i, vectors, starts[b][owner] + j) <= limit
            near = np.bincount(owner[close], minlength=end) > 0
        pairs, work = pairs[:, end:], work[end:]
        if near.any():
            count = int(component.max()) + 1
            component = _components(count, np.stack([component[a[near]], component[b[near]]]))[component]
            apart = component[pairs[0]] != component[pairs[1]]
            pairs, work = pairs[:, apart], work[apart]
    return component


def _touch(vectors, starts, a, b, limit) -> bool:
    """Whether two crowded cells hold points within the limit of each other."""
    from scipy.spatial import cKDTree

    few, many = sorted((vectors[starts[c] : starts[c + 1]] for c in (a, b)), key=len)
    # A tree proposes the closest pair; its distance is computed here as everywhere else.
    distance, index = cKDTree(many).query(few)
    best = int(distance.argmin())
    return bool(_squared(few, np.array([best]), many, index[[best]])[0] <= limit)


def _in_table(label: np.ndarray, grid: Grid) -> np.ndarray:
    """Labels in the order of the table instead of that of the cells."""
    out = np.empty_like(label)
    out[grid.order] = label
    return out


def _rank_of_first(label: np.ndarray, count: int) -> np.ndarray:
    """(count + 1,) new numbers of clusters, in order of their first rows; the last one serves -1."""
    import pandas as pd

    found = pd.unique(label[label >= 0])
    rank = np.full(count + 1, -1)
    rank[found] = np.arange(len(found))
    return rank


def _label_borders(label, vectors, core, core_vectors, cluster, grid, before, limit) -> None:
    """Give every point near a core point the lowest cluster that it touches; in place."""
    sizes = np.diff(grid.start)
    none = np.iinfo(np.int64).max
    owner_of_core = label[core]
    # The lowest cluster in a cell's neighborhood: where there is none its points are noise.
    lowest = np.full(len(sizes), none)
    mixed = np.flatnonzero(np.add.reduceat(~core, grid.start[:-1]) > 0)
    of_cell = np.where(cluster >= 0, cluster, none)
    for _, low, high in grid.ranges:
        length = (high - low)[mixed]
        for part in _portions(length):
            owner, other = _spread(low[mixed[part]], length[part])
            np.minimum.at(lowest, mixed[part][owner], of_cell[other])
    cell = np.repeat(np.arange(len(sizes)), sizes)
    point = np.flatnonzero(~core & (lowest[cell] < none))
    cell = cell[point]
    best = np.full(len(point), none)
    for _, low, high in grid.ranges:
        todo = np.flatnonzero(best > lowest[cell])
        at, end = before[grid.start[low[cell[todo]]]], before[grid.start[high[cell[todo]]]]
        for rows, owner, other in _candidates(todo, at, end, lambda rows: best[rows] > lowest[cell[rows]]):
            near = _squared(vectors, point[rows][owner], core_vectors, other) <= limit
            np.minimum.at(best, rows[owner[near]], owner_of_core[other[near]])
    reached = best < none
    label[point[reached]] = best[reached]
