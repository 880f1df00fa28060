"""What is written: never over an input, never half, with its place, and all the rest where GDAL refuses."""

from __future__ import annotations

import json
import logging
import os

import numpy as np
import pytest
import rasterio
import torch
import transformers
from rasterio.transform import from_origin

from geohf import DataError, TileSequenceConfig, TileSequenceModel
from geohf.recipes import train_tiles
from geohf.tiles.arguments import TileArguments, TileTrainingArguments
from geohf.tiles.data import load
from geohf.tiles.dataset import TileSequences
from geohf.tiles.outputs import write_mosaic, write_numbers
from geohf.tiles.scene import predict_scene
from geohf.tiles.table import grid_tiles
from geohf.tiles.windows import make_windows

PIXELS = np.random.default_rng(0).integers(1, 255, (4, 32, 48, 2), np.uint8)
HERE = {"crs": "EPSG:32632", "transform": from_origin(500_000, 5_000_000, 10, 10)}
LOCAL = 'LOCAL_CS["Local Coordinates (m)",LOCAL_DATUM["Local Datum",0],UNIT["metre",1]]'


@pytest.fixture
def model():
    torch.manual_seed(0)
    scales = {"band_mean": [128.0] * 2, "band_std": [64.0] * 2, "answers": "level"}
    return TileSequenceModel(TileSequenceConfig(hidden_sizes=[8], image_size=[16, 16], **scales)).eval()


def options(folder, **changes):
    return TileArguments(
        **{"data": str(folder), "target_from": "ndvi_fall", "nir": 1, "red": 2, "tile_size": 4} | changes
    )


def arguments(folder):
    return TileTrainingArguments(
        output_dir=str(folder / "out"), cache_dir=str(folder / "cache"), cache_workers=1, use_cpu=True,
        disable_tqdm=True, num_train_epochs=1,
    )  # fmt: skip


@pytest.mark.case("files-A17")
def test_a_scene_never_overwrites_an_input(tmp_path, tiff, model):
    frames = [tiff(tmp_path / f"{i}.tif", PIXELS[i], **HERE) for i in range(2)]
    tiles = HERE | {"transform": HERE["transform"] @ rasterio.Affine.scale(16)}
    known = tiff(tmp_path / "known.tif", np.ones((2, 3, 1), np.float32), **tiles)
    os.symlink(frames[1], tmp_path / "link.tif")
    os.link(frames[1], tmp_path / "hard.tif")
    before = {path: path.read_bytes() for path in [*frames, known]}
    for output in (
        *frames,
        known,
        tmp_path / "link.tif",
        tmp_path / "hard.tif",
        str(tmp_path / "a/../0.tif"),
    ):
        os.makedirs(tmp_path / "a", exist_ok=True)
        with pytest.raises(DataError, match=r"is an input, .* and would be overwritten"):
            predict_scene(model, frames, output, 16, last_values=known)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.case("files-A17")
def test_a_stopped_scene_leaves_the_earlier_one(tmp_path, tiff, model, monkeypatch):
    frames = [tiff(tmp_path / "a.tif", PIXELS[0], **HERE)]
    output = predict_scene(model, frames, tmp_path / "out.tif", 16)
    earlier, calls = output.read_bytes(), []
    predict = type(model).predict

    def stops(self, *given):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predict(self, *given)

    monkeypatch.setattr(type(model), "predict", stops)
    with pytest.raises(KeyboardInterrupt):
        predict_scene(model, frames, output, 16)
    assert output.read_bytes() == earlier
    # the finished rows wait for the next run
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "out.tif", "out.tif.parts"]


@pytest.mark.case("files-A17")
def test_a_mosaic_never_overwrites_an_input(tmp_path, tiff):
    for i in range(2):
        tiff(tmp_path / f"{i}.tif", PIXELS[i], **HERE)
    table = grid_tiles(tmp_path, ["0", "1"], 16)
    before = (tmp_path / "1.tif").read_bytes()
    with pytest.raises(DataError, match="is an input"):
        write_mosaic(tmp_path / "1.tif", table, 0, np.array([0]), np.array([[1.0]]), ["x"])
    assert (tmp_path / "1.tif").read_bytes() == before
    with pytest.raises(Exception, match="no"):
        write_mosaic(tmp_path / "m.tif", table, 0, np.array([0]), np.array([["no"]], object), ["x"])
    assert not (tmp_path / "m.tif").exists()


def test_mosaics_are_of_each_regions_newest_step_and_of_this_run(tiles, tmp_path):
    table, cache = tiles
    windows = make_windows(table, cache, target_years=2)
    older = (windows.steps == 1) & (table.region[windows.rows] == 1)
    for asked, there in ((older | (table.region[windows.rows] == 0), {"7": 2, "8": 1}), (older, {"8": 1})):
        part = windows.take(asked)
        answers = np.ones((len(part), 1)) * part.steps[:, None], None, None
        write_numbers(tmp_path, TileSequences(cache, part, table=table), "test", answers)
        mosaics = sorted((tmp_path / "mosaics").iterdir())
        assert [path.stem for path in mosaics] == list(there)
        for path in mosaics:
            with rasterio.open(path) as file:
                assert np.nanmax(file.read()) == np.nanmin(file.read()) == there[path.stem]


@pytest.mark.case("files-D13", "files-D15")
@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32632", rasterio.Affine(10, 0, 500_000, 0, 10, 4_999_680)),  # south up
        ("EPSG:32632", HERE["transform"] @ rasterio.Affine.rotation(30)),
        ("EPSG:3857", from_origin(900_000, 6_000_000, 10, 10)),
        ("EPSG:2263", from_origin(980_000, 200_000, 30, 30)),  # New York, in feet
        ("EPSG:4326", from_origin(190, 10, 0.001, 0.001)),  # longitudes of 0 to 360
    ],
)
def test_scenes_and_mosaics_keep_their_place(tmp_path, tiff, model, crs, transform):
    frames = [tiff(tmp_path / f"{i}.tif", PIXELS[i], crs=crs, transform=transform) for i in range(2)]
    scene = predict_scene(model, frames, tmp_path / "scene.tif", 16)
    table = grid_tiles(tmp_path, ["0", "1"], 16)
    rows = np.arange(len(table))
    write_mosaic(tmp_path / "m.tif", table, 0, rows, rows[:, None] * 1.0, ["x"])
    for path, scale in ((scene, 16), (tmp_path / "m.tif", 1)):
        with rasterio.open(path) as file:
            assert file.crs == rasterio.CRS.from_user_input(crs)
            for pixel in ((0, 0), (3, 2)):
                corner = transform @ (scale * pixel[0], scale * pixel[1])
                assert file.transform @ pixel == pytest.approx(corner, rel=1e-9)


@pytest.mark.case("files-A18")
def test_a_transform_without_a_crs_is_kept(tmp_path, tiff, model):
    frames = [tiff(tmp_path / f"{i}.tif", PIXELS[i], transform=HERE["transform"]) for i in range(2)]
    with rasterio.open(predict_scene(model, frames, tmp_path / "out.tif", 16)) as file:
        assert file.crs is None
        assert file.transform == HERE["transform"] @ rasterio.Affine.scale(16)
    table = grid_tiles(tmp_path, ["0", "1"], 16)
    write_mosaic(tmp_path / "m.tif", table, 0, np.array([0]), np.array([[1.0]]), ["x"])
    with rasterio.open(tmp_path / "m.tif") as file:
        assert file.transform == HERE["transform"]
    tiff(tmp_path / "plain.tif", PIXELS[0])
    with rasterio.open(predict_scene(model, [tmp_path / "plain.tif"], tmp_path / "out.tif", 16)) as file:
        assert file.transform.is_identity


@pytest.mark.case("files-B1")
@pytest.mark.parametrize("crs", [LOCAL, "+proj=ortho +lat_0=45 +lon_0=9"])
def test_a_crs_without_a_place_on_the_globe_costs_the_areas_only(tmp_path, tiff, crs, caplog):
    far = from_origin(9e6, 9e6, 10, 10)  # outside of the orthographic projection
    for i in range(4):
        tiff(tmp_path / "local" / f"{i}.tif", PIXELS[i], crs=crs, transform=far)
    with caplog.at_level(logging.WARNING):
        train_tiles.run(options(tmp_path / "local"), arguments(tmp_path))
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left >= {
        "model.safetensors",
        "README.md",
        "metrics.json",
        "predictions.csv",
        "mosaics",
        "filmstrip.png",
    }
    assert "predictions.geojson" not in left
    assert "has no areas of the region local" in caplog.text
    with rasterio.open(tmp_path / "out" / "mosaics" / "local.tif") as file:
        assert file.transform == far


@pytest.mark.case("files-A16")
@pytest.mark.parametrize("kind", ["derived", "table"])
def test_a_target_that_is_the_same_everywhere_is_an_error(tmp_path, tiff, world, kind):
    # as in a GIF of built-up land, whose header calls the color that is not built "transparent"
    urban = np.where(PIXELS[..., :1] > 240, 100, 0).astype(np.uint8)
    for i in range(4):
        tiff(tmp_path / "wb" / f"{i}.tif", urban[i], nodata=0)
    chosen = options(tmp_path / "wb", target_from="color_share", color=[100], max_nodata=1.0)
    message = (
        r"color_share is 1 in all \d+ training windows, so there is nothing to learn; 9\d\.\d% of the pixels"
    )
    if kind == "table":
        world.frame["target"] = 0.25
        world.save()
        chosen = TileArguments(data=str(world.csv), split="random", allow_leaks=True)
        message = (
            r"target is 0.25 in all \d+ training windows, so there is nothing to learn; 0.0% of the pixels"
        )
    with pytest.raises(DataError, match=message) as caught:
        load(chosen, arguments(tmp_path))
    assert ("nodata value 0 (gdal_edit.py -unsetnodata" in str(caught.value)) == (kind == "derived")


@pytest.mark.case("six-4")
@pytest.mark.parametrize("pretrained", [True, False])
def test_a_transformers_tower_reads_four_bands(tmp_path, tiff, pretrained):
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=32,
        patch_size=16,
    )
    transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    for i in range(4):
        tiff(tmp_path / "four" / f"{i}.tif", np.concatenate([PIXELS[i]] * 2, -1).astype(np.uint16), **HERE)
    chosen = options(
        tmp_path / "four", encoder="attention", backbone=str(tmp_path / "vit"), pretrained=pretrained,
        image_size=[32, 32],
    )  # fmt: skip
    train_tiles.run(chosen, arguments(tmp_path))
    model = TileSequenceModel.from_pretrained(tmp_path / "out")
    assert model.tower.config.num_channels == model.config.bands == 4
    sample = {"frames": [tmp_path / "four" / f"{i}.tif" for i in range(3)], "last_values": 0.5}
    assert np.isfinite(model.predict([sample])[0].values["ndvi_fall"])


@pytest.mark.case("files-A21")
def test_pixels_that_look_like_classes_get_a_word(tmp_path, tiff, caplog):
    numbers = np.where(PIXELS[..., :1] > 128, 10, 12).astype(np.uint8)
    for i in range(4):
        tiff(tmp_path / "classes" / f"{i}.tif", numbers[i], **HERE)
    chosen = {"target_from": "color_share", "color": [10]}
    with caplog.at_level(logging.WARNING):
        result = train_tiles.run(options(tmp_path / "classes", **chosen), arguments(tmp_path))
    assert "hold the 2 numbers 10, 12 alone; if these are classes, say --resampling nearest" in caplog.text
    assert result.model.config.resampling == "bicubic"
    caplog.clear()
    result = train_tiles.run(
        options(tmp_path / "classes", resampling="nearest", **chosen), arguments(tmp_path)
    )
    assert "classes" not in caplog.text.replace(str(tmp_path), "")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["resampling"] == "nearest"


@pytest.mark.case("files-A16")
def test_images_that_are_the_same_everywhere_are_an_error(tmp_path, tiff):
    for i in range(4):
        tiff(tmp_path / "flat" / f"{i}.tif", np.full((32, 48, 2), 7, np.uint8), **HERE)
    with pytest.raises(DataError, match=r"all training pixels are the same in every band \(7, 7\)"):
        train_tiles.run(
            options(tmp_path / "flat", target_from=None, target_type="last-image"), arguments(tmp_path)
        )


@pytest.mark.case("files-A7")
def test_near_infrared_that_gdal_takes_for_alpha_gets_a_word(tmp_path, tiff, caplog):
    for i in range(4):
        tiff(tmp_path / "naip" / f"{i}.tif", np.concatenate([PIXELS[i]] * 2, -1), **HERE)
    with caplog.at_level(logging.WARNING):
        load(options(tmp_path / "naip", nir=4, red=1), arguments(tmp_path))
    assert "band 4 is an alpha band by the images' headers" in caplog.text
