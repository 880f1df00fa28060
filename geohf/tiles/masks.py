"""Pixels and what of them was measured: the one place where a window is read, and its mask with it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.errors import DataError
from geohf.geo.crs import gdal_errors
from geohf.tiles.align import same_grid, source_box, warped
from geohf.tiles.rasters import CONVERTED, NamedBytes, RasterInfo, mask_bands, open_raster, raster_info
from geohf.tiles.reading import AEF_NODATA, Reading, dequantized, one_hot
from geohf.vision.images import held_by

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

Box = tuple[int, int, int, int]
FileHeader = tuple[Any, RasterInfo]  # what `open_raster` takes, and messages name


def read_window(
    raster: DatasetReader,
    box: Box,
    nodata: float | None = None,
    reading: Reading | None = None,
    grid: RasterInfo | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The frame of a box (xmin, ymin, xmax, ymax), half open, and which of its pixels were not measured.

    Args:
        nodata: the value that means "not measured" where the file says nothing at all.
        reading: what of the raster becomes a frame; None: all of it.
        grid: that the box is of, where the raster may lie on another one and the reading aligns it.

    Returns:
        (height, width, bands) and (height, width) bool.

    Raises:
        DataError: a measured value does not fit in float32, of types that are read as such.
    """
    if reading is None:
        return _read_own(raster, box, nodata)
    own = None if grid is None or not reading.align else raster_info(raster, raster.name)
    if own is None or grid is None or same_grid(own, grid):
        return reading.frame(*_read_own(raster, box, nodata, reading.cloud_band), raster.name)
    at = source_box(grid, own, box)
    if at is None:
        shape = box[3] - box[1], box[2] - box[0]
        bands = reading.frame_bands(raster.count)
        return np.zeros((*shape, bands), reading.dtype(own)), np.ones(shape, bool)
    how = "nearest" if own.palette is not None else reading.align or "bilinear"
    frame, holes = reading.frame(*_read_own(raster, at, nodata, reading.cloud_band), raster.name)
    return warped(frame, holes, at, raster, grid, box, how)


def _read_own(
    raster: DatasetReader, box: Box, nodata: float | None = None, cloud_band: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """All bands of a box, in the type of `RasterInfo`, and what the file's nodata values, alpha band and mask rule out.

    The cloud band holds other numbers where nothing was measured, as Landsat's QA_PIXEL holds 1 where the bands are 0.
    """
    from rasterio.enums import ColorInterp

    bands, masks = _read(raster, box)
    if len(bands) == 1:
        pixels = bands[0, ..., None]
    else:
        pixels = np.empty((*bands.shape[1:], len(bands)), bands.dtype)
        for number, band in enumerate(bands):  # several times as fast as one transposed copy
            pixels[..., number] = band
    alpha = [number for number, color in enumerate(raster.colorinterp) if color == ColorInterp.alpha]
    silent = not masks and not alpha and all(value is None for value in raster.nodatavals)
    named = [None if number in alpha else value for number, value in enumerate(raster.nodatavals)]
    told = [nodata] * len(bands) if silent else named
    holes = nodata_pixels(pixels, told)
    if cloud_band is not None:
        holes |= nodata_pixels(pixels, [*told[: cloud_band - 1], None, *told[cloud_band:]])
    for mask in masks:
        holes |= mask == 0
    for number in alpha:
        holes |= pixels[..., number] == 0
    if raster.dtypes[0] in CONVERTED:
        pixels = _as_float32(pixels, holes, raster.name)
    return pixels, holes


def read_numbers(raster: DatasetReader, box: Box) -> np.ndarray:
    """What a box's pixels stand for, scale and offset applied: (height, width, bands) float64, NaN where unknown."""
    bands, _ = _read(raster, box, masked=True)
    bands = np.ma.filled(bands.astype(np.float64), np.nan)
    bands = bands * np.reshape(raster.scales, (-1, 1, 1)) + np.reshape(raster.offsets, (-1, 1, 1))
    return np.moveaxis(bands, 0, -1)


def read_frame(
    source: Any, nodata: float | None = None, reading: Reading | None = None, grid: RasterInfo | None = None
) -> tuple[np.ndarray, np.ndarray, FileHeader | None]:
    """One frame from whatever a user has.

    Args:
        source: a path to a raster, its bytes, an open file, or an undecoded cell of datasets; an array or tensor (height, width)
            or (height, width, bands), perhaps masked (`numpy.ma`); or a PIL image.
        nodata: the value that means "not measured" where the source does not say.
        reading: of files, see `read_window`; arrays hold the bands that a model sees, dequantized or in int8.
        grid: that files are read onto where the reading aligns them.

    Returns:
        (height, width, bands) pixels, (height, width) which of them were not measured, and a file with its header.

    Raises:
        DataError: it cannot be read, or has another shape.
    """
    source, name = _held(source)
    if _is_file(source):
        with open_raster(source) as raster:
            info = raster_info(raster, source)
            if reading is not None:
                reading.require_possible(source, info)
            whole = info if grid is None or reading is None or not reading.align else grid
            frame, holes = read_window(raster, (0, 0, whole.width, whole.height), nodata, reading, grid)
            return frame, holes, (source, info)
    if getattr(source, "mode", None) in ("YCbCr", "LAB", "HSV"):
        raise DataError(
            f"a picture is in {source.mode}, not in the bands of a raster; convert('RGB') makes it one"
        )
    if hasattr(source, "detach"):  # a tensor
        source = source.detach().cpu()
        source = source.float() if str(source.dtype) == "torch.bfloat16" else source  # numpy has none
    own: Any = source.mask if isinstance(source, np.ma.MaskedArray) else np.ma.nomask
    frame = source.data if isinstance(source, np.ma.MaskedArray) else np.asarray(source)
    frame = frame[..., None] if frame.ndim == 2 else frame
    if frame.ndim != 3 or not frame.size:
        raise DataError(f"a frame must be (height, width) or (height, width, bands), got {frame.shape}")
    if frame.dtype.kind not in "buif":
        raise DataError(f"a frame must hold real numbers, got an array of {frame.dtype}")
    if reading is not None and reading.dequantize and frame.dtype == np.int8:
        own = frame == AEF_NODATA if own is np.ma.nomask else own.reshape(frame.shape) | (frame == AEF_NODATA)
        frame = dequantized(frame)
    if reading is not None and reading.class_values and frame.shape[-1] == 1:
        holes = nodata_pixels(frame, nodata) if own is np.ma.nomask else own.reshape(frame.shape)[..., 0]
        return one_hot(frame[..., 0], holes, reading.class_values, name or "an array"), holes, None
    if own is np.ma.nomask:
        holes = nodata_pixels(frame, nodata) | _transparent(source, frame)
    else:
        own = own.reshape(frame.shape)
        holes = nodata_pixels(frame, None) | own.all(-1)
        if frame.dtype != np.uint8:  # of masks by band, the same rule
            holes |= (own & (frame != 0)).any(-1)
    return _as_float32(frame, holes, "an array") if frame.dtype in CONVERTED else frame, holes, None


def read_header(source: Any) -> FileHeader | None:
    """The file and header of a frame as `read_frame` takes it; None of what is no file.

    Raises:
        DataError: it cannot be read.
    """
    source, _ = _held(source)
    if not _is_file(source):
        return None
    with open_raster(source) as raster:
        return source, raster_info(raster, source)


def _held(source: Any) -> tuple[Any, str]:
    """As `held_by`, whose bytes know their name."""
    source, name = held_by(source)
    return NamedBytes.of(source, name) if isinstance(source, bytes) else source, name


def _is_file(source: Any) -> bool:
    return isinstance(source, (str, os.PathLike, bytes))


def _transparent(source: Any, frame: np.ndarray) -> np.ndarray | bool:
    """Where a PIL image shows nothing."""
    if not hasattr(source, "getbands"):
        return False
    if source.getbands()[-1] == "A":
        return frame[..., -1] == 0
    number = source.info.get("transparency")
    return frame[..., 0] == number if isinstance(number, int) and frame.shape[-1] == 1 else False


def with_mask(frame: np.ndarray, holes: np.ndarray) -> np.ma.MaskedArray:
    """A frame as an array that `read_frame` takes with its mask."""
    return np.ma.MaskedArray(frame, np.broadcast_to(holes[..., None], frame.shape))


def nodata_pixels(frames: np.ndarray, nodata: float | Sequence[float | None] | None) -> np.ndarray:
    """Which pixels were not measured: (..., height, width) bool for (..., height, width, bands).

    0, and every value of uint8, may be a measurement in one band: there a pixel is not measured where all bands
    that name a nodata value hold it. Any other value (-9999, 65535) lies outside what is measured, and one band
    is enough, as NaN and infinity in one band are.

    Args:
        nodata: one for all bands, or one a band; None names none.

    >>> nodata_pixels(np.array([[[0, 0], [0, 7]]], np.uint8), 0.0)
    array([[ True, False]])
    >>> nodata_pixels(np.array([[[-9999, 3], [0, 7]]], np.int16), -9999)
    array([[ True, False]])
    """
    holes = np.zeros(frames.shape[:-1], bool)
    if frames.dtype.kind == "f":
        holes |= ~np.isfinite(frames).all(-1)
    values = nodata if isinstance(nodata, Sequence) else [nodata] * frames.shape[-1]
    everywhere = None
    for band, value in enumerate(values):
        if value is None or math.isnan(value):
            continue
        hits = _equal(frames[..., band], value)
        if value != 0 and frames.dtype != np.uint8:
            holes |= hits
        everywhere = hits if everywhere is None else everywhere & hits
    return holes if everywhere is None else holes | everywhere


def _equal(band: np.ndarray, value: float) -> np.ndarray:
    if band.dtype.kind in "iu":
        limits = np.iinfo(band.dtype)
        if not limits.min <= value <= limits.max or value != int(value):
            return np.zeros(band.shape, bool)
        value = int(value)  # a float would make all pixels float64
    return band == value


def _as_float32(pixels: np.ndarray, holes: np.ndarray, name: str) -> np.ndarray:
    """Pixels as float32, NaN where they were not measured."""
    known = pixels[~holes].astype(np.float64)
    most = np.abs(known).max(initial=0)
    limit = np.finfo(np.float32).max if pixels.dtype.kind == "f" else 2**24
    if most > limit:
        raise DataError(
            f"{name}: holds {most:g}, which float32 does not hold exactly; scale its {pixels.dtype} pixels, or name "
            "the value in its header if it means that nothing was measured (gdal_edit.py -a_nodata)"
        )
    out = np.full(pixels.shape, np.nan, np.float32)
    out[~holes] = known
    return out


def _read(raster: DatasetReader, box: Box, **settings) -> tuple[np.ndarray, list[np.ndarray]]:
    """(bands, height, width), and the masks that the file keeps beside its pixels."""
    from rasterio.windows import Window

    x0, y0, x1, y1 = box
    window = Window(x0, y0, x1 - x0, y1 - y0)
    try:
        masks = [raster.read_masks(number, window=window) for number in mask_bands(raster)]
        return raster.read(window=window, **settings), masks
    except gdal_errors() as error:  # here, where it is known which file it is
        cause = error.__cause__ or error
        raise DataError(f"{raster.name}: cannot be read, it is truncated or no image ({cause})") from None
