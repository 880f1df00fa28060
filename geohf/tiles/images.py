"""The images of regions: which file shows which region at which step, and whether they fit together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geohf.data.tables import resolve_inside
from geohf.data.times import order_labels
from geohf.errors import DataError
from geohf.tiles.rasters import RasterInfo, inspect_raster


@dataclass
class RegionImages:
    """The images of one region.

    Attributes:
        files: one a step, None where there is none.
        raster: the header that they share; None where the region has no image at all.
        nodata: the values that their headers name for "not measured".
    """

    files: list[Path | None]
    raster: RasterInfo | None
    nodata: set[float]


def find_images(
    regions: Sequence[str], image_dir: str | Path, labels: Sequence[str], extension: str
) -> dict[str, RegionImages]:
    """Find `image_dir/<label>/<region><extension>` of every region.

    Raises:
        DataError: a folder is missing, a name leads out of it, or images cannot be read or do not fit together.
    """
    folder = Path(image_dir)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    for label in labels:
        if not resolve_inside(folder, label).is_dir():
            raise DataError(f"{folder / label}: no such folder, so there is no image of the label {label}")
    found = {}
    for region in regions:
        paths = [resolve_inside(folder, f"{label}/{region}{extension}") for label in labels]
        found[region] = fit_together(region, [path if path.is_file() else None for path in paths])
    _require_one_kind(found, folder)
    return found


def mosaic_images(image_dir: str | Path, labels: Sequence[str], extension: str) -> RegionImages:
    """The images of one place, `image_dir/<label><extension>`.

    Raises:
        DataError: an image is missing, cannot be read, or does not fit the others.
    """
    folder = Path(image_dir)
    return fit_together(folder.resolve().name, [folder / f"{label}{dotted(extension)}" for label in labels])


def fit_together(region: str, files: list[Path | None]) -> RegionImages:
    """The images of a region, which must be of one size, kind and place.

    Raises:
        DataError: an image cannot be read or differs from the first one.
    """
    first, nodata, start = None, set(), None
    for path in filter(None, files):
        raster = inspect_raster(path)
        nodata |= {raster.nodata} - {None}
        if first is None:
            first, start = raster, path
            continue
        for name, word in (
            ("width", "width"),
            ("height", "height"),
            ("bands", "number of bands"),
            ("dtype", "type"),
        ):
            one, other = getattr(first, name), getattr(raster, name)
            if one != other:
                raise DataError(
                    f"{path}: its {word} is {other}, but {start} of the same region {region} has {one}"
                )
        pixel = abs(first.transform[0])
        if (
            first.crs
            and raster.crs
            and not np.allclose(first.transform, raster.transform, rtol=0, atol=pixel / 2)
        ):
            raise DataError(f"{path}: lies elsewhere than {start}; warp them to one grid")
    return RegionImages(files, first, nodata)


def common_nodata(images: Sequence[RegionImages]) -> float | None:
    """The one value that headers name for "not measured"; None where none does. NaN always means it.

    Raises:
        DataError: they name different ones.
    """
    found = {value for image in images for value in image.nodata if np.isfinite(value)}
    if len(found) > 1:
        raise DataError(
            f"the images name different nodata values ({', '.join(f'{v:g}' for v in sorted(found))}); say which "
            "with --nodata"
        )
    return found.pop() if found else None


def _require_one_kind(found: dict[str, RegionImages], folder: Path) -> None:
    rasters = {name: images.raster for name, images in found.items() if images.raster is not None}
    kinds = {name: (raster.bands, raster.dtype) for name, raster in rasters.items()}
    for name, (bands, dtype) in kinds.items():
        first, (others, kind) = next(iter(kinds.items()))
        if (bands, dtype) != (others, kind):
            raise DataError(
                f"{folder}: region {name} has {bands} bands of {dtype}, but region {first} has {others} of {kind}; "
                "they cannot be mixed"
            )


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
