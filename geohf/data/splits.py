"""Dividing places into train, validation and test."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from geohf.data.columns import stored_column
from geohf.data.tables import SPLIT_NAMES, points_of
from geohf.data.task_data import facts_of, with_facts
from geohf.errors import DataError, require_at_least, require_choice
from geohf.geo import block_split, dbscan, random_split, stratified_split
from geohf.geo.splits import block_numbers
from geohf.vision.contents import contents_of

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, DatasetDict

logger = logging.getLogger(__name__)

T = TypeVar("T")

BLOCK_M = 50_000.0
SPLITS = ("stratified", "random", "blocks")


def by_split(parts: Mapping[str, T], source: str | Path) -> dict[str, T]:
    """Parts of data by `train`, `validation` and `test`, whatever these are called; others keep their names.

    Args:
        parts: the name of a folder or a split -> what it holds.
        source: what a message calls the data.

    Raises:
        DataError: two names stand for one split.

    >>> by_split({"training": 1, "Val": 2, "extra": 3}, "photos")
    {'train': 1, 'validation': 2, 'extra': 3}
    """
    known = {name: split for split, names in SPLIT_NAMES.items() for name in names}
    found: dict[str, T] = {}
    for name, part in parts.items():
        split = known.get(name.lower(), name)
        if split in found:
            alike = [other for other in parts if known.get(other.lower(), other) == split]
            raise DataError(f"{source}: two parts are called {split}: {', '.join(alike)}; rename one")
        found[split] = part
    return found


def split_rows(
    n: int,
    shares: Mapping[str, float],
    how: str,
    *,
    points: np.ndarray,
    groups: np.ndarray | None = None,
    seed: int = 42,
    block_m: float = BLOCK_M,
    buffer_m: float = 10_000.0,
    place_radius: float = 0.0,
    frame: str = "wgs84",
    flags: Mapping[str, str] | None = None,
    copies: np.ndarray | None = None,
) -> tuple[dict[str, np.ndarray], int]:
    """Hold out shares of n rows one after the other; `train` is what remains.

    Rows of one place stay together, see `place_numbers`: they show one scene.

    Args:
        shares: name -> share of all places; a share of 0 gives no such split.
        how: `stratified` by group, `random`, or `blocks`: whole squares of the map, without the training places
            within the buffer, so that no held-out place has a neighbor in training.
        points: (n, 2), NaN where unknown; `blocks` needs them all. None or empty: every row is a place of its own.
        groups: (n,) for `stratified`; a place has that of its first row.
        block_m, buffer_m: meters, or units of the data for `planar`; the buffer is `place_radius` at least.
        place_radius: rows so near to each other are one place, in the same unit; 0: rows of the same position.
        flags: what the user calls these two, for messages.
        copies: (n,) a number for each row; rows of one number show the same pictures and are one place, but for `blocks`.

    Returns:
        (name -> row numbers, the number of rows left out for the buffer).

    Raises:
        DataError: too few places for the split, or an unknown way.
    """
    require_choice(SPLITS, split=how)
    located = points is not None and len(points) == n and how != "blocks"
    place = place_numbers(points, place_radius, frame) if located else np.arange(n)
    if copies is not None and how != "blocks":
        place = joined_places(place, copies)
    first = np.unique(place, return_index=True)[1]  # a row of every place
    n, splits, dropped = len(first), {}, 0
    rows = first
    for name, share in shares.items():
        if not share:
            continue
        # of what is left: a tenth of all is a ninth of the nine tenths that the first split left
        fraction = share * n / len(rows)
        if share < 1 <= fraction:
            raise DataError(
                f"cannot hold out {share:.0%} of {n} places for {name}: the splits before it and their buffer leave "
                f"only {len(rows)}; take smaller shares, blocks or buffers"
            )
        try:
            if how == "blocks":
                split = block_split(points[rows], fraction, block_m, max(buffer_m, place_radius), seed, frame)
            elif how == "stratified" and groups is not None:
                split = stratified_split(groups[rows], fraction, seed)
            else:
                split = random_split(len(rows), fraction, seed)
        except ValueError as error:
            reason = str(error)
            named = {"block_m": "--block_m", "buffer_m": "--buffer_m", "fraction": f"--{name}_share"}
            for parameter, flag in (named | dict(flags or {})).items():
                reason = reason.replace(parameter, flag)
            raise DataError(f"cannot hold out {share:.0%} of {n} places for {name}: {reason}") from None
        if not len(split.validation) or not len(split.train):
            raise DataError(f"cannot hold out {share:.0%} of {n} places for {name}: too few places")
        splits[name], rows = rows[split.validation], rows[split.train]
        dropped += len(split.buffer)
    chosen = {"train": rows} | splits
    return {name: np.flatnonzero(np.isin(place, place[rows])) for name, rows in chosen.items()}, dropped


def place_numbers(points: np.ndarray, radius: float = 0.0, frame: str = "wgs84") -> np.ndarray:
    """(n,) which place each row is of: rows within the radius, also by way of others, share one.

    Args:
        points: (n, 2); a row whose position is unknown (NaN) is a place of its own.
        radius: meters, or units of the data for `planar`; 0: rows of the very same position.

    Returns:
        Whole numbers from 0, in the order of the places' first rows.

    >>> place_numbers([[52.0, 13.0], [52.0, 13.1], [52.0, 13.0], [np.nan, np.nan]]).tolist()
    [0, 1, 0, 2]
    """
    require_at_least(0, place_radius=radius)
    points = np.asarray(points, np.float64).reshape(-1, 2)
    known = np.isfinite(points).all(1)
    numbers = np.arange(len(points)) + len(points)
    if known.any() and radius:
        numbers[known] = dbscan(points[known], radius, 1, frame)
    elif known.any():
        numbers[known] = np.unique(points[known], axis=0, return_inverse=True)[1].reshape(-1)
    return _by_first_row(numbers)


def _by_first_row(numbers: np.ndarray) -> np.ndarray:
    """The same groups, counted from 0 in the order of their first rows."""
    _, first, numbers = np.unique(numbers, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[numbers.reshape(-1)]


def joined_places(place: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """(n,) numbers of places, by their first rows, where those that share a copy are one; see `copy_numbers`."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    other = copies + place.max() + 1
    nodes = int(other.max()) + 1
    graph = coo_matrix((np.ones(len(place)), (place, other)), (nodes, nodes))
    return _by_first_row(connected_components(graph, directed=False)[1][place])


def copy_numbers(dataset: Dataset) -> np.ndarray | None:
    """(n,) a number for each row, one for rows whose `views` or `image` have the same bytes, in files of any name or in the rows.

    Returns:
        None where no row has pictures, or none is a copy.
    """
    name = next((name for name in ("views", "image") if name in dataset.column_names), None)
    rows = [] if name is None else _pictures_of(stored_column(dataset, name))
    named = [i for i, row in enumerate(rows) if row and all(map(_is_there, row))]
    keys = iter(contents_of([picture for i in named for picture in rows[i]]))
    numbers: dict[tuple, int] = {}
    found = np.arange(len(rows)) + len(rows)
    for i in named:
        found[i] = numbers.setdefault(tuple(next(keys) for _ in rows[i]), i)
    return found if len(numbers) < len(named) else None


def _is_there(picture: str | memoryview) -> bool:
    return isinstance(picture, memoryview) or os.path.isfile(picture)


def _pictures_of(column: pa.ChunkedArray) -> list[list[str | memoryview]]:
    """The pictures of each row of a column of them, or of lists of them: paths, or bytes that stay where they lie."""
    import pyarrow as pa

    rows = []
    for chunk in column.chunks:
        several = hasattr(chunk, "value_lengths")
        pictures = chunk.flatten() if several else chunk
        if not pa.types.is_struct(pictures.type):
            return []
        fields = dict(zip([field.name for field in pictures.type], pictures.flatten(), strict=True))
        held = fields["bytes"]
        inside = enumerate(zip(held.is_valid().to_pylist(), fields["path"].to_pylist(), strict=True))
        found = (memoryview(held[i].as_buffer()) if own else path or "" for i, (own, path) in inside)
        sizes = chunk.value_lengths().to_pylist() if several else [1] * len(chunk)
        rows += [list(islice(found, size or 0)) for size in sizes]
    return rows


def count_shared(points: np.ndarray, train: np.ndarray) -> int:
    """How many of (n, 2) points have the very position of one of (m, 2) for training; unknown ones do not count."""
    points = points[np.isfinite(points).all(1)]
    place = place_numbers(np.concatenate([train, points]))
    return int(np.isin(place[len(train) :], place[: len(train)]).sum())


def warn_of_shared_places(dataset: Any, train: Any) -> None:
    """Say how many rows to measure on show a place that training shows, too; splits of this module leave none.

    Rows have `latitude` and `longitude`; None, streams and several datasets are passed over.
    """
    if not all(hasattr(rows, "__len__") and not isinstance(rows, Mapping) for rows in (dataset, train)):
        return
    if shared := count_shared(points_of(dataset), points_of(train)):
        logger.warning(
            "%d of the %d rows to measure on show a place that training shows, too: their numbers are better than those "
            "of new places would be",
            shared,
            len(dataset),
        )


def split_dataset(
    dataset: Dataset, shares: Mapping[str, float], how: str, **settings
) -> tuple[DatasetDict, int]:
    """`split_rows` of a dataset, with its settings: (the splits, the number of places left out for the buffer).

    Rows whose pictures have the same bytes are copies, see `copy_numbers`.
    """
    from datasets import DatasetDict

    rows, dropped = split_rows(len(dataset), shares, how, copies=copy_numbers(dataset), **settings)
    splits = DatasetDict({name: dataset.select(chosen) for name, chosen in rows.items()})
    if how == "blocks":  # for `calibration_blocks`
        for split in splits.values():
            with_facts(split, block_m=settings.get("block_m", BLOCK_M))
    return splits, dropped


def calibration_blocks(dataset, points: np.ndarray, frame: str = "wgs84") -> np.ndarray | None:
    """(n,) the block of each row, where whole blocks were held out; else None.

    What is fitted on held-out blocks holds for unseen blocks, and a block counts once, however many rows it has.

    Args:
        dataset: as `split_dataset` left it.
        points: (n, 2) of its rows.
    """
    block_m = facts_of(dataset).get("block_m")
    return None if block_m is None else block_numbers(points, block_m, frame)
