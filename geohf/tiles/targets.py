"""What is asked of a table's targets and pixels before a model learns them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice

import numpy as np

from geohf.errors import DataError
from geohf.tiles.cache import TilePixels
from geohf.tiles.dates import DATED
from geohf.tiles.table import TileTable
from geohf.tiles.windows import TileWindows, unmeasured

logger = logging.getLogger(__name__)
FILLERS = (-99999, -32768, -9999, -999)  # what tables often write where nothing is known
OF_PIXELS = (*FILLERS, -28672, 32767, 65535, 1e20, 9.969209968386869e36, -3.4028234663852886e38, -1e30)
LOOKED_AT = 256  # so many training windows' pixels are


def look_at_targets(table: TileTable) -> None:
    """Refuse targets that the model's numbers cannot hold, and tell of those that may stand for none.

    Raises:
        DataError: a value is beyond float32.
    """
    for name, values in zip(table.targets, np.moveaxis(table.values, -1, 0), strict=True):
        known = values[np.isfinite(values)]
        if len(known) and np.abs(known).max() > np.finfo(np.float32).max:
            raise DataError(
                f"{table.source}: the target {name} holds {np.abs(known).max():g}; give it in a larger unit"
            )
        for filler in FILLERS:
            others = known[known != filler]
            if len(others) and len(others) < len(known) and others.min() > filler / 10:
                logger.warning(
                    "%s: the target %s is %g in %d of %d values, and far above it in the others; if that stands for no value, "
                    "leave the cells empty",
                    table.source,
                    name,
                    filler,
                    len(known) - len(others),
                    len(known),
                )
    named = [name for name in table.targets if any(label in name for label in table.labels)]
    if len(named) > 1 and table.steps.unit in DATED:
        logger.warning(
            "%s: the targets %s are called after steps, and each is a target of its own, of the last step that a row is of; for "
            "one target of several steps write a row a tile and step, with the columns label_id and target",
            table.source,
            ", ".join(named),
        )


def require_spread(table: TileTable, train: TileWindows, cache: TilePixels) -> None:
    """Refuse targets that are the same in every training tile: there is nothing to learn."""
    for name, truth in zip(table.targets, train.truth.T, strict=True):
        known = truth[np.isfinite(truth)]
        if len(known) and np.ptp(known) > 0:
            continue
        what = (
            f"is {known[0]:g} in all {len(known)} training windows" if len(known) else "is not known in any"
        )
        raise DataError(
            f"{table.source}: the target {name} {what}, so there is nothing to learn; {unmeasured(table, cache)}"
        )


def look_at_pixels(table: TileTable, cache: TilePixels, train: TileWindows) -> None:
    """Tell of measured pixels that may stand for none: a usual filler, far from all others of its band."""
    if cache.array.dtype == np.uint8:  # all of its values may be measured
        return

    def parts() -> Iterator[np.ndarray]:
        for row, frames, seen in zip(train.rows, train.frames, train.mask, strict=True):
            yield cache.tile(row, frames[seen])[~cache.tile_mask(row, frames[seen])]

    def sample() -> Iterator[np.ndarray]:
        return islice(parts(), LOOKED_AT)

    ends = [(part.min(0), part.max(0)) for part in sample() if len(part)]
    if not ends:
        return
    zero = np.concatenate([part == 0 for part in sample()])
    empty = int(zero.all(-1).sum())
    if zero.shape[1] > 1 and 0 < empty == zero.any(-1).sum() < len(zero):
        logger.warning(
            "%s: %d pixels that were looked at are 0 in all bands, and no other is 0 in any; if that stands for no measurement, "
            "say --nodata 0",
            table.source,
            empty,
        )
    for extremes in (np.min([low for low, _ in ends], 0), np.max([high for _, high in ends], 0)):
        for band, value in enumerate(extremes.astype(np.float64).tolist()):
            if not np.isclose(value, OF_PIXELS, rtol=1e-6, atol=0).any():
                continue
            known = np.concatenate([part[:, band] for part in sample()]).astype(np.float64)
            others = known[known != value]
            if len(others) and (others.min() > value / 10 if value < 0 else others.max() < value / 3):
                logger.warning(
                    "%s: band %d is %g in %d of %d pixels that were looked at, and far from it in the others; if that stands for "
                    "no measurement, say --nodata %.17g",
                    table.source,
                    band + 1,
                    value,
                    len(known) - len(others),
                    len(known),
                    value,
                )
