"""The images of regions: which file shows which region at which step, and whether they fit together."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geohf.data.cells import resolve_inside
from geohf.data.times import order_labels
from geohf.errors import DataError, listed
from geohf.tiles.align import on_grid
from geohf.tiles.grid import require_alignable, require_same_grid, require_same_kind
from geohf.tiles.rasters import RasterInfo, inspect_raster
from geohf.tiles.reading import Reading
from geohf.tiles.sources import (
    BandFiles,
    RasterFile,
    files_of,
    items_of,
    look_at_items,
    names_in,
    raster_folder,
    raster_in,
    require_no_other_case,
    shown_in,
)
from geohf.tiles.stacks import stacked
from geohf.tiles.stores import is_store, store_frames

logger = logging.getLogger(__name__)
ITEMS = (".json", ".geojson")
_BASELINE = re.compile(r"_N(\d{4})_R\d{3}_")  # in Sentinel-2's names
_SHIFTED = "0400"


@dataclass
class RegionImages:
    """The images of one region.

    Attributes:
        files: one a step, None where there is none.
        raster: the header that they share; None where the region has no image at all.
        nodata: the values that their headers name for "not measured".
        silent: a file that does not say which of its pixels were not measured; None where all do.
        reason: why they cannot be used; None where they can.
    """

    files: list[RasterFile | None]
    raster: RasterInfo | None
    nodata: set[float]
    silent: RasterFile | None = None
    reason: str | None = None

    @property
    def header(self) -> RasterInfo:
        """`raster` of a region that has images."""
        assert self.raster is not None
        return self.raster


def find_images(
    regions: Sequence[str],
    image_dir: str | Path,
    labels: Sequence[str],
    extension: str,
    on_error: str = "raise",
    reading: Reading | None = None,
) -> dict[str, RegionImages]:
    """Find `image_dir/<label>/<region><extension>` of every region.

    Args:
        on_error: with `skip`, regions whose images cannot be used come with the `reason`.

    Raises:
        DataError: a folder is missing, a name leads out of it, or images cannot be read or do not fit together, or
            not with the first region's.
    """
    folder = raster_folder(image_dir)
    for label in labels:
        inside = resolve_inside(folder, label) if isinstance(folder, Path) else folder / label
        if not inside.is_dir():
            raise DataError(f"{inside}: no such folder, so there is no image of the label {label}")
    by_region: dict[str, RegionImages] = {}
    first: tuple[RasterFile, RasterInfo] | None = None
    for region in regions:
        files = [raster_in(folder, f"{label}/{region}{extension}") for label in labels]
        lacking = [label for label, file in zip(labels, files, strict=True) if file is None]
        try:
            for label in lacking:
                require_no_other_case(folder, f"{label}/{region}", extension)
            images = fit_together(files, reading)
            if images.raster is not None:
                here = next(file for file in images.files if file is not None), images.raster
                first = first or here
                require_same_kind(*here, *first)
        except DataError as error:
            if on_error == "raise":
                raise
            images = RegionImages(files, None, set(), reason=str(error))
        by_region[region] = images
    if first is not None:
        _look_at_baselines(labels, first[1])
    return by_region


def mosaic_images(
    source: str | Path,
    labels: Sequence[str],
    extension: str,
    reading: Reading | None = None,
    asset: str | Sequence[str] | None = None,
    nodata: float | None = None,
) -> RegionImages:
    """The images of one place, see `mosaic_files`.

    Args:
        nodata: see `geohf.tiles.stacks.stacked`.

    Raises:
        DataError: an image is missing, cannot be read, or does not fit the others.
    """
    known = mosaic_files(source, extension, asset)
    lost = [label for label in labels if label not in known]
    if lost:
        raise DataError(f"{source}: holds no image of the label {lost[0]}; there are {listed(list(known))}")
    images = fit_together([known[label] for label in labels], reading, nodata)
    _look_at_baselines(files_of(images.files), images.header)
    if Path(source).suffix in ITEMS:
        look_at_items(source, labels, asset)
    return images


def place_of(source: str | Path) -> str:
    """What the one place that a folder or a file shows is called: as that is."""
    path = Path(source).resolve()
    return path.stem if path.is_file() else path.name


def mosaic_files(
    source: str | Path, extension: str, asset: str | Sequence[str] | None = None
) -> dict[str, RasterFile]:
    """The images of one place by label: `<label><extension>` in a folder or a zip file, the items of a STAC collection, or
    the times of a zarr store.

    Raises:
        DataError: there is no such folder, or see `items_of` and `store_frames`.
    """
    if Path(source).suffix in ITEMS and Path(source).is_file():
        return items_of(source, asset)
    if is_store(source):
        return dict(store_frames(source, asset))
    if asset:
        raise DataError(
            f"{source}: --asset is of a STAC item collection (.json) or a zarr store, and this is neither"
        )
    folder, extension = raster_folder(source), dotted(extension)
    files = {name: raster_in(folder, f"{name}{extension}") for name in names_in(folder, extension)}
    return {name: file for name, file in files.items() if file is not None}


def fit_together(
    files: list[RasterFile | None], reading: Reading | None = None, nodata_of_silent: float | None = None
) -> RegionImages:
    """The images of a region, which must be of one kind, and lie on one grid, unless the reading aligns them.

    Raises:
        DataError: an image cannot be read or differs from the first one.
    """
    first: tuple[RasterFile, RasterInfo] | None = None
    nodata: set[float] = set()
    silent: RasterFile | None = None
    reading = reading or Reading()
    files = [stacked(f, reading, nodata_of_silent) if isinstance(f, BandFiles) else f for f in files]
    for path in (file for file in files if file is not None):
        raster = inspect_raster(path)
        nodata |= {value for value in raster.nodata if value is not None}
        silent = silent if raster.says_nodata else silent or path
        reading.require_possible(path, raster)
        _require_on_globe(path, raster)
        if first is not None:
            require_same_kind(path, raster, *first)
            if not reading.align:
                require_same_grid(path, raster, *first)
        first = first or (path, raster if reading.grid is None else on_grid(raster, reading.grid[1]))
        if reading.align:
            require_alignable(path, raster, *(reading.grid or first))
    return RegionImages(files, first and first[1], nodata, silent)


def _require_on_globe(path: RasterFile, raster: RasterInfo) -> None:
    """Refuse latitudes that there are none of; the outermost pixels of the globe may have their middles on the poles."""
    from rasterio.crs import CRS

    if raster.crs is None or raster.gcps or not CRS.from_wkt(raster.crs).is_geographic:
        return
    ends = [(raster.affine @ corner)[1] for corner in ((0, 0), (raster.width, raster.height))]
    if max(map(abs, ends)) > 90 + abs(raster.transform[4]):
        raise DataError(
            f"{path}: reaches to latitude {max(ends, key=abs):g} by its header; correct the transform (gdal_edit.py -a_ullr)"
        )


def _look_at_baselines(names: Iterable[object], raster: RasterInfo) -> None:
    """Tell of Sentinel-2 images of before and after its change of numbers, as their names say."""
    baselines = sorted({match[1] for name in names if (match := _BASELINE.search(str(name)))})
    if baselines and baselines[0] < _SHIFTED <= baselines[-1] and not any(raster.offsets):
        logger.warning(
            "the names tell Sentinel-2's processing baselines %s: from %s on its numbers are larger by 1000; subtract that "
            "from the newer images unless it is done already",
            listed(baselines),
            _SHIFTED,
        )


def common_nodata(images: Sequence[RegionImages]) -> float | None:
    """The value for "not measured" in files that do not say it: what all others say; None where none does.

    Every file's own value holds for itself, and NaN always means it.

    Raises:
        DataError: a file does not say it, and the others name different values.
    """
    values = {value for image in images for value in image.nodata if np.isfinite(value)}
    silent = next((image.silent for image in images if image.silent is not None), None)
    if len(values) > 1 and silent is not None:
        named = ", ".join(f"{value:g}" for value in sorted(values))
        raise DataError(
            f"the images name different nodata values ({named}), and {silent} names none; say which it has with --nodata"
        )
    return values.pop() if len(values) == 1 else None


def found_labels(image_dir: str | Path) -> list[str]:
    """The labels that a folder holds images of, oldest first.

    Raises:
        DataError: there is no such folder, or the labels are times that do not go together.
    """
    try:
        folder = raster_folder(image_dir)
    except DataError as error:
        raise DataError(f"{error}; say where the images lie with --image_dir") from None
    return order_labels([path.name for path in shown_in(folder) if path.is_dir()])


def dotted(extension: str) -> str:
    """`tif` is the extension `.tif`."""
    return extension if extension.startswith(".") else f".{extension}"
