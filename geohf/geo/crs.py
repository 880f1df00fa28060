"""Coordinates in another coordinate reference system (CRS), by PROJ, which rasterio brings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rasterio.crs import CRS


def gdal_errors() -> tuple[type[Exception], ...]:
    """All that rasterio raises: its own errors, and GDAL's, which are none of them."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    return RasterioError, CPLE_BaseError


def transformed(source: str | CRS | None, target: str | CRS | None, points: np.ndarray) -> np.ndarray:
    """(n, 2) coordinates, x or longitude first, in another CRS; NaN where it has no place for them.

    Args:
        source, target: as WKT, or as an authority's code such as `EPSG:4326`.
        points: (n, 2) finite numbers: one that PROJ refuses makes all of them NaN.
    """
    from rasterio.warp import transform

    try:
        there = np.array(transform(source, target, *points.T), np.float64).T
    except gdal_errors():
        return np.full(points.shape, np.nan)
    return np.where(np.isfinite(there), there, np.nan)
