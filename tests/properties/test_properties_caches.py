"""Caches give what is computed without them, whatever was asked before, in whatever order."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

import geohf.vision.features as cache
from geohf.tiles.cutting import build_cache
from geohf.tiles.table import load_tiles
from geohf.vision.backbones import TimmTowerConfig
from geohf.vision.processing import GeoImageProcessor
from geohf.vision.towers import build_tower, tower_features

PHOTOS = 9


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tower, its processor, photographs as files, and their features without any cache, one by one."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    torch.manual_seed(0)
    tower = build_tower(TimmTowerConfig(architecture="test_resnet", image_size=32)).eval()
    processor = GeoImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    files = [folder / f"{i}.png" for i in range(PHOTOS)]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (36, 40, 3), np.uint8)).save(file)
    with torch.inference_mode():
        direct = [
            tower_features(tower, processor([str(file)], return_tensors="pt")["pixel_values"])
            for file in files
        ]
    return tower, processor, files, torch.cat(direct)


@settings(max_examples=25)
@example([[0, 1, 2], [2, 1, 0], [0, 0, 2], [2, 0, 0]], 3, 2, False)
@given(
    st.lists(st.lists(st.integers(0, PHOTOS - 1), min_size=1, max_size=14), min_size=1, max_size=4),
    st.integers(1, 5),
    st.integers(1, 4),
    st.booleans(),
)
def test_features_of_any_photos_in_any_order(world, tmp_path_factory, orders, shard, batch_size, as_bytes):
    """Lists one after the other from one cache, which holds shards of the earlier ones by then."""
    tower, processor, files, direct = world
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "SHARD_IMAGES", shard)
        for order in orders:
            photos = [files[i].read_bytes() if as_bytes else files[i] for i in order]
            found = cache.cached_features(tower, processor, photos, folder, batch_size)
            torch.testing.assert_close(found, direct[order], rtol=1e-5, atol=1e-5)


@st.composite
def mosaics(draw):
    """Images of some regions and years, a few of them missing, and windows of one or two sizes in them."""
    labels = [str(2000 + i) for i in range(draw(st.integers(2, 3)))]
    height, width, bands = draw(st.integers(8, 20)), draw(st.integers(8, 20)), draw(st.integers(1, 4))
    dtype = draw(st.sampled_from(["uint8", "uint16", "int16", "float32"]))
    rng, regions = np.random.default_rng(draw(st.integers(0, 99))), range(draw(st.integers(1, 2)))
    images = {
        (label, region): (rng.random((height, width, bands)) * 200 + 1).astype(dtype)
        for label in labels
        for region in regions
    }
    missing = draw(st.sampled_from([None, *((labels[i], 0) for i in range(len(labels)))]))
    if missing is not None:
        images[missing] = None
    side = draw(st.integers(3, 7))
    corners = st.tuples(st.integers(0, width - side), st.integers(0, height - side))
    boxes = [
        (x, y, x + side, y + side) for x, y in draw(st.lists(corners, min_size=1, max_size=5, unique=True))
    ]
    return labels, images, boxes


@settings(max_examples=20)
@given(mosaics(), st.data())
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_any_window_of_any_year_is_that_of_the_raster(tmp_path_factory, mosaic, data):
    labels, images, boxes = mosaic
    folder = tmp_path_factory.mktemp("mosaic")
    regions = sorted({region for _, region in images})
    for (label, region), pixels in images.items():
        path = folder / "Images" / label / f"{region}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        if pixels is not None:
            height, width, bands = pixels.shape
            shape = {"height": height, "width": width, "count": bands, "dtype": pixels.dtype}
            with rasterio.open(path, "w", driver="GTiff", **shape) as raster:
                raster.write(pixels.transpose(2, 0, 1))
    rows = [(f"{region}-{i}", region, label, 0.5, str(box))
            for region in regions for i, box in enumerate(boxes) for label in labels]  # fmt: skip
    names = ["tile_id", "region_id", "label_id", "target", "region_coordinates"]
    pd.DataFrame(rows, columns=names).to_csv(folder / "tiles.csv", index=False)
    table = load_tiles(folder / "tiles.csv", folder / "Images", labels, max_missing=0.5)
    tiles = build_cache(table, folder / "cache", workers=1)
    where = [
        (table.regions[table.region[row]], tuple(table.boxes[row].tolist())) for row in range(len(tiles))
    ]
    assert len(where) == len(set(where)) == len(regions) * len(boxes)
    asked = data.draw(st.lists(st.integers(0, len(tiles) - 1), min_size=1, max_size=8))
    steps = data.draw(st.lists(st.permutations(range(len(labels))), min_size=len(asked), max_size=len(asked)))
    found = tiles.read(asked, np.array(steps))
    for at, (row, order) in enumerate(zip(asked, steps, strict=True)):
        region, (x0, y0, x1, y1) = where[row]
        for step, year in enumerate(order):
            pixels = images[labels[year], int(region)]
            wanted = 0 if pixels is None else pixels[y0:y1, x0:x1]
            assert (found[at, step, : y1 - y0, : x1 - x0] == wanted).all()
            assert tiles.holes[row, year] == (pixels is None)
