"""How rasters are read: onto one grid, without clouds, some bands, embeddings as numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import Affine, from_origin
from rasterio.warp import Resampling, calculate_default_transform, reproject

from geohf import DataError, TileSequenceConfig, TileSequenceModel
from geohf.recipes import train_tiles
from geohf.tiles.arguments import TileArguments, TileTrainingArguments
from geohf.tiles.cutting import build_cache
from geohf.tiles.data import load
from geohf.tiles.inputs import labeled_tiles, read_tiles
from geohf.tiles.masks import read_frame
from geohf.tiles.modeling import make_model
from geohf.tiles.processing import TileSequenceProcessor, settings_of
from geohf.tiles.reading import Reading, dequantized
from geohf.tiles.scene import predict_scene
from geohf.tiles.table import grid_tiles, load_tiles

SIDE = 96
UTM32, ORIGIN = "EPSG:32632", from_origin(700_000, 5_000_000, 10, 10)
ALIGN = Reading(align="bilinear")


def smooth(bands=2):
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = [120 + 80 * np.sin((3 + k) * x + k) * np.cos(4 * y) for k in range(bands)]
    return np.stack(waves, -1).round().astype(np.uint8)


def elsewhere(pixels, crs, how):
    """The scene on a grid of another CRS, and that grid."""
    height, width, bands = pixels.shape
    bounds = rasterio.transform.array_bounds(height, width, ORIGIN)
    transform, w, h = calculate_default_transform(UTM32, crs, width, height, *bounds)
    transform @= Affine.translation(0.37, 0.21)
    out = np.zeros((bands, h, w), pixels.dtype)
    source = np.moveaxis(pixels, -1, 0)
    reproject(
        np.ascontiguousarray(source),
        out,
        ORIGIN,
        src_crs=UTM32,
        dst_transform=transform,
        dst_crs=crs,
        resampling=how,
    )
    return np.moveaxis(out, 0, -1), transform


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326"])
def test_a_scene_of_another_crs_comes_back_within_one_gray_level(tmp_path, tiff, crs):
    here = smooth()
    there, transform = elsewhere(here, crs, Resampling.cubic)
    tiff(tmp_path / "2019.tif", here, crs=UTM32, transform=ORIGIN, nodata=0)
    tiff(tmp_path / "2020.tif", there, crs=crs, transform=transform, nodata=0)
    with pytest.raises(DataError, match=r"2020.tif: its width is .* --align true"):
        grid_tiles(tmp_path, ["2019", "2020"], 16)
    table = grid_tiles(tmp_path, ["2019", "2020"], 16, reading=ALIGN)
    cache = build_cache(table, tmp_path / "cache", 1)
    inner = [i for i, box in enumerate(table.boxes) if box.min() >= 16 and box.max() <= SIDE - 16]
    for row in inner:
        first, second = cache.tile(row).astype(int)
        assert np.abs(first - second).max() <= 1
        assert not cache.tile_mask(row, np.array([0, 1])).any()
    outside = cache.holes[:, 1]
    assert outside.min() == 0
    assert outside.max() < 0.2  # rims that the other grid cuts off, at most


def test_classes_stay_classes(tmp_path, tiff):
    rng = np.random.default_rng(0)
    here = rng.choice([10, 40, 90], (SIDE // 8, SIDE // 8, 1)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    there, transform = elsewhere(here, "EPSG:32633", Resampling.nearest)
    tiff(tmp_path / "2019.tif", here, crs=UTM32, transform=ORIGIN, nodata=0)
    tiff(tmp_path / "2020.tif", there, crs="EPSG:32633", transform=transform, nodata=0)
    table = grid_tiles(tmp_path, ["2019", "2020"], 16, reading=Reading(align="nearest"))
    cache = build_cache(table, tmp_path / "cache", 1)
    seen = ~np.stack([cache.tile_mask(row, np.array([1]))[0] for row in range(len(cache))])
    first, second = (
        np.stack([cache.tile(row)[t, ..., 0] for row in range(len(cache))])[seen] for t in (0, 1)
    )
    assert set(np.unique(second)) <= {10, 40, 90}
    assert (first == second).mean() > 0.85  # edges of fields move by a pixel at most


def test_coarser_pixels_and_shifts_are_read_onto_the_first_grid(tmp_path, tiff):
    here = smooth()
    coarse = here.reshape(SIDE // 4, 4, SIDE // 4, 4, 2).mean((1, 3)).round().astype(np.uint8)
    tiff(tmp_path / "2019.tif", here, crs=UTM32, transform=ORIGIN)
    tiff(tmp_path / "2020.tif", coarse, crs=UTM32, transform=from_origin(700_000, 5_000_000, 40, 40))
    shifted = from_origin(700_000 + 30, 5_000_000, 10, 10)
    tiff(tmp_path / "2021.tif", here[:, 3:], crs=UTM32, transform=shifted)
    labels = ["2019", "2020", "2021"]
    table = grid_tiles(tmp_path, labels, 16, reading=ALIGN)
    cache = build_cache(table, tmp_path / "cache", 1)
    for row, (x0, y0, x1, y1) in enumerate(table.boxes.tolist()):
        first, second, third = cache.tile(row)
        mask = cache.tile_mask(row, np.arange(3))
        assert not mask[:2].any()
        assert mask[2].sum() == 16 * max(0, 3 - x0)  # what the shifted image does not show
        assert (first == third)[~mask[2]].all()
        if min(x0, y0) > 0 and max(x1, y1) < SIDE:
            assert np.abs(first.astype(int) - second).max() <= 4


def test_holes_of_another_grid_stay_holes_and_bleed_nowhere(tmp_path, tiff):
    here = smooth().astype(np.int16)
    tiff(tmp_path / "2019.tif", here, crs=UTM32, transform=ORIGIN, nodata=-9999)
    holed = here.copy()
    holed[40:56, 40:56] = -9999
    moved = ORIGIN @ Affine.translation(0.5, 0.5)
    tiff(tmp_path / "2020.tif", holed, crs=UTM32, transform=moved, nodata=-9999)
    table = grid_tiles(tmp_path, ["2019", "2020"], 16, reading=ALIGN)
    cache = build_cache(table, tmp_path / "cache", 1)
    whole = np.zeros((SIDE, SIDE), bool)
    for row, (x0, y0, x1, y1) in enumerate(table.boxes.tolist()):
        whole[y0:y1, x0:x1] = mask = cache.tile_mask(row, np.array([1]))[0]
        assert cache.tile(row)[1][~mask].min(initial=99) >= 30
    assert whole[42:56, 42:56].all()
    assert not whole[60:, 60:].any()
    assert not whole[2:38, 2:].any()


def test_a_named_grid_takes_the_place_of_the_first_ones(tmp_path, tiff):
    """Both years onto a third raster's grid: as though that one were the first."""
    there, transform = elsewhere(smooth(), "EPSG:32633", Resampling.cubic)
    here = {"crs": UTM32, "transform": ORIGIN, "nodata": 0}
    tiff(tmp_path / "2019.tif", smooth(), **here)
    tiff(tmp_path / "2020.tif", there, crs="EPSG:32633", transform=transform, nodata=0)
    shift = {"crs": UTM32, "transform": ORIGIN @ Affine.translation(8.5, 4.25) @ Affine.scale(2)}
    named = tiff(tmp_path / "2018.tif", np.ones((32, 40, 2), np.uint8), nodata=0, **shift)
    options = TileArguments(data=str(tmp_path), align=True, grid=str(named))
    tables = [
        grid_tiles(tmp_path, ["2018", "2019", "2020"], 16, reading=ALIGN),
        grid_tiles(tmp_path, ["2019", "2020"], 16, reading=Reading.from_options(options)),
        grid_tiles(tmp_path, ["2019", "2020"], 16, reading=ALIGN),
    ]
    first, second, other = (build_cache(table, tmp_path / "cache", 1) for table in tables)
    assert (tables[1].rasters[0].width, tables[1].rasters[0].height) == (40, 32)
    assert len(second) == 4
    np.testing.assert_array_equal(first.array[:, 1:], second.array)
    np.testing.assert_array_equal(first.holes[:, 1:], second.holes)
    assert second.holes.max() < 0.1
    assert other.folder != second.folder
    kept = tables[1].reading.as_config()
    assert Reading.from_config(kept) == replace(ALIGN, named_grid=True)  # a model keeps no path
    (tmp_path / "tiles.csv").write_text('region_id,region_coordinates,built\nhere,"[0, 0, 16, 16]",0.5\n')
    model = TileSequenceConfig(targets=["built"], reading=kept)
    for read in (read_tiles, labeled_tiles):  # the boxes would be cut from the first image's grid
        with pytest.raises(
            DataError, match="the model was trained with --grid, and its boxes count pixels of that grid"
        ):
            read(tmp_path / "tiles.csv", model)
    with pytest.raises(DataError, match="--grid names the grid that --align true reads rasters onto"):
        Reading.from_options(TileArguments(data=str(tmp_path), grid=str(named)))
    away = tiff(tmp_path / "away.tif", np.ones((32, 40, 2), np.uint8), crs="EPSG:32601", transform=ORIGIN)
    reading = Reading.from_options(TileArguments(data=str(tmp_path), align=True, grid=str(away)))
    with pytest.raises(DataError, match=r"2019.tif: shows no ground that .*away.tif shows"):
        grid_tiles(tmp_path, ["2019", "2020"], 16, reading=reading)


def test_rasters_that_cannot_be_aligned(tmp_path, tiff):
    here = smooth()
    tiff(tmp_path / "2019.tif", here, crs=UTM32, transform=ORIGIN)
    tiff(tmp_path / "2020.tif", here, crs=UTM32, transform=from_origin(900_000, 5_000_000, 10, 10))
    with pytest.raises(DataError, match=r"2020.tif: shows no ground that .*2019.tif shows"):
        grid_tiles(tmp_path, ["2019", "2020"], 16, reading=ALIGN)
    tiff(tmp_path / "2020.tif", here[:80], transform=ORIGIN)
    with pytest.raises(DataError, match=r"2020.tif: has no CRS and transform, so --align cannot place it"):
        grid_tiles(tmp_path, ["2019", "2020"], 16, reading=ALIGN)


def test_shifted_dates_run_in_one_command_and_the_model_aligns_what_it_is_given(tmp_path, tiff):
    rng = np.random.default_rng(0)
    folder, years = tmp_path / "naip", ["20190710", "20200615", "20210801", "20220704"]
    for i, label in enumerate(years):
        pixels = rng.integers(1, 255, (SIDE, SIDE, 4), np.uint8)
        pixels[: 20 * (i + 1)] = [100, 100, 200 - 40 * i, 60]
        transform = from_origin(700_000 + 3 * i, 5_000_000 - 2 * i, 10, 10)
        tiff(folder / f"{label}.tif", pixels, crs=UTM32, transform=transform, photometric="minisblack")
    args = TileTrainingArguments(
        output_dir=str(tmp_path / "out"),
        cache_dir=str(tmp_path / "cache"),
        cache_workers=1,
        num_train_epochs=1,
        use_cpu=True,
        disable_tqdm=True,
    )
    options = TileArguments(
        data=str(folder),
        target_from="ndvi_fall",
        nir=3,
        red=4,
        tile_size=8,
        align=True,
        bands=[4, 3],
        hidden_sizes=[4],
        dates=True,
        target_years=1,
    )
    train_tiles.run(options, args)
    model = TileSequenceModel.from_pretrained(tmp_path / "out")
    assert model.config.bands == 2
    assert Reading.from_config(model.config.reading) == Reading(bands=(4, 3), align="bilinear")
    frames = [folder / f"{label}.tif" for label in years[:3]]
    answer = model.predict([{"frames": frames, "date": "2022-07-04", "last_values": 0.1}])[0]
    assert np.isfinite(answer.values["ndvi_fall"])
    known = tmp_path / "known.tif"
    grid = {"crs": UTM32, "transform": ORIGIN @ Affine.scale(8)}
    tiff(known, np.full((12, 12, 1), 0.1, np.float32), **grid)
    out = predict_scene(model, frames, tmp_path / "scene.tif", 8, known, date="2022-07-04")
    with rasterio.open(out) as raster:
        assert raster.read(1).shape == (12, 12)
        assert np.isfinite(raster.read(1)).all()


def test_dates_of_other_origins_resolutions_and_systems_are_data_of_one_run(tmp_path, tiff):
    """Names, grids and gaps are of the kind of NAIP's ten dates of one quarter quad."""
    folder, scene = tmp_path / "quad", smooth(4)
    coarse = scene.reshape(SIDE // 2, 2, SIDE // 2, 2, 4).mean((1, 3)).round().astype(np.uint8)
    warped, there = elsewhere(scene, "EPSG:32633", Resampling.bilinear)
    frames = {
        "20090818": (scene, UTM32, ORIGIN),
        "20100629": (scene[3:, 2:], UTM32, ORIGIN @ Affine.translation(2, 3)),
        "20120731": (coarse, UTM32, ORIGIN @ Affine.scale(2)),
        "20140720": (warped, "EPSG:32633", there),
    }
    for date, (pixels, crs, transform) in frames.items():
        path = folder / f"m_4709963_se_14_1_{date}.tif"
        where = {"crs": crs, "transform": transform, "nodata": 0, "photometric": "minisblack"}
        tiff(path, np.maximum(pixels, 1), **where)
    options = TileArguments(
        data=str(folder), align=True, target_type="last-image", tile_size=16, max_nodata=0.05
    )
    args = TileTrainingArguments(
        output_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"), cache_workers=1
    )
    found = load(options, args).train
    assert found.table.steps.unit == "dates"
    np.testing.assert_allclose(np.diff(found.table.steps.times), [0.8624, 2.0892, 1.9683], atol=1e-3)
    tile, holes = found.cache.tile(14), found.cache.tile_mask(14, np.arange(4))
    assert not holes.any()
    y, x = 2 * 16, 2 * 16
    apart = np.abs(tile.astype(int) - scene[y : y + 16, x : x + 16])
    assert apart[1].max() == 0
    assert apart.max() <= 2
    assert found.cache.holes[0, 1] > 0.2  # what the second date does not show
    with pytest.raises(
        DataError, match=r"20100629.tif: its width is 94, but .*20090818.tif has 96; .*--align"
    ):
        load(TileArguments(data=str(folder), target_type="last-image"), args)


@pytest.mark.parametrize(
    ("band", "reading"),
    [
        (1, {"cloud_band": 4}),
        (9, {"cloud_band": 4, "cloud_values": (9, 10)}),
        (0b11000, {"cloud_band": 4, "qa_bits": (3, 5)}),
    ],
)
def test_a_cloud_band_all_over_equals_a_missing_frame(world, tiff, tmp_path, band, reading):
    for (label, region), pixels in world.pixels.items():
        clouds = np.zeros((*pixels.shape[:2], 1), np.uint8)
        if label == "2020":
            clouds[:] = band
        elif label == "2019":
            clouds[3, 4] = band
            clouds[5, 5] = 0b100 if "qa_bits" in reading else 0
        tiff(
            world.path(label, region),
            np.concatenate([pixels, clouds], -1),
            photometric="minisblack",
            **world.geo,
        )
    table = load_tiles(world.csv, world.images, world.labels, reading=Reading(**reading))
    cache = build_cache(table, tmp_path / "one", 1)
    assert cache.array.shape[-1] == 3
    assert (cache.holes[:, 1] == 1).all()
    assert cache.masks([0, 4], np.array([[0], [0]])).sum() == 2
    assert (cache.tile(0)[0] == world.crop(0, "2019")).all()
    for region in ("7", "8"):
        world.path("2020", region).unlink()
    without = build_cache(
        load_tiles(world.csv, world.images, world.labels, reading=Reading(**reading)), tmp_path / "two", 1
    )
    assert (cache.holes == without.holes).all()


@pytest.mark.parametrize(("header", "said"), [(0, None), (None, 0.0)])
def test_fill_of_landsat_is_not_measured_whatever_its_quality_band_says(tmp_path, tiff, header, said):
    """QA_PIXEL is 1 where the other bands are 0, which then are not 0 in all bands of the file."""
    pixels = np.full((4, 4, 3), 9000, np.uint16)
    pixels[..., 2] = 21824  # clear
    pixels[0, 0], pixels[0, 1], pixels[0, 2] = (0, 0, 1), (0, 9000, 21824), (9000, 9000, 21824 | 1 << 3)
    path = tiff(tmp_path / "a.tif", pixels, nodata=header)
    reading = Reading(cloud_band=3, qa_bits=(3, 4))
    frame, holes, _ = read_frame(path, said, reading)
    assert frame.shape == (4, 4, 2)
    assert np.argwhere(holes).tolist() == [[0, 0], [0, 2]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cloud_band": 4}, "7.tif: has 3 bands, numbered from 1, and --cloud_band is 4"),
        ({"bands": [3, 5]}, "7.tif: has 3 bands, numbered from 1, and --bands is 5"),
        ({"dequantize": "aef"}, "7.tif: --dequantize aef takes int8 embeddings, its pixels are uint8"),
        ({"dequantize": "tessera"}, "dequantize must be"),
        ({"qa_bits": [3]}, "--cloud_values and --qa_bits need --cloud_band"),
        ({"cloud_band": 3, "qa_bits": [3], "cloud_values": [1]}, "take one of them"),
    ],
)
def test_what_cannot_be_read_so(world, tmp_path, fields, message):
    options = TileArguments(data=str(world.csv), **fields)
    args = TileTrainingArguments(output_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(DataError, match=message):
        load(options, args)
    assert not (tmp_path / "cache").exists()  # nothing was cut


def test_embeddings_are_dequantized_and_come_back_within_one_in_127(world, tiff, tmp_path):
    values = np.linspace(-0.99, 0.99, 1001)
    stored = (np.sign(values) * np.sqrt(np.abs(values)) * 127.5).round().clip(-127, 127).astype(np.int8)
    assert np.abs(dequantized(stored) - values).max() <= 1 / 127
    rng = np.random.default_rng(0)
    for (label, region), pixels in world.pixels.items():
        stored = rng.integers(-127, 128, pixels.shape).astype(np.int8)
        stored[0, 0, 1] = -128
        tiff(world.path(label, region), stored, **world.geo)
        world.pixels[label, region] = stored
    table = load_tiles(world.csv, world.images, world.labels, reading=Reading(dequantize="aef"))
    cache = build_cache(table, tmp_path / "cache", 1)
    assert cache.array.dtype == np.float32
    x = world.crop(1, "2019").astype(np.float64)
    np.testing.assert_allclose(cache.tile(1)[0], np.sign(x) * (x / 127.5) ** 2, atol=1e-6)
    assert cache.tile_mask(0, np.array([0]))[0].sum() == 1


def class_maps(folder, tiff, numbers=(10, 50, 90)):
    """Four years of a map of three classes, whose first row of pixels was not measured."""
    rng = np.random.default_rng(0)
    maps = rng.choice(numbers, (4, 48, 64, 1)).astype(np.uint8)
    maps[:, 0] = 255
    for year, pixels in zip(range(2018, 2022), maps, strict=True):
        tiff(folder / f"{year}.tif", pixels, nodata=255, crs=UTM32, transform=ORIGIN)
    return maps


def of_classes(folder, **changes):
    fields = {
        "data": str(folder), "class_values": [10, 50, 90], "target_from": "color_share", "color": [50],
        "tile_size": 8, "target_years": 1, "hidden_sizes": [4], "image_size": [8, 8],
    }  # fmt: skip
    return TileArguments(**fields | changes)


def test_class_maps_become_a_band_a_class_in_training_and_in_predict(tmp_path, tiff):
    maps = class_maps(tmp_path / "maps", tiff)
    args = TileTrainingArguments(
        output_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"), cache_workers=1
    )
    options = of_classes(tmp_path / "maps")
    data = load(options, args)
    model = make_model(options, data)
    torch.nn.init.normal_(model.head[-1].weight)
    model.save_pretrained(tmp_path / "out")
    cache, table = data.train.cache, data.train.table
    expected = np.stack([(maps[..., 0] == number) for number in (10, 50, 90)], -1)
    for row, (x0, y0, x1, y1) in enumerate(table.boxes.tolist()):
        np.testing.assert_array_equal(cache.tile(row), expected[:, y0:y1, x0:x1])
        share = expected[3, y0:y1, x0:x1, 1][y0 == 0 :].mean()
        assert table.values[row, 3, 0] == pytest.approx(share)
    assert model.config.bands == 3
    row = int(np.flatnonzero(table.boxes[:, 1])[0])
    x0, y0, x1, y1 = table.boxes[row]
    model = TileSequenceModel.from_pretrained(tmp_path / "out")
    files = [tiff(tmp_path / f"{i}.tif", maps[i, y0:y1, x0:x1], nodata=255) for i in range(3)]
    samples = [files, list(maps[:3, y0:y1, x0:x1]), list(expected[:3, y0:y1, x0:x1].astype(np.uint8))]
    answers = model.predict([{"frames": frames, "last_values": 0.3} for frames in samples])
    told = [answer.values["color_share"] for answer in answers]
    assert told == pytest.approx([told[0]] * 3, rel=1e-6)  # rows of a batch may round otherwise


def test_classes_of_resized_tiles_keep_their_shares(tmp_path, tiff):
    maps = class_maps(tmp_path / "maps", tiff)
    args = TileTrainingArguments(
        output_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"), cache_workers=1
    )
    data = load(of_classes(tmp_path / "maps", image_size=[2, 2], patch_size=1), args)
    config = make_model(of_classes(tmp_path / "maps", image_size=[2, 2], patch_size=1), data).config
    rows = data.train.bound_to(config)
    row = int(np.flatnonzero(data.train.table.boxes[data.train.windows.rows, 1])[0])
    x0, y0, x1, y1 = data.train.table.boxes[data.train.windows.rows[row]]
    expected = np.stack([(maps[:3, y0:y1, x0:x1, 0] == number).mean((1, 2)) for number in (10, 50, 90)], 1)
    processor = TileSequenceProcessor(**settings_of(config))
    for seen in (
        rows[row]["pixel_values"],
        processor([list(maps[:3, y0:y1, x0:x1])])["pixel_values"][0],
    ):
        shares = seen * torch.tensor(config.band_std)[:, None, None]
        shares = shares + torch.tensor(config.band_mean)[:, None, None]
        torch.testing.assert_close(shares.sum(1), torch.ones(3, 2, 2), atol=1e-5, rtol=0)
        np.testing.assert_allclose(shares.mean((2, 3)), expected, atol=0.06)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"class_values": [10, 50]},
            r"holds the numbers 90, which are none of --class_values 10 50; name them",
        ),
        ({"class_values": [10]}, "two classes or more"),
        ({"color": [11]}, "--color names the class whose share"),
        ({"target_from": "ndvi_fall"}, "--class_values make inputs of class maps"),
    ],
)
def test_classes_that_are_not_named_are_refused(tmp_path, tiff, changes, message):
    class_maps(tmp_path / "maps", tiff)
    args = TileTrainingArguments(
        output_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "c"), cache_workers=1
    )
    with pytest.raises(DataError, match=message):
        load(of_classes(tmp_path / "maps", **changes), args)


def test_a_class_map_has_one_band(world):
    with pytest.raises(
        DataError, match=r"--class_values are of one band of whole numbers, and it has 3 of uint8"
    ):
        load_tiles(world.csv, world.images, world.labels, reading=Reading(class_values=(1, 2)))
