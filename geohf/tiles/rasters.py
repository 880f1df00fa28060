"""Rasters and their headers: images of one to many bands, with or without a georeference, opened by rasterio."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from geohf.errors import DataError
from geohf.geo.crs import gdal_errors
from geohf.tiles.sources import BandFiles, RasterFile, local_file
from geohf.tiles.stores import StoreFrame

if TYPE_CHECKING:
    from rasterio import Affine
    from rasterio.io import DatasetReader

KEPT = ("uint8", "int8", "uint16", "int16", "float32")  # types that pixels stay in
CONVERTED = ("float16", "float64", "int32", "uint32", "int64", "uint64")  # read as float32, where they fit
SIDECARS = (".msk", ".aux.xml")  # files beside an image in which GDAL looks for its mask and header
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # the transform of a file without one


@dataclass(frozen=True)
class RasterInfo:
    """What a raster's header says.

    Attributes:
        height, width: pixels.
        bands: how many.
        dtype: what its pixels are read as, one of `KEPT`.
        nodata: the value that means "not measured" in each band, None where the file names none.
        masked: an alpha band or a mask says which pixels were measured.
        crs: as WKT; None where the image is not georeferenced.
        transform: the six numbers of the affine map from (column, row) to coordinates, in rasterio's order.
        names: of the bands, None where the file gives none.
        gcps: ground control points (row, column, x, y), which say where an image lies that was not warped yet.
        scales, offsets: a band's measurement is pixel * scale + offset, in `units` where the file names them.
        colors: what each band is of a color image, in rasterio's words (`red`, `alpha`, `undefined`, ...).
        palette: (number, red, green, blue, alpha) of every class of a paletted image; None of others.
    """

    height: int
    width: int
    bands: int
    dtype: str
    nodata: tuple[float | None, ...]
    masked: bool
    crs: str | None
    transform: tuple[float, ...]
    names: tuple[str | None, ...]
    gcps: tuple[tuple[float, ...], ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    units: tuple[str | None, ...]
    colors: tuple[str, ...]
    palette: tuple[tuple[int, ...], ...] | None

    @property
    def affine(self) -> Affine:
        """The transform as rasterio's own type."""
        from rasterio import Affine

        return Affine(*self.transform)

    @property
    def located(self) -> bool:
        """It has a CRS, or a transform alone (of a world file)."""
        return self.crs is not None or self.transform != IDENTITY

    @property
    def says_nodata(self) -> bool:
        """The file itself says which pixels were not measured."""
        return self.masked or any(value is not None for value in self.nodata)


class NamedBytes(bytes):
    """A file's bytes, which messages call by its name."""

    name: str

    @classmethod
    def of(cls, held: bytes, name: str) -> NamedBytes:
        """These bytes, called so."""
        named = cls(held)
        named.name = name
        return named

    def __str__(self) -> str:
        return self.name


@contextmanager
def open_raster(path: RasterFile | os.PathLike | bytes) -> Iterator[DatasetReader]:
    """Open a raster, a file, its bytes, a stack of files or a store's image, for reading.

    Raises:
        DataError: there is no such file, it is empty, or GDAL cannot read it, be it now or within the block.
    """
    import rasterio
    from rasterio.io import MemoryFile

    size: int | None
    name = str(path)
    path = path.raster() if isinstance(path, (BandFiles, StoreFrame)) else path
    if isinstance(path, bytes):
        size = len(path)
    else:
        file = local_file(path)
        if file is not None and not file.is_file():
            raise DataError(f"{name}: no such file")
        size = None if file is None else file.stat().st_size  # what lies elsewhere is opened first
    if size == 0:
        raise DataError(f"{name}: the file is empty (0 bytes)")
    try:
        with (
            MemoryFile(path) if isinstance(path, bytes) else nullcontext(path) as source,
            rasterio.open(source) as raster,
        ):
            yield raster
    except gdal_errors() as error:
        cause = error.__cause__ or error
        raise DataError(f"{name}: cannot be read, it is truncated or no image ({cause})") from None


def inspect_raster(path: RasterFile | os.PathLike) -> RasterInfo:
    """A raster's header.

    Raises:
        DataError: see `open_raster`; or the pixels are of another type than `KEPT` and `CONVERTED`.
    """
    with open_raster(path) as raster:
        return raster_info(raster, path)


def raster_info(raster: DatasetReader, path: RasterFile | os.PathLike) -> RasterInfo:
    """The header of an open raster, see `inspect_raster`."""
    dtype = raster.dtypes[0]
    if dtype not in (*KEPT, *CONVERTED) or len(set(raster.dtypes)) > 1:
        kinds = ", ".join(sorted(set(raster.dtypes)))
        raise DataError(
            f"{path}: pixels are {kinds}; bands must all be one of {', '.join((*KEPT, *CONVERTED))}"
        )
    if len(raster.subdatasets) > 1:
        raise DataError(
            f"{path}: holds {len(raster.subdatasets)} images (pages), and a frame is one: write each to a file of its own, "
            f"gdal_translate {raster.subdatasets[0]} FILE"
        )
    colors = tuple(color.name for color in raster.colorinterp)
    palette = None
    if colors[0] == "palette":
        palette = tuple((number, *color) for number, color in sorted(raster.colormap(1).items()))
    return RasterInfo(
        height=raster.height,
        width=raster.width,
        bands=raster.count,
        dtype=dtype if dtype in KEPT else "float32",
        nodata=tuple(raster.nodatavals),
        masked="alpha" in colors or bool(mask_bands(raster)),
        crs=raster.crs.to_wkt() if raster.crs else None,
        transform=tuple(raster.transform)[:6],
        names=tuple((name or "").strip() or None for name in raster.descriptions),
        scales=tuple(raster.scales),
        gcps=tuple((point.row, point.col, point.x, point.y) for point in raster.gcps[0]),
        offsets=tuple(raster.offsets),
        units=tuple(unit or None for unit in raster.units),
        colors=colors,
        palette=palette,
    )


def beside(path: str | os.PathLike) -> list[Path]:
    """Files beside an image in which GDAL looks for its mask, its header, and its place: of `a.tif` in `a.tfw`."""
    path = Path(path)
    ending = path.suffix[1:].lower()  # GDAL looks for `a.tfw` and `a.TFW` of `a.TIF`, too
    world = (f"{ending[:1]}{ending[-1:]}w", f"{ending}w", "wld")
    files = [Path(f"{path}{end}") for end in SIDECARS]
    files += [path.with_suffix(f".{name}") for word in world for name in (word, word.upper())]
    return [file for file in files if file.exists()]


def mask_bands(raster: DatasetReader) -> list[int]:
    """Numbers of the bands whose masks are read beside the pixels; one stands for a mask of the whole file."""
    from rasterio.enums import MaskFlags

    own = []
    for number, flags in enumerate(raster.mask_flag_enums, start=1):
        if MaskFlags.alpha in flags or MaskFlags.nodata in flags or MaskFlags.all_valid in flags:
            continue  # told by the pixels themselves
        if MaskFlags.per_dataset in flags:
            return [number]
        own.append(number)
    return own
