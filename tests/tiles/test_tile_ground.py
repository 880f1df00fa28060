"""Splits on the ground: scenes that overlap, touch, or lie in several CRS never share ground between parts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from rasterio.transform import from_origin
from rasterio.warp import transform

from geohf import DataError
from geohf.data.task_data import facts_of
from geohf.tiles.arguments import TileArguments, TileTrainingArguments
from geohf.tiles.data import load
from geohf.tiles.ground import boxes_in, least_gap_px
from geohf.tiles.splits import split_tiles
from geohf.tiles.table import load_tiles

SHARES = {"test": 0.15, "validation": 0.15}
UTM = {"crs": "EPSG:32632"}


def scenes(folder, tiff, profiles, side=64, tile=16):
    """A table of square scenes, each with a profile of its own, cut into tiles."""
    rows = []
    for region, profile in enumerate(profiles):
        for label in ("2020", "2021"):
            pixels = np.random.default_rng(region).integers(1, 255, (side, side, 3), np.uint8)
            tiff(folder / "Images" / label / f"{region}.tif", pixels, **profile)
        rows += [
            {"region_id": region, "target": x / 64, "region_coordinates": (x, y, x + tile, y + tile)}
            for y in range(0, side, tile)
            for x in range(0, side, tile)
        ]
    frame = pd.DataFrame(rows).assign(tile_id=range(len(rows)))
    frame.to_csv(folder / "tiles.csv", index=False)
    return load_tiles(frame, folder / "Images", ["2020", "2021"])


def chain(step, n=8):
    """Scenes of 64 pixels of 10 m, each so many pixels east of the last."""
    return [UTM | {"transform": from_origin(500_000 + 10 * step * i, 5_000_000, 10, 10)} for i in range(n)]


def ground(table):
    """(tiles, 4) xmin, ymin, xmax, ymax on the map, of north-up scenes."""
    boxes = []
    for region, (x0, y0, x1, y1) in zip(table.region, table.boxes.tolist(), strict=True):
        a, _, c, _, e, f = table.rasters[region].transform
        boxes.append((c + a * x0, f + e * y1, c + a * x1, f + e * y0))
    return np.array(boxes)


def gaps_m(table, rows, others):
    one, two = ground(table)[rows][:, None], ground(table)[others][None]
    apart = np.maximum(one[..., :2] - two[..., 2:], two[..., :2] - one[..., 2:])
    return np.where((apart < 0).all(-1), -1.0, np.hypot(*np.moveaxis(apart.clip(0), -1, 0)))


def least(table, splits):
    pairs = [("train", "test"), ("train", "validation"), ("validation", "test")]
    return min(gaps_m(table, splits[one], splits[two]).min() for one, two in pairs)


@pytest.mark.case("files-A5")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("buffer_px", "gap_m", "n"), [(0, 0, 8), (8, 80, 8), (20.5, 205, 24)])
def test_overlapping_scenes_share_no_ground(tmp_path, tiff, caplog, seed, buffer_px, gap_m, n):
    table = scenes(tmp_path, tiff, chain(32, n))
    splits, dropped = split_tiles(table, "region", SHARES, seed=seed, buffer_px=buffer_px)
    assert least(table, splits) >= gap_m
    assert dropped > 0
    assert sum(map(len, splits.values())) + dropped == len(table)
    assert f"left out {dropped} tiles" in caplog.text


@pytest.mark.case("files-A5")
def test_scenes_that_meet_are_said_or_left_out(tmp_path, tiff, caplog):
    table = scenes(tmp_path, tiff, chain(64))
    splits, dropped = split_tiles(table, "region", SHARES)
    assert dropped == 0
    assert least(table, splits) == 0
    assert "tiles meet held-out tiles of other scenes edge to edge" in caplog.text
    caplog.clear()
    splits, dropped = split_tiles(table, "region", SHARES, buffer_px=1)
    assert least(table, splits) >= 10
    assert dropped > 0
    assert "edge to edge" not in caplog.text


@pytest.mark.case("files-A5")
def test_scenes_that_lie_apart_keep_all_their_tiles(tmp_path, tiff, caplog):
    table = scenes(tmp_path, tiff, chain(70))
    assert split_tiles(table, "region", SHARES)[1] == 0
    assert caplog.text == ""
    assert least(table, split_tiles(table, "region", SHARES, buffer_px=7)[0]) >= 70


@pytest.mark.case("files-A5", "files-D8")
def test_blocks_of_overlapping_scenes_share_no_ground(tmp_path, tiff):
    table = scenes(tmp_path, tiff, chain(40, 2), side=160, tile=8)
    splits, dropped = split_tiles(table, "blocks", SHARES, block_px=32, buffer_px=2)
    assert dropped > 0
    assert least(table, splits) >= 20


@pytest.mark.case("files-A5")
def test_the_recipe_measures_on_the_ground(tmp_path, tiff):
    scenes(tmp_path, tiff, chain(32))
    options = TileArguments(data=str(tmp_path / "tiles.csv"), buffer_px=8)
    data = load(options, TileTrainingArguments(output_dir=str(tmp_path / "out"), report_to="none"))
    facts = facts_of(data.train)
    assert facts["split"] == "whole regions"
    assert facts["left_out_for_buffer"] > 0
    rows = {name: np.unique(getattr(data, name).windows.rows) for name in ("train", "validation", "test")}
    assert least(data.train.table, rows) >= 80


@pytest.mark.case("files-A5")
@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326", "EPSG:3857"])
def test_scenes_in_several_crs_are_compared(tmp_path, tiff, crs):
    """Half of the scenes lie on the ground of the other half, in another CRS."""
    profiles = chain(200, 5)
    for one in profiles[:5]:
        east, north = one["transform"].c, one["transform"].f
        x, y = transform("EPSG:32632", crs, [east, east + 640], [north, north - 640])
        size = (x[1] - x[0]) / 64, (y[0] - y[1]) / 64
        profiles.append({"crs": crs, "transform": from_origin(x[0], y[0], *size)})
    table = scenes(tmp_path, tiff, profiles)
    splits, dropped = split_tiles(table, "region", SHARES, seed=1)
    parts = {name: set(table.region[rows].tolist()) for name, rows in splits.items()}
    assert dropped > 0
    assert not parts["train"] & {(region + 5) % 10 for region in parts["test"] | parts["validation"]}


@pytest.mark.case("files-A5")
def test_the_antimeridian_is_no_edge(tmp_path, tiff):
    profiles = [
        {"crs": "EPSG:4326", "transform": from_origin(west, 0, 0.01, 0.01)} for west in (179.68, -180, 10)
    ]
    table = scenes(tmp_path, tiff, profiles)
    rasters = table.rasters
    # the first scene goes on to 180.32 degrees: 32 pixels of the second
    assert boxes_in(rasters[0], rasters[1], [[0, 0, 16, 16]]).round(6).tolist() == [[32, 0, 48, 16]]
    rows, held_out = np.flatnonzero(table.region == 1), np.flatnonzero(table.region != 1)
    assert (least_gap_px(table, rows, held_out) < 0).sum() == 8


@pytest.mark.case("files-A5")
def test_a_transform_without_a_crs_and_a_local_crs_are_places_too(tmp_path, tiff):
    local = 'LOCAL_CS["Local Coordinates (m)",LOCAL_DATUM["Local Datum",0],UNIT["metre",1]]'
    here, there = from_origin(0, 64, 1, 1), from_origin(32, 64, 1, 1)
    for extra in ({}, {"crs": local}):
        table = scenes(tmp_path, tiff, [{"transform": here} | extra, {"transform": there} | extra])
        rows, held_out = np.flatnonzero(table.region == 1), np.flatnonzero(table.region == 0)
        assert (least_gap_px(table, rows, held_out) < 0).sum() == 8
        assert least_gap_px(table, rows, held_out, 20)[:4].tolist() == [-16, -16, 0, 16]


@pytest.mark.case("files-A5")
def test_all_ground_shared_is_an_error_that_can_be_overruled(tmp_path, tiff, caplog):
    table = scenes(tmp_path, tiff, chain(0))
    with pytest.raises(DataError, match=r"tiles share ground with test tiles of other scenes.*--allow_leaks"):
        split_tiles(table, "region", SHARES)
    assert split_tiles(table, "region", SHARES, allow_leaks=True)[1] == 0
    assert "train tiles share ground with test tiles" in caplog.text


@pytest.mark.case("files-A5")
def test_settings_that_a_split_does_not_know_are_refused(tmp_path, tiff):
    table = scenes(tmp_path, tiff, [{}] * 8)
    with pytest.raises(
        DataError, match="images of region 0 do not say where they lie, so --buffer_px cannot"
    ):
        split_tiles(table, "region", SHARES, buffer_px=200)
    with pytest.raises(DataError, match="--block_px needs --split blocks; the split is region"):
        split_tiles(table, "region", SHARES, block_px=64)
    with pytest.raises(DataError, match="--buffer_px needs --split blocks or region; the split is random"):
        split_tiles(table, "random", SHARES, buffer_px=8, allow_leaks=True)
    with pytest.raises(DataError, match="buffer_px must be at least 0, got -3"):
        split_tiles(table, "blocks", SHARES, buffer_px=-3)
    with pytest.raises(DataError, match="block_px must be above 0, got 0"):
        split_tiles(table, "blocks", SHARES, block_px=0)


@pytest.mark.case("files-C10")
def test_splits_that_are_too_tight_name_the_flags(tmp_path, tiff):
    table = scenes(tmp_path, tiff, chain(300, 2), side=320, tile=40)
    with pytest.raises(DataError) as caught:
        split_tiles(table, "blocks", SHARES, block_px=160, buffer_px=200)
    message = str(caught.value)
    assert "use a smaller --buffer_px, --block_px or --validation_share" in message
    assert "256.569 is --buffer_px 200 and the diagonal of a tile" in message
    assert "_m" not in message
