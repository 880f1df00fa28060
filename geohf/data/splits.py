"""Dividing places into train, validation and test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from geohf.errors import DataError
from geohf.geo import block_split, random_split, stratified_split

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

SPLITS = ("stratified", "random", "blocks")


def split_rows(
    n: int,
    shares: Mapping[str, float],
    how: str,
    *,
    points: np.ndarray,
    groups: np.ndarray | None = None,
    seed: int = 42,
    block_m: float = 50_000.0,
    buffer_m: float = 10_000.0,
    frame: str = "wgs84",
    flags: Mapping[str, str] | None = None,
) -> tuple[dict[str, np.ndarray], int]:
    """Hold out shares of n rows one after the other; `train` is what remains.

    Args:
        shares: name -> share of all rows; a share of 0 gives no such split.
        how: `stratified` by group, `random`, or `blocks`: whole squares of the map are held out, and training
            places within the buffer are left out, so that no held-out place has a neighbour in training.
        points: (n, 2), for `blocks`.
        groups: (n,) for `stratified`.
        block_m, buffer_m: metres, or units of the data for `planar`.
        flags: what the user calls these two, for messages.

    Returns:
        (name -> row numbers, the number of rows left out for the buffer).

    Raises:
        DataError: too few places for the split, or an unknown way.
    """
    if how not in SPLITS:
        raise DataError(f"split must be stratified, random or blocks, got {how!r}")
    rows, splits, dropped = np.arange(n), {}, 0
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
                split = block_split(points[rows], fraction, block_m, buffer_m, seed, frame)
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
    return {"train": rows} | splits, dropped


def split_dataset(
    dataset: Dataset, shares: Mapping[str, float], how: str, **settings
) -> tuple[DatasetDict, int]:
    """`split_rows` of a dataset, with its settings: (the splits, the number of places left out for the buffer)."""
    from datasets import DatasetDict

    splits, dropped = split_rows(len(dataset), shares, how, **settings)
    return DatasetDict({name: dataset.select(chosen) for name, chosen in splits.items()}), dropped
