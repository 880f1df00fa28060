"""Targets that the images give."""

from __future__ import annotations

import numpy as np
import pytest

from geohf import DataError
from geohf.tiles.cutting import build_cache
from geohf.tiles.derive import color_share, ndvi_fall
from geohf.tiles.table import load_tiles


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
