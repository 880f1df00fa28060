"""What is asked of a table's targets and pixels before a model learns them, and targets made from pixels."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from geohf.errors import DataError
from geohf.tiles.cache import TilePixels
from geohf.tiles.dates import DATED
from geohf.tiles.table import TileTable
from geohf.tiles.windows import TileWindows, measured_pixels, unmeasured

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
                f"{table.source}: the target {name} holds {np.abs(known).max():g}; take a larger unit"
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
            "one target of several steps write a row per tile and step, with the columns label_id and target",
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
        pixels = unmeasured(table, cache)
        raise DataError(f"{table.source}: the target {name} {what}, so there is nothing to learn; {pixels}")


def look_at_pixels(table: TileTable, cache: TilePixels, train: TileWindows) -> None:
    """Tell of measured pixels that may stand for none: a usual filler, far from all others of its band."""
    if cache.array.dtype == np.uint8:  # all of its values may be measured
        return

    def sample() -> Iterator[np.ndarray]:
        return islice(measured_pixels(cache, train), LOOKED_AT)

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
                count = len(known) - len(others)
                logger.warning(
                    "%s: band %d is %g in %d of %d pixels that were looked at, and far from it in the others; if that stands for "
                    "no measurement, say --nodata %.17g",
                    table.source,
                    band + 1,
                    value,
                    count,
                    len(known),
                    value,
                )


def ndvi_fall(
    cache: TilePixels, nir: int, red: int, units: Sequence[tuple[float, float]] | None = None
) -> np.ndarray:
    """The share of each tile's pixels whose NDVI, (NIR - red) / (NIR + red), is lower than in the step before.

    Where both bands are 0, or one is negative as reflectances of water and shadow may be, there is no NDVI.

    Args:
        nir, red: numbers of the bands, from 1.
        units: (scale, offset) of each band by the images' headers, as Landsat has them: NDVI is one of measurements,
            and an offset does not cancel. None: pixels are measurements.

    Returns:
        (tiles, steps) float64; NaN for the first step, and where no pixel has an NDVI in both.

    Raises:
        DataError: the images do not have these bands.
    """
    bands = cache.array.shape[-1]
    for number in (nir, red):
        if not 1 <= number <= bands:
            raise DataError(f"there is no band {number}, the images have {bands} (counted from 1)")
    near, far = nir - 1, red - 1
    (near_scale, near_offset), (far_scale, far_offset) = (units[near], units[far]) if units else [(1, 0)] * 2
    plain = near_scale == far_scale and near_offset == far_offset == 0  # which cancels, without rounding

    def one_tile(frames, holes):
        near_infrared, red_light = frames[..., near].astype(np.float64), frames[..., far].astype(np.float64)
        if not plain:
            near_infrared = near_infrared * near_scale + near_offset
            red_light = red_light * far_scale + far_offset
        total = near_infrared + red_light
        ndvi = np.divide(near_infrared - red_light, total, out=np.zeros_like(total), where=total != 0)
        known = ~holes & (total > 0) & (np.abs(ndvi) <= 1)
        known = known[1:] & known[:-1]
        return np.r_[np.nan, _shares((ndvi[1:] < ndvi[:-1]) & known, known)]

    return _each_tile(cache, one_tile)


def color_share(cache: TilePixels, color: Sequence[int]) -> np.ndarray:
    """The share of each tile's pixels of one color, as the reference implementation measures built-up land: (196, 40, 27) there.

    Returns:
        (tiles, steps) float64; NaN where no pixel was measured.

    Raises:
        DataError: the color has another number of bands than the images.
    """
    bands = cache.array.shape[-1]
    if len(color) != bands:
        raise DataError(f"the color {tuple(color)} has {len(color)} bands, the images have {bands}")

    def one_tile(frames, holes):
        return _shares((frames == np.asarray(color)).all(-1) & ~holes, ~holes)

    return _each_tile(cache, one_tile)


def _shares(hits: np.ndarray, known: np.ndarray) -> np.ndarray:
    counts = known.sum((1, 2))
    return np.divide(hits.sum((1, 2)), counts, out=np.full(len(counts), np.nan), where=counts > 0)


def _each_tile(cache: TilePixels, one_tile) -> np.ndarray:
    values, steps = np.empty(cache.holes.shape), np.arange(cache.holes.shape[1])
    for row in range(len(cache.holes)):
        values[row] = one_tile(cache.tile(row), cache.tile_mask(row, steps))
    return values
