"""What was not measured, by the file's own word, in training and prediction alike."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin

from geohf import DataError, TileSequenceConfig, TileSequenceModel
from geohf.tiles import SequenceDataLoader
from geohf.tiles.cutting import build_cache
from geohf.tiles.dataset import TileSequences
from geohf.tiles.masks import nodata_pixels, read_frame
from geohf.tiles.rasters import open_raster
from geohf.tiles.scales import band_statistics
from geohf.tiles.scene import predict_scene
from geohf.tiles.streaming import stream_tiles
from geohf.tiles.table import grid_tiles
from geohf.tiles.targets import ndvi_fall
from geohf.tiles.windows import make_windows

HERE = {"crs": "EPSG:32632", "transform": from_origin(500_000, 5_000_000, 10, 10)}


def mosaics(folder, tiff, frames, **profile):
    """Frames as t0.tif, t1.tif, ...; the table of their tiles of 16 pixels."""
    for i, frame in enumerate(frames):
        tiff(folder / f"t{i}.tif", frame, **(HERE | profile))
    return grid_tiles(folder, [f"t{i}" for i in range(len(frames))], 16)


def model_of(bands, **fields):
    torch.manual_seed(0)
    scales = {"band_mean": [100.0] * bands, "band_std": [50.0] * bands, "answers": "level"}
    model = TileSequenceModel(TileSequenceConfig(hidden_sizes=[8], image_size=[16, 16], **(scales | fields)))
    torch.nn.init.normal_(model.head[-1].weight)
    return model.eval()


@pytest.mark.case("files-A6")
@pytest.mark.parametrize(("dtype", "nodata"), [("float32", -9999), ("int16", -32768), ("uint16", 65535)])
def test_nodata_in_one_band_of_three_is_no_measurement(tmp_path, tiff, dtype, nodata):
    rng = np.random.default_rng(0)
    frames = rng.normal(2000, 300, (2, 32, 32, 3)).clip(1, 6000).astype(dtype)
    holes = rng.random((2, 32, 32)) < 0.05
    truth = frames[~holes].astype(np.float64)
    frames[..., 1][holes] = nodata
    table = mosaics(tmp_path, tiff, frames, nodata=nodata)
    cache = build_cache(table, tmp_path / "cache", 1)
    assert cache.holes.mean() == pytest.approx(holes.mean())
    table.targets, table.values = ["x"], np.ones((4, 2, 1))
    mean, std = band_statistics(cache, make_windows(table, cache, "estimate"))
    np.testing.assert_allclose(mean, truth.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, truth.std(0), rtol=1e-5)
    config = TileSequenceConfig(image_size=[8, 8], band_mean=[0.0] * 3, band_std=[1.0] * 3)
    windows = make_windows(table, cache, "estimate")
    batch = TileSequences(cache, windows, config).__getitems__([0])["pixel_values"]
    assert 1000 < batch.min() < batch.max() < 3500  # nothing is smeared over the neighbors
    rows = list(
        stream_tiles(table, TileSequenceConfig(**(config.to_dict() | {"task": "estimate", "frames": 2})))
    )
    assert torch.equal(rows[0]["pixel_values"], batch[0])
    ready = model_of(3).processor([[str(tmp_path / "t0.tif")]])["pixel_values"]
    assert ready.abs().max() < 150


@pytest.mark.case("files-A6")
def test_zero_and_white_in_one_band_stay_measurements():
    pixels = np.array([[0, 0, 0], [0, 7, 9], [255, 255, 255], [255, 3, 4]], np.uint8)[None]
    assert nodata_pixels(pixels, 0).tolist() == [[True, False, False, False]]
    assert nodata_pixels(pixels, 255).tolist() == [[False, False, True, False]]
    assert nodata_pixels(pixels, -9999).tolist() == [[False] * 4]
    assert nodata_pixels(pixels.astype(np.float32), 0).tolist() == [[True, False, False, False]]
    by_band = np.array([[[196, 40, 27], [196, 40, 28]]], np.uint8)  # PNG's transparent color
    assert nodata_pixels(by_band, (196.0, 40.0, 27.0)).tolist() == [[True, False]]
    holes = np.array([[[1.0, np.nan], [np.inf, 2.0], [1.0, 2.0]]])
    assert nodata_pixels(holes, None).tolist() == [[True, True, False]]


def with_alpha(path, pixels, alpha):
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 4, "height": 32, "width": 32, **HERE}
    with rasterio.open(path, "w", **profile) as file:
        file.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
        file.write(np.concatenate([pixels, alpha[..., None]], -1).transpose(2, 0, 1))


def with_internal_mask(path, pixels, alpha):
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "height": 32, "width": 32, **HERE}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **profile) as file:
        file.write(pixels.transpose(2, 0, 1))
        file.write_mask(alpha)


def with_mask_beside(path, pixels, alpha):
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "height": 32, "width": 32, **HERE}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "w", **profile) as file:
        file.write(pixels.transpose(2, 0, 1))
        file.write_mask(alpha)
    assert path.with_name(path.name + ".msk").exists()


@pytest.mark.case("files-A7")
@pytest.mark.parametrize("write", [with_alpha, with_internal_mask, with_mask_beside])
def test_alpha_bands_and_masks_are_asked(tmp_path, write):
    pixels = np.random.default_rng(0).integers(1, 255, (32, 32, 3), np.uint8)
    alpha = np.full((32, 32), 255, np.uint8)
    alpha[:16, :16] = 0  # the first tile
    alpha[24:, 24:] = 0  # a quarter of the last
    for label in ("a", "b"):
        write(tmp_path / f"{label}.tif", pixels, alpha)
    with rasterio.open(tmp_path / "a.tif") as file:
        gdal = file.dataset_mask() == 0
    assert np.array_equal(read_frame(tmp_path / "a.tif")[1], gdal)
    cache = build_cache(grid_tiles(tmp_path, ["a", "b"], 16), tmp_path / "cache", 1)
    assert cache.holes.tolist() == [[1, 1], [0, 0], [0, 0], [0.25, 0.25]]
    bands = cache.array.shape[-1]
    out = predict_scene(model_of(bands), [tmp_path / "a.tif"], tmp_path / "out.tif", 16)
    with rasterio.open(out) as file:
        assert np.isnan(file.read(1)).tolist() == [[True, False], [False, False]]
    with pytest.raises(DataError, match="no frame is left to see"):
        model_of(bands, max_nodata=0.2).predict([[str(tmp_path / "a.tif")]])


@pytest.mark.case("files-A7")
def test_a_mask_that_changed_is_another_key(tmp_path):
    pixels = np.full((32, 32, 3), 7, np.uint8)
    alpha = np.full((32, 32), 255, np.uint8)
    for label in ("a", "b"):
        with_mask_beside(tmp_path / f"{label}.tif", pixels, alpha)
    assert not build_cache(grid_tiles(tmp_path, ["a", "b"], 16), tmp_path / "cache", 1).holes.any()
    with rasterio.open(tmp_path / "b.tif.msk", "r+") as file:
        file.write(np.zeros((1, 32, 32), np.uint8))
    cache = build_cache(grid_tiles(tmp_path, ["a", "b"], 16), tmp_path / "cache", 1)
    assert cache.holes[:, 1].tolist() == [1] * 4


@pytest.mark.case("files-A7")
def test_arrays_and_pictures_bring_their_masks():
    rgba = np.full((4, 4, 4), 9, np.uint8)
    rgba[0, :, 3] = 0
    assert read_frame(Image.fromarray(rgba, "RGBA"))[1].mean() == 0.25
    assert read_frame(rgba)[1].mean() == 0
    masked = np.ma.MaskedArray(np.full((4, 4, 2), 5.0), np.zeros((4, 4, 2), bool))
    masked[0, 0, 1] = np.ma.masked
    assert read_frame(masked)[1].sum() == 1
    assert read_frame(np.ma.MaskedArray(np.zeros((2, 2), np.uint8)), nodata=0)[1].all()  # it has no mask


@pytest.mark.case("files-A9")
@pytest.mark.parametrize("given", [None, 0.0, 255.0])
def test_every_files_own_nodata_value_holds(tmp_path, tiff, given):
    pixels = np.full((16, 32, 3), 100, np.uint8)
    first, second = pixels.copy(), pixels.copy()
    first[:, :8], first[:, 8:16] = 0, 255  # 0 is nothing, 255 is white
    second[:, :4], second[:, 16:] = 255, 0  # here 255 is nothing, 0 is black
    tiff(tmp_path / "t0.tif", first, nodata=0, **HERE)
    tiff(tmp_path / "t1.tif", second, nodata=255, **HERE)
    table = grid_tiles(tmp_path, ["t0", "t1"], 16, nodata=given)
    cache = build_cache(table, tmp_path / "cache", 1)
    assert cache.holes.tolist() == [[0.5, 0.25], [0, 0]]
    tiff(tmp_path / "t2.tif", first, **HERE)  # says nothing
    if given is None:
        with pytest.raises(
            DataError, match=r"\(0, 255\), and .*t2.tif names none; say which it has with --nodata"
        ):
            grid_tiles(tmp_path, ["t0", "t1", "t2"], 16)
    else:
        table = grid_tiles(tmp_path, ["t0", "t1", "t2"], 16, nodata=given)
        assert build_cache(table, tmp_path / "cache", 1).holes[0, 2] == 0.5


@pytest.mark.case("files-A6")
def test_a_derived_target_leaves_out_what_was_not_measured(tmp_path, tiff):
    frames = np.full((2, 16, 16, 2), 1000, np.int16)
    frames[1, ..., 1] = 1100  # red rises: NDVI falls everywhere
    frames[1, :4, :, 1] = -32768
    table = mosaics(tmp_path, tiff, frames, nodata=-32768)
    cache = build_cache(table, tmp_path / "cache", 1)
    assert ndvi_fall(cache, nir=1, red=2)[0, 1] == 1.0
    assert cache.holes.tolist() == [[0, 0.25]]


@pytest.mark.case("files-A3", "files-A9")
@pytest.mark.parametrize("nodata", [None, 0.0, 255.0])
def test_scenes_and_predict_hear_the_header_alike(tmp_path, tiff, nodata):
    rng = np.random.default_rng(0)
    frame = rng.integers(1, 200, (32, 32, 3), np.uint8)
    frame[:16, :16] = 255
    frame[16:20, 16:] = 255
    paths = [tiff(tmp_path / f"{i}.tif", frame, nodata=255, **HERE) for i in range(3)]
    model = model_of(3, nodata=nodata)
    with rasterio.open(predict_scene(model, paths, tmp_path / "out.tif", 16)) as file:
        values = file.read(1)
    assert np.isnan(values[0, 0])
    for (row, column), name in (((0, 1), "b"), ((1, 1), "d")):
        crop = frame[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        path = tiff(tmp_path / f"{name}.tif", crop, nodata=255, **HERE)
        assert model.predict([[path] * 3])[0].values["target"] == pytest.approx(values[row, column], rel=1e-5)
    empty = tiff(tmp_path / "a.tif", frame[:16, :16], nodata=255, **HERE)
    with pytest.raises(DataError, match="no frame is left to see"):
        model.predict([[empty] * 3])


@pytest.mark.case("files-A3")
def test_last_values_that_are_not_known_give_no_answer(tmp_path, tiff):
    pixels = np.random.default_rng(0).integers(1, 200, (32, 32, 3), np.uint8)
    scene = tiff(tmp_path / "a.tif", pixels, **HERE)
    tiles = HERE | {"transform": HERE["transform"] @ rasterio.Affine.scale(16)}
    last = np.array([[[-9999], [5]], [[7], [9]]], np.int16)
    known = tiff(tmp_path / "known.tif", last, nodata=-9999, **tiles)
    model = model_of(3, answers="change")
    with rasterio.open(predict_scene(model, [scene], tmp_path / "out.tif", 16, last_values=known)) as file:
        values = file.read(1)
    assert np.isnan(values).tolist() == [[True, False], [False, False]]
    with rasterio.open(known, "r+") as file:
        file.scales, file.offsets = (0.5,), (1.0,)
    with rasterio.open(predict_scene(model, [scene], tmp_path / "out.tif", 16, last_values=known)) as file:
        scaled = file.read(1)
    assert scaled[0, 1] - values[0, 1] == pytest.approx(3.5 - 5, abs=1e-4)


# ---- types


@pytest.mark.case("files-C8", "six-3", "files-D12")
@pytest.mark.parametrize(
    ("dtype", "stored", "nodata"),
    [
        ("int8", "int8", -128),
        ("float64", "float32", -1.7976931348623157e308),
        ("int32", "float32", -2147483648),
        ("uint32", "float32", 4294967295),
        ("int64", "float32", -9999),
    ],
)
def test_types_of_earth_engine_r_and_embeddings_are_read(tmp_path, tiff, dtype, stored, nodata):
    frames = np.random.default_rng(0).integers(1, 127, (2, 16, 16, 3)).astype(dtype)
    expected = frames.astype(stored)
    frames[0, :4, :, 0] = nodata
    table = mosaics(tmp_path, tiff, frames, nodata=nodata)
    cache = build_cache(table, tmp_path / "cache", 1)
    assert cache.array.dtype == stored
    assert cache.holes.tolist() == [[0.25, 0]]
    frames = cache.tile(0)
    assert np.array_equal(frames[1], expected[1])
    assert np.array_equal(frames[0, 4:], expected[0, 4:])
    out = predict_scene(model_of(3), [tmp_path / "t0.tif"], tmp_path / "out.tif", 16)
    with rasterio.open(out) as file:
        assert np.isfinite(file.read(1)).all()


@pytest.mark.case("files-C8")
@pytest.mark.parametrize(("dtype", "value"), [("int32", 2**24 + 1), ("float64", 1e300)])
def test_what_float32_does_not_hold_is_named(tmp_path, tiff, dtype, value):
    frames = np.ones((2, 16, 16, 1), dtype)
    frames[1, 3, 3] = value
    table = mosaics(tmp_path, tiff, frames)
    with pytest.raises(DataError, match=r"t1.tif: holds .* float32 does not hold"):
        build_cache(table, tmp_path / "cache", 1)
    with pytest.raises(DataError, match=r"t1.tif: holds .* float32 does not hold"):
        model_of(1).predict([[tmp_path / "t1.tif"]])


@pytest.mark.case("files-A21")
def test_classes_are_never_mixed(tmp_path):
    numbers = np.random.default_rng(0).choice(np.array([10, 12], np.uint8), (20, 20))
    for label in ("a", "b"):
        profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "height": 20, "width": 20, **HERE}
        with rasterio.open(tmp_path / f"{label}.tif", "w", nodata=0, **profile) as file:
            file.write(np.where(np.arange(20) < 3, 0, numbers)[None])
            file.write_colormap(1, {10: (0, 100, 0, 255), 12: (0, 0, 200, 255)})
    table = grid_tiles(tmp_path, ["a", "b"], 20)
    cache = build_cache(table, tmp_path / "cache", 1)
    config = TileSequenceConfig(
        image_size=[16, 16], band_mean=[0.0], band_std=[1.0], resampling="nearest", head="image"
    )
    windows = make_windows(table, cache, image=True)
    batch = TileSequences(cache, windows, config)[0]
    assert set(batch["pixel_values"].unique().tolist()) == {10, 12}
    assert set(batch["labels"][batch["labels"].isfinite()].unique().tolist()) == {10, 12}
    model = model_of(1, resampling="nearest", band_mean=[0.0], band_std=[1.0])
    ready = model.processor([[tmp_path / "a.tif"]])["pixel_values"]
    assert set(ready.unique().tolist()) == {10, 12}
    model.save_pretrained(tmp_path / "model")
    again = TileSequenceModel.from_pretrained(tmp_path / "model").processor
    assert again.resampling == "nearest"


@pytest.mark.case("files-A16", "files-A21", "files-D12")
def test_the_transparent_color_of_a_gif_is_its_nodata(tmp_path):
    numbers = np.where(np.arange(32 * 32).reshape(32, 32) % 4 == 0, 100, 0).astype(np.uint8)
    picture = Image.fromarray(numbers, "P")
    picture.putpalette([i for i in range(256) for _ in range(3)])
    for label in ("a", "b"):
        picture.save(tmp_path / f"{label}.gif", transparency=0)
    table = grid_tiles(tmp_path, ["a", "b"], 16, ".gif")
    cache = build_cache(table, tmp_path / "cache", 1)
    assert table.rasters[0].palette is not None
    assert cache.holes.tolist() == [[0.75, 0.75]] * 4
    opened = Image.open(tmp_path / "a.gif")
    assert np.array_equal(read_frame(opened)[1], read_frame(tmp_path / "a.gif")[1])


@pytest.mark.case("files-A7")
def test_an_alpha_band_counts_beside_a_nodata_value(tmp_path):
    pixels = np.full((32, 32, 3), 9, np.uint8)
    pixels[:4] = 0
    alpha = np.full((32, 32), 255, np.uint8)
    alpha[:, :4] = 0
    with_alpha(tmp_path / "a.tif", pixels, alpha)
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.nodata = 0
    holes = read_frame(tmp_path / "a.tif")[1]
    assert np.array_equal(holes, (pixels == 0).all(-1) | (alpha == 0))


@pytest.mark.case("files-A21", "files-C8")
def test_the_seeds_loader_keeps_classes_and_reads_other_types(world, tiff):
    for key, pixels in world.pixels.items():
        tiff(world.path(*key), pixels[..., :1].astype(np.float64), **world.geo)
    X, _ = SequenceDataLoader(world.labels, world.csv, world.images, (8, 8), 4, n_channels=1)[0]
    assert X.dtype == torch.float32
    assert X.min() > -30  # float64 is not scaled; bicubic overshoots a little
    for label, region in world.pixels:
        numbers = np.where(world.pixels[label, region][..., :1] > 128, 12, 10).astype(np.uint8)
        path = tiff(world.path(label, region), numbers, **world.geo)
        with rasterio.open(path, "r+") as file:
            file.write_colormap(1, {10: (0, 100, 0, 255), 12: (0, 0, 200, 255)})
    loader = SequenceDataLoader(
        world.labels, world.csv, world.images, (8, 8), 4, n_channels=1, normalize=False
    )
    assert set(loader[0][0].unique().tolist()) == {10, 12}


@pytest.mark.case("use-S15")
def test_reading_leaves_the_process_as_it_was(tmp_path, tiff):
    path = tiff(
        tmp_path / "a.tif", np.ones((8, 8, 3), np.uint8)
    )  # without a georeference, of which rasterio warns
    before = list(warnings.filters), logging.getLogger("rasterio").level
    with open_raster(path):
        assert (list(warnings.filters), logging.getLogger("rasterio").level) == before
    read_frame(path)
    assert (list(warnings.filters), logging.getLogger("rasterio").level) == before
