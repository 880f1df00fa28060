"""All pairs and all matches of points within a radius, by k-d trees over points on the sphere."""

from __future__ import annotations

import numpy as np

from geohf.geo._metric import CHORD_SLACK_M, as_degrees, check_length, chord_m, quick_tree
from geohf.geo.distance import EARTH_RADIUS_M, great_circle_m
from geohf.geo.sphere import unit_vectors

_CHUNK = 1 << 15


def pairs_within_m(points, radius_m: float) -> np.ndarray:
    """All pairs of points at most `radius_m` apart along the great circle.

    Exact: a pair whose chord is within rounding of the radius is decided by `great_circle_m`.

    Args:
        points: (n, 2) latitude and longitude in degrees.
        radius_m: meters, above zero.

    Returns:
        (n_pairs, 2) int64, each row i < j, sorted by i and then j.

    Raises:
        ValueError: a shape that is not (n, 2), a radius that is not above zero and finite.
        DataError: values that are not finite or no degrees; names the rows.

    >>> pairs_within_m([[0, 179.9999], [0, -179.9999], [0, 0], [0, 0.0001]], radius_m=25)
    array([[0, 1],
           [2, 3]])
    """
    radius_m = check_length("radius_m", radius_m)
    points = as_degrees(points)
    vectors = EARTH_RADIUS_M * unit_vectors(points)
    chord = chord_m(radius_m)
    pairs = quick_tree(vectors).query_pairs(chord + CHORD_SLACK_M, output_type="ndarray")
    # One integer a pair sorts several times faster than two columns; point numbers fit 31 bits.
    keys = (pairs[:, 0].astype(np.int64) << 32) | pairs[:, 1]
    keys.sort()
    pairs = np.empty((len(keys), 2), np.int64)
    np.right_shift(keys, 32, out=pairs[:, 0])
    np.bitwise_and(keys, 0xFFFFFFFF, out=pairs[:, 1])
    within = np.ones(len(pairs), bool)
    rim = np.flatnonzero(_squared_chords(vectors, pairs) > max(chord - CHORD_SLACK_M, 0.0) ** 2)
    within[rim] = great_circle_m(points[pairs[rim, 0]], points[pairs[rim, 1]]) <= radius_m
    return pairs if within.all() else pairs[within]


def _squared_chords(vectors: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Squared lengths between the points of every pair, in chunks that stay in cache."""
    out = np.empty(len(pairs))
    for start in range(0, len(pairs), _CHUNK):
        chunk = pairs[start : start + _CHUNK]
        gap = vectors[chunk[:, 0]]
        gap -= vectors[chunk[:, 1]]
        np.einsum("ij,ij->i", gap, gap, out=out[start : start + len(chunk)])
    return out


def matches_within_m(database, queries, radius_m: float) -> tuple[np.ndarray, np.ndarray]:
    """For every query the database points at most `radius_m` away, in compressed sparse rows.

    The matches of query `q` are `indices[offsets[q]:offsets[q + 1]]`. Exact like `pairs_within_m`, and refuses the
    same.

    Args:
        database, queries: (n, 2) and (q, 2) latitude and longitude in degrees.
        radius_m: meters, above zero.

    Returns:
        offsets: (q + 1,) int64 ascending from 0.
        indices: (offsets[-1],) int64 rows of the database, ascending within a query.

    >>> matches_within_m([[0, 0], [0, 1], [0, 0.0001]], [[0, 0], [5, 5], [0, 1]], radius_m=25)
    (array([0, 2, 2, 3]), array([0, 2, 1]))
    """
    radius_m = check_length("radius_m", radius_m)
    database, queries = as_degrees(database, "database"), as_degrees(queries, "queries")
    offsets = np.zeros(len(queries) + 1, np.int64)
    if not len(database) or not len(queries):
        return offsets, np.empty(0, np.int64)
    chord = chord_m(radius_m)
    tree_of_queries = quick_tree(EARTH_RADIUS_M * unit_vectors(queries))
    tree = quick_tree(EARTH_RADIUS_M * unit_vectors(database))
    # Walking both trees at once; its answer carries the chords, so the rim costs nothing to find.
    pairs = tree_of_queries.sparse_distance_matrix(tree, chord + CHORD_SLACK_M, output_type="ndarray")
    rim = pairs["v"] > chord - CHORD_SLACK_M
    keys = (pairs["i"].astype(np.int64) << 32) | pairs["j"]
    if rim.any():
        at_rim = keys[rim]
        near = great_circle_m(queries[at_rim >> 32], database[at_rim & 0xFFFFFFFF]) <= radius_m
        keys = np.concatenate([keys[~rim], at_rim[near]])
    keys.sort()
    np.cumsum(np.bincount(keys >> 32, minlength=len(queries)), out=offsets[1:])
    return offsets, keys & 0xFFFFFFFF
