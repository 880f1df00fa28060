"""Rasters: images of one to many bands, with or without a georeference, read in windows by rasterio."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.errors import DataError

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

DTYPES = ("uint8", "uint16", "int16", "float32")


@dataclass(frozen=True)
class RasterInfo:
    """What a raster's header says.

    Attributes:
        height, width: pixels.
        bands: how many.
        dtype: one of `DTYPES`.
        nodata: the value that means "not measured", NaN among them; None where the file names none.
        crs: as WKT; None where the image is not georeferenced.
        transform: the six numbers of the affine map from (column, row) to coordinates, in rasterio's order.
    """

    height: int
    width: int
    bands: int
    dtype: str
    nodata: float | None
    crs: str | None
    transform: tuple[float, ...]


@contextmanager
def open_raster(path: str | Path) -> Iterator[DatasetReader]:
    """Open a raster for reading.

    Raises:
        DataError: there is no such file, it is empty, or GDAL cannot read it, be it now or within the block.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if not path.stat().st_size:
        raise DataError(f"{path}: the file is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # that is for the caller to ask
            with rasterio.open(path) as raster:
                yield raster
    except RasterioError as error:
        cause = error.__cause__ or error
        raise DataError(f"{path}: cannot be read, it is truncated or no image ({cause})") from None


def inspect_raster(path: str | Path) -> RasterInfo:
    """A raster's header.

    Raises:
        DataError: see `open_raster`; or the pixels are of another type than `DTYPES`.
    """
    with open_raster(path) as raster:
        dtype = raster.dtypes[0]
        if dtype not in DTYPES or len(set(raster.dtypes)) > 1:
            found = ", ".join(sorted(set(raster.dtypes)))
            raise DataError(f"{path}: pixels are {found}; bands must all be one of {', '.join(DTYPES)}")
        crs = raster.crs.to_wkt() if raster.crs else None
        transform = tuple(raster.transform)[:6]
        return RasterInfo(raster.height, raster.width, raster.count, dtype, raster.nodata, crs, transform)


def read_window(raster: DatasetReader, box: tuple[int, int, int, int]) -> np.ndarray:
    """The pixels of a box (xmin, ymin, xmax, ymax), half open: (height, width, bands) in the file's own type."""
    from rasterio.windows import Window

    x0, y0, x1, y1 = box
    bands = raster.read(window=Window(x0, y0, x1 - x0, y1 - y0))
    if len(bands) == 1:
        return bands[0, ..., None]
    pixels = np.empty((*bands.shape[1:], len(bands)), bands.dtype)
    for number, band in enumerate(bands):  # several times as fast as one transposed copy
        pixels[..., number] = band
    return pixels


def read_frame(source: Any) -> tuple[np.ndarray, float | None]:
    """One frame from whatever a user has: (height, width, bands) in its own type, and its nodata value.

    Args:
        source: a path to a raster; an array or tensor of shape (height, width) or (height, width, bands); or a
            PIL image.

    Raises:
        DataError: it cannot be read, or has another shape.
    """
    if isinstance(source, (str, os.PathLike)):
        with open_raster(source) as raster:
            return read_window(raster, (0, 0, raster.width, raster.height)), raster.nodata
    frame = np.asarray(source)
    frame = frame[..., None] if frame.ndim == 2 else frame
    if frame.ndim != 3 or not frame.size:
        raise DataError(f"a frame must be (height, width) or (height, width, bands), got {frame.shape}")
    return frame, None


def nodata_pixels(frames: np.ndarray, nodata: float | None) -> np.ndarray:
    """Which pixels were not measured: (..., height, width) bool for (..., height, width, bands).

    A pixel is one where every band holds the nodata value; NaN and infinity in any band never are a measurement.

    >>> nodata_pixels(np.array([[[0, 0], [0, 7]]], np.uint8), 0.0)
    array([[ True, False]])
    """
    holes = np.zeros(frames.shape[:-1], bool)
    if frames.dtype.kind == "f":
        holes |= ~np.isfinite(frames).all(-1)
    if nodata is not None and not math.isnan(nodata):
        holes |= (frames == nodata).all(-1)
    return holes
