"""GeoTIFFs of answers, on the grid of the images that they are about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.errors import DataError
from geohf.geo.crs import gdal_errors
from geohf.io import atomic_path, refuse_overwriting
from geohf.tiles.rasters import SIDECARS, RasterInfo

if TYPE_CHECKING:
    from rasterio.io import DatasetWriter


@contextmanager
def write_geotiff(
    path: str | Path, grid: RasterInfo, names: Sequence[str], inputs: Iterable[str | Path | None] = ()
) -> Iterator[DatasetWriter]:
    """Open a float32 GeoTIFF for writing, NaN where nothing is known; it appears only when the block ends well.

    Args:
        path: the file.
        grid: gives height, width, CRS and transform; a transform without a CRS is kept.
        names: of the bands.
        inputs: files that must not be overwritten.

    Raises:
        DataError: `path` is one of the inputs, or cannot be written.
    """
    import rasterio

    path = Path(path)
    refuse_overwriting(path, inputs)
    profile = {"driver": "GTiff", "dtype": "float32", "nodata": np.nan, "compress": "deflate"}
    profile |= {"height": grid.height, "width": grid.width, "count": len(names), "bigtiff": "if_safer"}
    if grid.located:
        profile |= {"crs": grid.crs, "transform": grid.affine}
    with _written(path) as temporary, rasterio.open(temporary, "w", **profile) as file:
        file.descriptions = tuple(names)
        yield file


def write_cog(
    path: str | Path,
    grid: RasterInfo,
    names: Sequence[str],
    strips: Iterable[tuple[int, np.ndarray]],
    folder: Path,
    inputs: Iterable[str | Path | None] = (),
    resampling: str = "bicubic",
) -> None:
    """Write a float32 cloud-optimized GeoTIFF, tiled and with overviews, from lines in their order.

    Args:
        path, grid, names, inputs: see `write_geotiff`.
        strips: (first line, (bands, lines, width)).
        folder: for the plain GeoTIFF that it is made of.
        resampling: `nearest`, for classes, makes overviews of the nearest pixels; others of means.

    Raises:
        DataError: see `write_geotiff`.
    """
    import rasterio.shutil
    from rasterio.windows import Window

    path, whole = Path(path), folder / "whole.tif"
    refuse_overwriting(path, inputs)
    with write_geotiff(whole, grid, names) as file:
        for line, strip in strips:
            file.write(strip, window=Window(0, line, grid.width, strip.shape[1]))
    profile = {"driver": "COG", "compress": "deflate", "bigtiff": "if_safer"}
    profile["overview_resampling"] = "nearest" if resampling == "nearest" else "average"
    with _written(path) as temporary:
        rasterio.shutil.copy(whole, temporary, **profile)


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """The name to write to, see `atomic_path`; an older file's sidecars go, and GDAL's errors are DataErrors."""
    try:
        with atomic_path(path) as temporary:
            yield temporary
        for ending in SIDECARS:
            Path(f"{path}{ending}").unlink(missing_ok=True)
    except gdal_errors() as error:
        raise DataError(f"{path}: cannot be written ({error.__cause__ or error})") from None
