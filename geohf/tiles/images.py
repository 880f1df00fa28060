"""The images of regions: which file shows which region at which step, and whether they fit together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geohf.data.tables import resolve_inside
from geohf.data.times import order_labels
from geohf.errors import DataError
from geohf.tiles.align import on_grid
from geohf.tiles.grid import require_alignable, require_same_grid, require_same_kind
from geohf.tiles.rasters import RasterInfo, inspect_raster
from geohf.tiles.reading import Reading


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

    files: list[Path | None]
    raster: RasterInfo | None
    nodata: set[float]
    silent: Path | None = None
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
    folder = Path(image_dir)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    for label in labels:
        if not resolve_inside(folder, label).is_dir():
            raise DataError(f"{folder / label}: no such folder, so there is no image of the label {label}")
    found: dict[str, RegionImages] = {}
    first: tuple[Path, RasterInfo] | None = None
    for region in regions:
        paths = [resolve_inside(folder, f"{label}/{region}{extension}") for label in labels]
        files = [path if path.is_file() else None for path in paths]
        try:
            images = fit_together(region, files, reading)
            if images.raster is not None:
                here = _any(images), images.raster
                first = first or here
                require_same_kind(*here, *first)
        except DataError as error:
            if on_error == "raise":
                raise
            images = RegionImages(files, None, set(), reason=str(error))
        found[region] = images
    return found


def mosaic_images(
    image_dir: str | Path, labels: Sequence[str], extension: str, reading: Reading | None = None
) -> RegionImages:
    """The images of one place, `image_dir/<label><extension>`.

    Raises:
        DataError: an image is missing, cannot be read, or does not fit the others.
    """
    folder = Path(image_dir)
    files: list[Path | None] = [folder / f"{label}{dotted(extension)}" for label in labels]
    return fit_together(folder.resolve().name, files, reading)


def fit_together(region: str, files: list[Path | None], reading: Reading | None = None) -> RegionImages:
    """The images of a region, which must be of one kind, and lie on one grid, unless the reading aligns them.

    Raises:
        DataError: an image cannot be read or differs from the first one.
    """
    first: tuple[Path, RasterInfo] | None = None
    nodata: set[float] = set()
    silent, reading = None, reading or Reading()
    for path in filter(None, files):
        raster = inspect_raster(path)
        nodata |= {value for value in raster.nodata if value is not None}
        silent = silent if raster.says_nodata else silent or path
        reading.require_possible(path, raster)
        if first is not None:
            require_same_kind(path, raster, *first)
            if not reading.align:
                require_same_grid(path, raster, *first)
        first = first or (path, raster if reading.grid is None else on_grid(raster, reading.grid[1]))
        if reading.align:
            require_alignable(path, raster, *(reading.grid or first))
    return RegionImages(files, first and first[1], nodata, silent)


def common_nodata(images: Sequence[RegionImages]) -> float | None:
    """The value for "not measured" in files that do not say it: what all others say; None where none does.

    Every file's own value holds for itself, and NaN always means it.

    Raises:
        DataError: a file does not say it, and the others name different values.
    """
    found = {value for image in images for value in image.nodata if np.isfinite(value)}
    silent = next((image.silent for image in images if image.silent is not None), None)
    if len(found) > 1 and silent is not None:
        raise DataError(
            f"the images name different nodata values ({', '.join(f'{v:g}' for v in sorted(found))}), and {silent} "
            "names none; say which it has with --nodata"
        )
    return found.pop() if len(found) == 1 else None


def _any(images: RegionImages) -> Path:
    return next(path for path in images.files if path is not None)


def found_labels(image_dir: str | Path) -> list[str]:
    """The labels that a folder holds images of, oldest first.

    Raises:
        DataError: there is no such folder, or the labels are times that do not go together.
    """
    folder = Path(image_dir)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; say where the images lie with --image_dir")
    return order_labels(
        [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    )


def dotted(extension: str) -> str:
    """`tif` is the extension `.tif`."""
    return extension if extension.startswith(".") else f".{extension}"
