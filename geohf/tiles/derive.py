"""Targets that the images themselves give, for places without a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geohf.errors import DataError
from geohf.tiles.cache import TilePixels


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
    near, far = (_band(cache, number) for number in (nir, red))
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


def _band(cache: TilePixels, number: int) -> int:
    bands = cache.array.shape[-1]
    if not 1 <= number <= bands:
        raise DataError(f"there is no band {number}, the images have {bands} (counted from 1)")
    return number - 1


def _shares(hits: np.ndarray, known: np.ndarray) -> np.ndarray:
    counts = known.sum((1, 2))
    return np.divide(hits.sum((1, 2)), counts, out=np.full(len(counts), np.nan), where=counts > 0)


def _each_tile(cache: TilePixels, one_tile) -> np.ndarray:
    values, steps = np.empty(cache.holes.shape), np.arange(cache.holes.shape[1])
    for row in range(len(cache.holes)):
        values[row] = one_tile(cache.tile(row), cache.tile_mask(row, steps))
    return values
