"""Splits of tiles that do not leak: by region, or by block with a buffer."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from geohf.data.splits import split_rows
from geohf.errors import DataError
from geohf.tiles.table import TileTable

logger = logging.getLogger(__name__)

SPLITS = ("region", "blocks", "random")
FEW_REGIONS = 5  # with fewer, whole regions are too coarse a share


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

    Args:
        how: `region` holds out whole regions; `blocks` holds out squares of each region and leaves out training
            tiles that touch them or lie within the buffer; `random` leaks, because neighbouring tiles are alike.
        shares: name -> share of all tiles; a share of 0 gives no such split.
        block_px: side of a block in pixels; four of the largest tile's sides where None.
        buffer_px: pixels between the edges of training and held-out tiles.
        allow_leaks: must be set for `random`.

    Returns:
        (name -> tile numbers, the number of tiles left out for the buffer).

    Raises:
        DataError: too few tiles or regions, an unknown way, or `random` without `allow_leaks`.
    """
    if how not in SPLITS:
        raise DataError(f"split must be one of {', '.join(SPLITS)}, got {how!r}")
    if how == "region":
        regions, _ = split_rows(len(table.regions), shares, "random", points=np.empty(0), seed=seed)
        return {name: np.flatnonzero(np.isin(table.region, chosen)) for name, chosen in regions.items()}, 0
    if how == "random":
        if not allow_leaks:
            raise DataError(
                "a random split puts neighbours of training tiles into the test, and its numbers flatter; use "
                "region or blocks, or say --allow_leaks true"
            )
        logger.warning("random split: neighbours of held-out tiles are trained on, the numbers will flatter")
    largest = table.sizes.max(0)
    block = float(block_px or 4 * largest.max())
    # tiles whose centres lie farther apart than this are at least the buffer away from each other
    apart = buffer_px + float(np.hypot(*largest))
    return split_rows(
        len(table),
        shares,
        how,
        points=_centres(table, block, apart),
        seed=seed,
        block_m=block,
        buffer_m=apart,
        frame="planar",
    )


def _centres(table: TileTable, block: float, apart: float) -> np.ndarray:
    """(tiles, 2) y and x of the centres, every region in a part of the plane of its own."""
    centres = (table.boxes[:, [1, 0]] + table.boxes[:, [3, 2]]) / 2
    stride = block * (np.ceil((centres.max() + apart) / block) + 1)
    centres[:, 0] += table.region * stride
    return centres
