"""Splits of tiles that do not leak: by region or by block, with a buffer, measured on the ground."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from geohf.data.splits import split_rows
from geohf.errors import DataError, require_choice, require_within
from geohf.geo.splits import block_numbers
from geohf.tiles.ground import least_gap_px
from geohf.tiles.table import TileTable

logger = logging.getLogger(__name__)

SPLITS = ("region", "blocks", "random")
FEW_REGIONS = 5  # with fewer, whole regions are too coarse a share
_FLAGS = {"block_m": "--block_px", "buffer_m": "--buffer_px"}


def default_split(table: TileTable) -> str:
    """By region, or by blocks where there are too few regions."""
    return "region" if len(table.regions) >= FEW_REGIONS else "blocks"


def split_tiles(
    table: TileTable,
    how: str,
    shares: Mapping[str, float],
    seed: int = 42,
    block_px: float | None = None,
    buffer_px: float = 0.0,
    allow_leaks: bool = False,
) -> tuple[dict[str, np.ndarray], int]:
    """Hold out shares of the tiles; `train` is what remains.

    Of georeferenced images no tile shares ground with a tile of another part: training tiles that overlap held-out ones, or lie
    within the buffer, are left out, as are validation tiles beside test tiles. Tiles that meet across scenes get a warning.

    Args:
        how: `region` holds out whole regions; `blocks` squares of each region, and leaves out training tiles that touch
            them or lie within the buffer; `random` leaks, because neighboring tiles are alike.
        shares: name -> share of all tiles; a share of 0 gives no such split.
        block_px: side of a block in pixels; four of the largest tile's sides where None. Of `blocks` only.
        buffer_px: pixels of the held-out tile's image between edges of training and held-out tiles. `region` needs
            georeferenced images for it, `random` has none.
        allow_leaks: must be set for `random`; else keeps tiles that share ground with held-out ones, with a warning.

    Returns:
        (name -> tile numbers, the number of tiles left out for the buffer).

    Raises:
        DataError: too few tiles or regions, an unknown way or setting, or `random` without `allow_leaks`.
    """
    require_choice(SPLITS, split=how)
    _check_settings(table, how, block_px, buffer_px, allow_leaks)
    if how == "random":
        logger.warning("random split: neighbors of held-out tiles are trained on, the numbers will flatter")
        return split_rows(len(table), shares, how, points=np.empty(0), seed=seed)
    if how == "region":
        regions, dropped = split_rows(len(table.regions), shares, "random", points=np.empty(0), seed=seed)
        splits = {name: np.flatnonzero(np.isin(table.region, chosen)) for name, chosen in regions.items()}
    else:
        splits, dropped = _blocks(table, shares, seed, block_px, buffer_px)
    shared = _clear(table, splits, buffer_px, allow_leaks)
    return splits, dropped + shared


def fold_tiles(
    table: TileTable, how: str, folds: int, seed: int = 42, block_px: float | None = None
) -> np.ndarray:
    """Which fold each tile is tested in: whole regions, or whole blocks of them, in folds of about equal size.

    Args:
        how: `region` or `blocks`.
        folds: at least 3: one is tested on, the next is validated on, the others are trained on.
        block_px: see `split_tiles`.

    Returns:
        (tiles,) from 0 to `folds` - 1.

    Raises:
        DataError: another way, or too few regions or blocks.
    """
    if how not in ("region", "blocks"):
        raise DataError(f"--folds needs --split region or blocks; the split is {how}")
    if folds < 3:
        parts = "one is tested on, one validated on, the others trained on"
        raise DataError(f"--folds must be at least 3 ({parts}), got {folds}")
    _check_settings(table, how, block_px, 0.0, False)
    units = table.region
    if how == "blocks":
        block, apart = _block_and_distance(table, block_px, 0.0)
        units = block_numbers(_centers(table, block, apart), block, "planar")
    names, unit, sizes = np.unique(units, return_inverse=True, return_counts=True)
    if len(names) < folds:
        word = "regions" if how == "region" else "blocks (smaller ones with --block_px)"
        raise DataError(f"{table.source}: has {len(names)} {word}, too few for --folds {folds}")
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled, fold = np.zeros(folds), np.zeros(len(names), np.int64)
    for number in order.tolist():  # the largest first, each into the emptiest fold
        fold[number] = filled.argmin()
        filled[fold[number]] += sizes[number]
    return fold[unit]


def fold_split(
    table: TileTable,
    fold: np.ndarray,
    test: int,
    how: str,
    block_px: float | None = None,
    buffer_px: float = 0.0,
    allow_leaks: bool = False,
) -> tuple[dict[str, np.ndarray], int]:
    """One fold's tiles as `test`, all of them, the next one's as `validation`, and the others' as `train`.

    What `split_tiles` would leave out of training and validation is left out.

    Args:
        fold: of each tile, see `fold_tiles`.
        test: the fold to test on.

    Returns:
        (name -> tile numbers, the number of tiles left out).
    """
    _check_settings(table, how, block_px, buffer_px, allow_leaks)
    number = (fold - test) % (fold.max() + 1)
    parts = {"train": number > 1, "test": number == 0, "validation": number == 1}
    splits = {name: np.flatnonzero(part) for name, part in parts.items()}
    dropped = 0
    if how == "blocks":
        block, apart = _block_and_distance(table, block_px, buffer_px)
        centers = _centers(table, block, apart)
        for name, others in (("validation", ["test"]), ("train", ["test", "validation"])):
            held = np.concatenate([splits[other] for other in others])
            distance, _ = cKDTree(centers[held]).query(centers[splits[name]])
            near = distance <= apart
            if near.all():
                raise DataError(
                    f"{table.source}: all {name} tiles of fold {test + 1} lie within {apart:g} pixels of held-out tiles "
                    "(--buffer_px and the diagonal of a tile); use larger --block_px, or fewer folds"
                )
            splits[name] = splits[name][~near]
            dropped += int(near.sum())
    return splits, dropped + _clear(table, splits, buffer_px, allow_leaks)


def _check_settings(table: TileTable, how: str, block_px, buffer_px, allow_leaks: bool) -> None:
    """Refuse what a way of splitting cannot hear."""
    if how == "random" and not allow_leaks:
        raise DataError(
            "a random split puts neighbors of training tiles into the test, and its numbers flatter; use "
            "region or blocks, or say --allow_leaks true"
        )
    if block_px is not None and how != "blocks":
        raise DataError(f"--block_px needs --split blocks; the split is {how}")
    require_within("(0, inf)", block_px=block_px)
    require_within("[0, inf)", buffer_px=buffer_px)
    if buffer_px and how == "random":
        raise DataError("--buffer_px needs --split blocks or region; the split is random")
    for name, raster in zip(table.regions, table.rasters, strict=True):
        if buffer_px and how == "region" and not raster.located:
            raise DataError(
                f"{table.source}: the images of region {name} do not say where they lie, so --buffer_px cannot be kept "
                "between regions; use --split blocks, or leave it out"
            )


def _blocks(table: TileTable, shares, seed: int, block_px, buffer_px) -> tuple[dict[str, np.ndarray], int]:
    block, apart = _block_and_distance(table, block_px, buffer_px)
    plane: dict[str, Any] = {
        "points": _centers(table, block, apart),
        "block_m": block,
        "buffer_m": apart,
        "frame": "planar",
    }
    try:
        return split_rows(len(table), shares, "blocks", seed=seed, flags=_FLAGS, **plane)
    except DataError as error:
        raise DataError(
            f"{table.source}: {error} (in pixels, between centers: {apart:g} is --buffer_px {buffer_px:g} and the "
            "diagonal of a tile)"
        ) from None


def _block_and_distance(table: TileTable, block_px: float | None, buffer_px: float) -> tuple[float, float]:
    """The side of a block, and how far apart centers must lie for tiles to be at least the buffer away from each other."""
    largest = table.sizes.max(0)
    return float(4 * largest.max() if block_px is None else block_px), buffer_px + float(np.hypot(*largest))


def _clear(table: TileTable, splits: dict[str, np.ndarray], buffer_px: float, allow_leaks: bool) -> int:
    """Leave out tiles that lie on the ground of another part's, or within the buffer; returns how many."""
    held_out = [name for name in splits if name != "train"]
    dropped = touching = 0
    for i, name in enumerate(held_out):
        for other in [*held_out[i + 1 :], "train"]:
            rows = splits[other]
            gaps = least_gap_px(table, rows, splits[name], max(buffer_px, 1.0))
            near = (gaps < 0) | (gaps < buffer_px - 1e-6)
            touching += int((~near & (gaps < 1)).sum())
            if not near.any():
                continue
            if allow_leaks:
                shared = "%d %s tiles share ground with %s tiles of other scenes"
                logger.warning(shared, near.sum(), other, name)
                continue
            if near.all():
                raise DataError(
                    f"{table.source}: all {len(rows)} {other} tiles share ground with {name} tiles of other scenes, or "
                    "lie within --buffer_px of them; use smaller shares, another --seed, or --split blocks (or "
                    "--allow_leaks true, where the files' coordinates are wrong)"
                )
            splits[other] = rows[~near]
            dropped += int(near.sum())
    if dropped:
        logger.warning("left out %d tiles that lie on, or too near to, ground of held-out tiles", dropped)
    if touching:
        logger.warning(
            "%d tiles meet held-out tiles of other scenes edge to edge, and neighbors are alike; --buffer_px leaves "
            "them out",
            touching,
        )
    return dropped


def _centers(table: TileTable, block: float, apart: float) -> np.ndarray:
    """(tiles, 2) y and x of the centers, every region in a part of the plane of its own."""
    centers = (table.boxes[:, [1, 0]] + table.boxes[:, [3, 2]]) / 2
    stride = block * (np.ceil((centers.max() + apart) / block) + 1)
    centers[:, 0] += table.region * stride
    return centers
