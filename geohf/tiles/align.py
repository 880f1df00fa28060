"""Rasters of another CRS, resolution or origin, read onto a grid."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from geohf.geo.crs import transformed
from geohf.tiles.ground import points_in
from geohf.tiles.rasters import RasterInfo

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

    from geohf.tiles.masks import Box

EDGE_POINTS = 9  # of a window's edge, which another CRS may bend
PLACE = ("height", "width", "crs", "transform", "gcps")  # what a header says of it
MARGIN_PX = 3  # that an interpolation looks beyond a window


def same_grid(one: RasterInfo, other: RasterInfo) -> bool:
    """They lie pixel by pixel on each other, to the last digit of their headers."""
    return all(getattr(one, name) == getattr(other, name) for name in PLACE)


def on_grid(raster: RasterInfo, grid: RasterInfo) -> RasterInfo:
    """The header of a raster that is read onto another one's grid."""
    return replace(raster, **{name: getattr(grid, name) for name in PLACE})


def share_ground(one: RasterInfo, other: RasterInfo) -> bool:
    """Whether a raster with a CRS shows any of the ground that another one shows."""
    return source_box(one, other, (0, 0, one.width, one.height)) is not None


def source_box(grid: RasterInfo, raster: RasterInfo, box: Box) -> Box | None:
    """The window of a raster that shows a box of the grid, with a margin; None where it shows none of it."""
    x0, y0, x1, y1 = box
    x, y = np.meshgrid(np.linspace(x0, x1, EDGE_POINTS), np.linspace(y0, y1, EDGE_POINTS))
    points = np.stack([x.ravel(), y.ravel()], 1)
    on_map = np.array([grid.affine @ point for point in points.tolist()])
    pixels = points_in(raster, transformed(grid.crs, raster.crs, on_map))
    pixels = pixels[np.isfinite(pixels).all(1)]
    if not len(pixels):
        return None
    step = np.ptp(pixels, axis=0).max() / EDGE_POINTS  # what lies between the points that were looked at
    low = np.floor(pixels.min(0) - MARGIN_PX - step / 4).astype(int).clip(0)
    high = np.ceil(pixels.max(0) + MARGIN_PX + step / 4).astype(int)
    high = np.minimum(high, (raster.width, raster.height))
    return None if (high <= low).any() else (int(low[0]), int(low[1]), int(high[0]), int(high[1]))


def warped(
    frame: np.ndarray, holes: np.ndarray, at: Box, raster: DatasetReader, grid: RasterInfo, box: Box, how: str
) -> tuple[np.ndarray, np.ndarray]:
    """A window of a raster on a box of the grid.

    Pixels that were not measured are left out of the interpolation; what no measured pixel tells is not measured.

    Args:
        frame, holes: (height, width, bands) and (height, width) bool, the raster's window `at`.
        how: `bilinear`, or `nearest` for classes.

    Returns:
        (height, width, bands) in the frame's type, and (height, width) bool, of the box.
    """
    from rasterio.enums import Resampling
    from rasterio.transform import Affine
    from rasterio.warp import reproject

    wide = np.float64 if frame.dtype.itemsize > 2 and frame.dtype != np.float32 else np.float32
    source = np.where(holes[..., None], np.nan, frame.astype(wide))
    x0, y0, x1, y1 = box
    out = np.full((frame.shape[-1], y1 - y0, x1 - x0), np.nan, wide)
    reproject(
        np.ascontiguousarray(np.moveaxis(source, -1, 0)),
        out,
        src_transform=raster.transform @ Affine.translation(at[0], at[1]),
        src_crs=raster.crs,
        src_nodata=np.nan,
        dst_transform=grid.affine @ Affine.translation(x0, y0),
        dst_crs=grid.crs,
        dst_nodata=np.nan,
        resampling=Resampling[how],
        tolerance=0.0,  # every pixel is placed exactly
    )
    unknown = np.asarray(np.isnan(out).any(0))
    out[:, unknown] = 0
    if frame.dtype.kind in "iu":
        limits = np.iinfo(frame.dtype)
        out = out.round().clip(limits.min, limits.max)
    return np.ascontiguousarray(np.moveaxis(out, 0, -1)).astype(frame.dtype), unknown
