"""What is asked of a table's targets before a model learns them."""

from __future__ import annotations

import logging

import numpy as np

from geohf.errors import DataError
from geohf.tiles.cache import TilePixels
from geohf.tiles.table import TileTable
from geohf.tiles.windows import TileWindows, unmeasured

logger = logging.getLogger(__name__)
FILLERS = (-99999, -32768, -9999, -999)  # what tables often write where nothing is known


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
