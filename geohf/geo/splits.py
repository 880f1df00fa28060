"""Splits into training and validation rows: at random, by class, and by geographic blocks without leaks.

Photos taken a few steps apart are nearly the same. A random split that puts one into training and the other into
validation measures memory; `block_split` keeps them on one side.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from geohf.geo._arrays import wrap_longitude
from geohf.geo._metric import CHORD_SLACK_M, check_length, in_frame, quick_tree, search_space
from geohf.geo.distance import EARTH_RADIUS_M


class Split(NamedTuple):
    """Row numbers, int64 ascending; every row is in exactly one of the three.

    train: rows to train on.
    validation: rows to validate on.
    buffer: rows of neither, because they lie too close to validation rows to be trained on.
    """

    train: np.ndarray
    validation: np.ndarray
    buffer: np.ndarray


def random_split(n: int, fraction: float, seed: int = 42) -> Split:
    """Draw `round(n * fraction)` validation rows (at least 1, at most n - 1) at random.

    Args:
        n: number of rows, at least 2.
        fraction: part held out for validation, between 0 and 1.
        seed: of the draw; the same seed gives the same split.

    Raises:
        ValueError: fewer than 2 rows, a fraction that is not between 0 and 1.

    >>> split = random_split(10, 0.2, seed=0)
    >>> len(split.train), len(split.validation), len(split.buffer)
    (8, 2, 0)
    """
    _check(n, fraction)
    return _split(n, np.random.default_rng(seed).permutation(n)[: _share(n, fraction)])


def stratified_split(labels, fraction: float, seed: int = 42) -> Split:
    """Draw validation rows from every class in proportion to its size.

    The whole shares of all classes are drawn, and the rest of `round(n * fraction)` goes one row each to the
    classes whose share was cut the most (ties by lot). A class never gives its last row, so that every class can be
    trained on; where that leaves too few, the validation part is smaller.

    Args:
        labels: (n,) class of every row, anything that sorts.
        fraction, seed: as in `random_split`.

    Raises:
        ValueError: fewer than 2 rows, no class with 2 rows, a fraction that is not between 0 and 1.

    >>> stratified_split(["a", "a", "b", "b", "c"], 0.4, seed=0)
    Split(train=array([0, 3, 4]), validation=array([1, 2]), buffer=array([], dtype=int64))
    """
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f"labels must have shape (n,), got {labels.shape}")
    _check(len(labels), fraction)
    _, label, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if sizes.max() < 2:
        raise ValueError("every class has a single row: nothing can be held out and still be trained on")
    rng = np.random.default_rng(seed)
    # The small term undoes rounding, such as 0.29 * 100 = 28.999999999999996.
    drawn = np.minimum(np.floor(sizes * fraction + 1e-9).astype(np.int64), sizes - 1)
    lack = _share(len(labels), fraction) - int(drawn.sum())
    if lack > 0:
        cut = sizes * fraction - drawn
        by_cut = np.lexsort([rng.random(len(sizes)), -cut.round(9)])
        drawn[by_cut[drawn[by_cut] < sizes[by_cut] - 1][:lack]] += 1
    # A random order sorted by class: the first `drawn` of every class are held out.
    order = rng.permutation(len(labels))
    order = order[np.argsort(label[order], kind="stable")]
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return _split(len(labels), order[rank < np.repeat(drawn, sizes)])


def block_split(
    points, fraction: float, block_m: float, buffer_m: float = 0.0, seed: int = 42, frame: str = "wgs84"
) -> Split:
    """Hold out whole geographic blocks, and keep training rows away from them.

    Blocks are about `block_m` high and wide: bands of latitude cut into bins by longitude, fewer of them towards
    the poles. They are visited in random order; a block is taken when that brings the number of validation rows
    closer to `n * fraction`. Training rows within `buffer_m` of any validation row then go to `buffer`.

    Args:
        points: (n, 2) latitude and longitude in degrees for `wgs84`, data units for `planar`.
        fraction: part of the rows held out for validation, between 0 and 1, met as closely as whole blocks allow.
        block_m, buffer_m: side of a block, and the distance that training rows keep from validation rows (0 for
            none), in meters, or data units for `planar`.
        seed: of the order of the blocks.
        frame: `"wgs84"` or `"planar"`.

    Raises:
        ValueError: fewer than 2 rows, arguments out of range, a wrong shape, or a result with an empty training or
            validation part; the message says what to change.
        DataError: values that are not finite or no degrees; names the rows.

    >>> drive = [[36.0, 127.0 + i * 0.001] for i in range(20)]  # a point every 90 m
    >>> split = block_split(drive, 0.3, block_m=500, buffer_m=200, seed=1)
    >>> split.validation, split.buffer
    (array([ 0,  1,  8,  9, 10, 11, 12, 19]), array([ 2,  3,  6,  7, 13, 14, 17, 18]))
    """
    block_m = check_length("block_m", block_m)
    buffer_m = check_length("buffer_m", buffer_m, zero=True)
    points = in_frame(points, frame)
    _check(len(points), fraction)
    block = block_numbers(points, block_m, frame)
    sizes = np.bincount(block)
    if len(sizes) == 1:
        raise ValueError(
            f"all {len(points)} rows lie in one block of {block_m:g}: nothing is left to train on; use a smaller block_m"
        )
    held_out = _draw_blocks(sizes, len(points) * fraction, seed)[block]
    close = np.zeros(len(points), bool)
    if buffer_m > 0:
        close[~held_out] = _within(points, held_out, buffer_m, frame)
    if (held_out | close).all():
        raise ValueError(
            f"no training rows are left: {int(held_out.sum())} rows are held out and the other {int(close.sum())} "
            f"lie within {buffer_m:g} of them; use a smaller buffer_m, block_m or fraction"
        )
    return _split(len(points), held_out, close)


def block_numbers(points, block_m: float, frame: str = "wgs84") -> np.ndarray:
    """(n,) the number of the block of `block_split` that each point lies in; its arguments are those there."""
    points = in_frame(points, frame)
    block = _sphere_blocks(points, block_m) if frame == "wgs84" else np.floor(points / block_m)
    return np.unique(block, axis=0, return_inverse=True)[1].reshape(-1)


def _check(n: int, fraction: float) -> None:
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction must be between 0 and 1, got {fraction}")
    if n < 2:
        raise ValueError(f"a split needs at least 2 rows, got {n}")


def _share(n: int, fraction: float) -> int:
    return min(max(round(n * fraction), 1), n - 1)


def _split(n: int, validation: np.ndarray, buffer: np.ndarray | slice = slice(0)) -> Split:
    """The split of n rows, of which two parts are given by number or as a mask."""
    part = np.zeros(n, np.int8)
    part[validation] = 1
    part[buffer] = 2
    return Split(*(np.flatnonzero(part == number) for number in range(3)))


def _sphere_blocks(points: np.ndarray, block_m: float) -> np.ndarray:
    """(n, 2) band and bin of every point."""
    half_turn = np.pi * EARTH_RADIUS_M
    bands = max(1, round(half_turn / block_m))
    band = np.minimum(np.floor((points[:, 0] + 90.0) / 180.0 * bands), bands - 1)
    middle = np.deg2rad((band + 0.5) * (180.0 / bands) - 90.0)
    bins = np.maximum(1.0, np.round(2.0 * half_turn * np.cos(middle) / block_m))
    turned = (wrap_longitude(np, points[:, 1]) + 180.0) / 360.0
    return np.stack([band, np.minimum(np.floor(turned * bins), bins - 1)], 1)


def _draw_blocks(sizes: np.ndarray, wanted: float, seed: int) -> np.ndarray:
    """(n_blocks,) bool: blocks drawn in random order, each taken if the total gets closer to `wanted`."""
    taken = np.zeros(len(sizes), bool)
    total = 0
    for number in np.random.default_rng(seed).permutation(len(sizes)).tolist():
        size = int(sizes[number])
        if abs(total + size - wanted) < abs(total - wanted):
            taken[number] = True
            total += size
            if total >= wanted:
                break
    if not taken.any():  # every block is more than twice what is wanted
        taken[sizes.argmin()] = True
    return taken


def _within(points: np.ndarray, held_out: np.ndarray, buffer_m: float, frame: str) -> np.ndarray:
    """Which of the rows that are not held out lie within `buffer_m` of one that is."""
    vectors, threshold = search_space(points, buffer_m, frame)
    # The search leaves out its own bound; a hair more puts the rim into the buffer, the safe side.
    bound = threshold + (
        CHORD_SLACK_M if frame == "wgs84" else 1e-12 * max(threshold, float(np.abs(points).max()))
    )
    distance, _ = quick_tree(vectors[held_out]).query(vectors[~held_out], distance_upper_bound=bound)
    return np.isfinite(distance)
