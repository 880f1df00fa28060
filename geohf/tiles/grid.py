"""Whether rasters show the same ground in the same way: one grid, and one meaning of the pixels."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from geohf.errors import DataError
from geohf.tiles.align import same_grid, share_ground
from geohf.tiles.masks import read_window
from geohf.tiles.rasters import RasterInfo, open_raster
from geohf.tiles.sources import RasterFile

if TYPE_CHECKING:
    from geohf.tiles.table import TileTable

TOLERANCE_PX = 0.5  # how far a corner may lie from the first raster's
WARP = "warp them to one grid, with gdalwarp for example, or train with --align true"
RGB = ("red", "green", "blue")


def require_same_grid(
    path: RasterFile, raster: RasterInfo, start: RasterFile, first: RasterInfo, advice: str = WARP
) -> None:
    """Refuse a raster that does not lie, pixel by pixel, where another one lies.

    Compared are the size, the CRS, and the places of the four corners in pixels of the first. Without a CRS the
    transforms alone are compared. Ground control points must be the same.

    Args:
        advice: the end of the message, what to do.

    Raises:
        DataError: they differ; says in what, and to warp them.
    """
    for side in ("width", "height"):
        one, other = getattr(first, side), getattr(raster, side)
        if one != other:
            raise DataError(f"{path}: its {side} is {other}, but {start} has {one}; {advice}")
    if (first.crs is None) != (raster.crs is None):
        without, given = (path, start) if raster.crs is None else (start, path)
        raise DataError(
            f"{without}: has no CRS, but {given} has one, so whether they show the same place is not known; "
            "write the CRS and the transform into it (gdal_edit.py -a_srs, -a_ullr), or remove both from all"
        )
    if first.gcps != raster.gcps:
        raise DataError(f"{path}: its ground control points are not those of {start}; {advice}")
    if first.crs is not None and raster.crs is not None and not _same_crs(first.crs, raster.crs):
        one, other = _crs_name(first.crs), _crs_name(raster.crs)
        raise DataError(f"{path}: its CRS is {other}, but {start} has {one}; {advice}")
    far = _farthest_corner_px(first, raster)
    if not far <= TOLERANCE_PX:
        raise DataError(
            f"{path}: lies elsewhere than {start}, a corner is {far:.3g} pixels away from that of the first "
            f"(at most {TOLERANCE_PX} are allowed); {advice}"
        )


def require_alignable(path: RasterFile, raster: RasterInfo, start: RasterFile, first: RasterInfo) -> None:
    """Refuse a raster that cannot be read onto another one's grid.

    Raises:
        DataError: one of them does not say where it lies, or they share no ground.
    """
    if same_grid(raster, first):
        return
    for name, info in ((path, raster), (start, first)):
        if info.crs is None or info.gcps:
            raise DataError(f"{name}: has no CRS and transform, so --align cannot place it")
    if not share_ground(first, raster):
        raise DataError(f"{path}: shows no ground that {start} shows, whose grid --align reads it onto")


def require_same_kind(path: RasterFile, raster: RasterInfo, start: RasterFile, first: RasterInfo) -> None:
    """Refuse a raster whose pixels mean something else than those of another one, as their headers say.

    Raises:
        DataError: number of bands, type, names or colors of the bands, scale, offset, or palette differ.
    """
    what = _difference(pixel_kind(first), pixel_kind(raster))
    if what is not None:
        word, one, other = what
        raise DataError(f"{path}: its {word} is {other}, but {start} has {one}; these are of other kinds")
    if first.palette != raster.palette:
        _require_same_classes(path, raster, start, first)


def pixel_kind(raster: RasterInfo) -> dict:
    """What a header says of the meaning of pixels, as a model's config keeps it."""
    names = ("bands", "dtype", "names", "scales", "offsets", "units", "colors")
    kind = {name: getattr(raster, name) for name in names}
    kind = {name: list(value) if isinstance(value, tuple) else value for name, value in kind.items()}
    return kind | {"paletted": raster.palette is not None}


def require_trained_kind(path: RasterFile, raster: RasterInfo, kind: dict | None) -> None:
    """Refuse a raster whose pixels mean something else than those a model was trained on.

    Args:
        kind: of the training images, see `pixel_kind`; None where it is not known.

    Raises:
        DataError: see `require_same_kind`.
    """
    own = pixel_kind(raster)
    what = None if kind is None else _difference(own | kind, own)  # earlier versions kept less
    if what is not None:
        word, one, other = what
        raise DataError(
            f"{path}: its {word} is {other}, but the images that the model was trained on have {one}"
        )


def require_trained_table(table: TileTable, kind: dict | None) -> None:
    """`require_trained_kind` of a table's images, which are all of one kind."""
    path = next(path for files in table.files for path in files if path is not None)
    require_trained_kind(path, table.rasters[0], kind)


def _difference(first: dict, other: dict) -> tuple[str, object, object] | None:
    """(word, of the first, of the other) for the first thing that differs."""
    for word, name in (("number of bands", "bands"), ("type", "dtype")):
        if first[name] != other[name]:
            return word, first[name], other[name]
    for band, (one, two) in enumerate(zip(first["names"], other["names"], strict=True), start=1):
        if one and two and _without_date(one) != _without_date(two):
            return f"band {band}", one, two
    for band, (one, two) in enumerate(zip(first["colors"], other["colors"], strict=True), start=1):
        if one != two and ("alpha" in (one, two) or (one in RGB and two in RGB)):
            return f"band {band}'s color", one, two
    for word, name in (("scale", "scales"), ("offset", "offsets")):
        if not np.allclose(first[name], other[name], rtol=1e-6, atol=0):
            return f"{word} by band", list(first[name]), list(other[name])
    for band, (one, two) in enumerate(zip(first["units"], other["units"], strict=True), start=1):
        if one and two and one != two:
            return f"band {band}'s unit", one, two
    if first["paletted"] != other["paletted"]:
        words = {True: "a color table (classes)", False: "no color table"}
        return "header", words[first["paletted"]], words[other["paletted"]]
    return None


def _without_date(name: str) -> str:
    """Years and dates in a band's name differ from step to step."""
    return re.sub(r"\d{4}[-_]?\d{2}[-_]?\d{2}|\d{4,}", "", name).casefold().strip()


def _require_same_classes(path, raster: RasterInfo, start, first: RasterInfo) -> None:
    """Color tables may differ in numbers that no pixel has."""
    tables = [{number: color for number, *color in info.palette or ()} for info in (first, raster)]
    used = [_numbers_in(file, info) for file, info in ((start, first), (path, raster))]
    for number in sorted(set.union(*used)):
        one, other = (table.get(number) for table in tables)
        if one != other:
            raise DataError(
                f"{path}: in its color table {number} is {other}, but {one} in that of {start}; give the classes the "
                "same numbers"
            )


def _numbers_in(path, info: RasterInfo) -> set[int]:
    numbers: set[int] = set()
    with open_raster(path) as file:
        for top in range(0, info.height, 512):
            pixels, holes = read_window(file, (0, top, info.width, min(top + 512, info.height)))
            numbers.update(np.unique(pixels[~holes]).tolist())
    return numbers


def _same_crs(one: str, other: str) -> bool:
    from rasterio.crs import CRS

    return one == other or CRS.from_wkt(one) == CRS.from_wkt(other)


def _crs_name(wkt: str) -> str:
    from rasterio.crs import CRS

    code = CRS.from_wkt(wkt).to_epsg()
    return f"EPSG:{code}" if code else wkt.partition('"')[2].partition('"')[0] or wkt


def _farthest_corner_px(first: RasterInfo, other: RasterInfo) -> float:
    """The largest distance of a corner from the first's, in pixels of the first; infinite where it has no area."""
    if first.affine.determinant == 0:
        return np.inf if first.transform != other.transform else 0.0
    corners = [(x, y) for x in (0, first.width) for y in (0, first.height)]
    moved = [~first.affine @ (other.affine @ corner) for corner in corners]
    return float(np.abs(np.subtract(moved, corners)).max())
