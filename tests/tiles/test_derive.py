"""Targets that the images give."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio

from geohf import DataError
from geohf.tiles.arguments import TileArguments
from geohf.tiles.cutting import build_cache
from geohf.tiles.data import _derived
from geohf.tiles.reading import Reading
from geohf.tiles.table import grid_tiles, load_tiles
from geohf.tiles.targets import color_share, ndvi_fall


@pytest.mark.case("files-D16")
def test_derived_targets_by_hand(world, tiff, tmp_path):
    frames = {
        "2019": np.array([[[10, 30], [10, 10]], [[5, 5], [0, 0]]], np.uint8),
        "2020": np.array([[[10, 20], [10, 20]], [[5, 5], [9, 1]]], np.uint8),
    }
    for label, pixels in frames.items():
        tiff(world.images / label / "7.tif", pixels, nodata=0)
    frame = world.frame.iloc[[0, 1]].assign(region_coordinates="(0, 0, 2, 2)", label_id=["2019", "2020"])
    table = load_tiles(frame, world.images, ["2019", "2020"])
    cache = build_cache(table, tmp_path, 1)
    fall = ndvi_fall(cache, nir=2, red=1)
    # the first pixel falls, the second rises, the third stays, the fourth was not measured in 2019
    np.testing.assert_allclose(fall, [[np.nan, 1 / 3]])
    np.testing.assert_allclose(color_share(cache, (10, 20)), [[0, 0.5]])
    with pytest.raises(DataError, match="there is no band 4, the images have 2"):
        ndvi_fall(cache, nir=4, red=1)


def test_a_vegetation_index_is_one_of_measurements(tiff, tmp_path):
    """Landsat's numbers: reflectance = 0.0000275 * number - 0.2, so the ratio of numbers is another one."""
    near, red = np.array([[0.02, 0.06], [0.30, 0.25]]), np.array([[0.01, 0.04], [0.10, 0.05]])
    folder = (
        tmp_path / "place"
    )  # 2019 and 2020: the first pixel falls from 1/3 to 1/5, the second rises from 1/2 to 2/3
    for year, bands in enumerate(np.stack([near, red], -1).transpose(1, 0, 2), 2019):
        path = tiff(folder / f"{year}.tif", np.rint((bands[None] + 0.2) / 2.75e-5).astype(np.uint16))
        with rasterio.open(path, "r+") as raster:
            raster.scales, raster.offsets = (2.75e-5,) * 2, (-0.2,) * 2
    options = TileArguments(target_from="ndvi_fall", nir=1, red=2)
    for reading in (Reading(), Reading(bands=(2, 1))):
        table = grid_tiles(folder, ["2019", "2020"], 1, reading=reading)
        found = _derived(options, table, build_cache(table, tmp_path, 1))
        np.testing.assert_array_equal(found[:, 1], [1, 0])


def test_pixels_without_a_vegetation_index_do_not_count(tiff, tmp_path):
    """Water and shadow: negative reflectances, and 0 in both bands, are no fall from 0.5 and no rise to it."""
    red, near = [0.1, 0.1, 0.1, 0.1], [0.3, 0.3, 0.3, 0.3]  # 0.5
    later = [0.1, -0.02, 0.01, 0.0], [0.2, 0.01, -0.03, 0.0]  # 1/3, and none
    for year, bands in ((2019, (red, near)), (2020, later), (2021, (red, near))):
        tiff(tmp_path / "place" / f"{year}.tif", np.array(bands, np.float32).T.reshape(2, 2, 2))
    table = grid_tiles(tmp_path / "place", ["2019", "2020", "2021"], 2)
    fall = ndvi_fall(build_cache(table, tmp_path, 1), nir=2, red=1)
    np.testing.assert_array_equal(fall, [[np.nan, 1, 0]])
