"""GeoTIFFs of answers, on the grid of the images that they are about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geohf.errors import DataError
from geohf.io import atomic_path, refuse_overwriting
from geohf.tiles.rasters import SIDECARS, RasterInfo, gdal_errors

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
    try:
        with atomic_path(path) as temporary:
            with rasterio.open(temporary, "w", **profile) as file:
                file.descriptions = tuple(names)
                yield file
            for ending in SIDECARS:  # of an older file under this name
                Path(f"{path}{ending}").unlink(missing_ok=True)
    except gdal_errors() as error:
        raise DataError(f"{path}: cannot be written ({error.__cause__ or error})") from None
