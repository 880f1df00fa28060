"""Whether rasters lie on one grid and are of one kind, wherever several are read together."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import torch
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin

from geohf import DataError, TileSequenceConfig, TileSequenceModel
from geohf.data.tables import RowErrors
from geohf.tiles.grid import pixel_kind, require_same_grid
from geohf.tiles.images import fit_together
from geohf.tiles.masks import read_frame
from geohf.tiles.rasters import inspect_raster
from geohf.tiles.scene import predict_scene
from geohf.tiles.streaming import stream_tiles
from geohf.tiles.table import grid_tiles, load_tiles

PIXELS = np.random.default_rng(0).integers(1, 255, (64, 64, 3), np.uint8)
HERE = {"crs": "EPSG:32632", "transform": from_origin(500_000, 5_000_000, 10, 10)}


def shifted(x=0.0, y=0.0, pixel=10.0, crs="EPSG:32632"):
    return {"crs": crs, "transform": from_origin(500_000 + x, 5_000_000 + y, pixel, pixel)}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = TileSequenceModel(TileSequenceConfig(hidden_sizes=[8], image_size=[16, 16], answers="level"))
    torch.nn.init.normal_(model.head[-1].weight)
    return model.eval()


ELSEWHERE = {
    "12 m": (shifted(pixel=12), "6.4 pixels|12.8 pixels"),
    "14.9 m": (shifted(pixel=14.9), "a corner is .* pixels away"),
    "5.1 m": (shifted(pixel=5.1), "a corner is .* pixels away"),
    "the next zone": (shifted(crs="EPSG:32633"), "its CRS is EPSG:32633, but .* has EPSG:32632"),
    "the other hemisphere": (shifted(crs="EPSG:32732"), "its CRS is EPSG:32732, but .* has EPSG:32632"),
    "no CRS, far": ({"transform": shifted(100_000)["transform"]}, "b.tif: has no CRS, but .*a.tif has one"),
    "no CRS, here": ({"transform": HERE["transform"]}, "b.tif: has no CRS, but .*a.tif has one"),
    "no georeference": ({}, "b.tif: has no CRS, but .*a.tif has one"),
    "six tenths of a pixel": (shifted(6), r"a corner is 0\.6 pixels away"),
    "turned": (
        {"crs": "EPSG:32632", "transform": HERE["transform"] @ rasterio.Affine.rotation(2)},
        "a corner is .* pixels away",
    ),
    "south up": (
        {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 500_000, 0, 10, 4_999_360)},
        "a corner is 64 pixels away",
    ),
}


@pytest.mark.case("files-A1", "files-A3", "six-1", "files-D13")
@pytest.mark.parametrize("name", ELSEWHERE)
def test_rasters_of_another_place_are_refused_wherever_they_are_read(tmp_path, tiff, model, name):
    where, message = ELSEWHERE[name]
    a = tiff(tmp_path / "a.tif", PIXELS, **HERE)
    b = tiff(tmp_path / "b.tif", PIXELS, **where)
    before = b.read_bytes()
    for read in (
        lambda: fit_together([a, None, b]),
        lambda: grid_tiles(tmp_path, ["a", "b"], 16),
        lambda: predict_scene(model, [a, b], tmp_path / "out.tif", 16),
        lambda: model.predict([{"frames": [a, b]}]),
        lambda: model.predict([{"frames": [PIXELS, str(a), None, str(b)]}]),
    ):
        with pytest.raises(DataError, match=message):
            read()
    assert not (tmp_path / "out.tif").exists()
    assert b.read_bytes() == before


@pytest.mark.case("files-A1")
def test_one_meter_then_sixty_centimeters_as_naip_changed(tmp_path, tiff):
    a = tiff(tmp_path / "a.tif", PIXELS, **shifted(pixel=1.0))
    b = tiff(tmp_path / "b.tif", PIXELS, **shifted(pixel=0.6))
    with pytest.raises(DataError, match=r"a corner is 25\.6 pixels away"):
        fit_together([a, b])


@pytest.mark.case("files-A1")
def test_the_first_without_a_crs_does_not_switch_the_check_off(tmp_path, tiff):
    files = [
        tiff(tmp_path / "a.tif", PIXELS),
        tiff(tmp_path / "b.tif", PIXELS, **HERE),
        tiff(tmp_path / "c.tif", PIXELS, **shifted(100_000)),
    ]
    with pytest.raises(DataError, match=r"a.tif: has no CRS, but .*b.tif has one"):
        fit_together(files)
    # of world files alone the transforms are compared
    alone = [tiff(tmp_path / f"{x}.tif", PIXELS, transform=shifted(x)["transform"]) for x in (0, 4, 100_000)]
    assert fit_together(alone[:2]).raster.crs is None
    with pytest.raises(DataError, match="lies elsewhere than"):
        fit_together(alone)


@pytest.mark.case("files-A1")
def test_the_same_grid_in_other_words_is_taken(tmp_path, tiff):
    wkt = rasterio.CRS.from_epsg(32632).to_wkt(version="WKT1_ESRI")
    files = [
        tiff(tmp_path / "a.tif", PIXELS, **HERE),
        tiff(tmp_path / "b.tif", PIXELS, **shifted(4.9, -4.9)),
        tiff(tmp_path / "c.tif", PIXELS, **shifted(crs=wkt)),
        tiff(tmp_path / "d.tif", PIXELS, **shifted(crs="+proj=utm +zone=32 +datum=WGS84 +units=m")),
        tiff(tmp_path / "e.tif", PIXELS, **shifted(pixel=10.0001)),
    ]
    assert fit_together(files).raster.bands == 3
    degrees = [
        {"crs": crs, "transform": from_origin(9, 45, 1e-4, 1e-4)} for crs in ("EPSG:4326", "OGC:CRS84")
    ]
    files = [tiff(tmp_path / f"{i}.tif", PIXELS, **where) for i, where in enumerate(degrees)]
    assert fit_together(files).raster.bands == 3


@pytest.mark.case("files-A3")
def test_last_values_of_another_place_are_refused(tmp_path, tiff, model):
    scene = tiff(tmp_path / "a.tif", PIXELS, **HERE)
    values = np.ones((4, 4, 1), np.float32)

    def known(**where):
        return tiff(tmp_path / "known.tif", values, **where)

    predict_scene(model, [scene], tmp_path / "out.tif", 16, last_values=known(**shifted(pixel=160)))
    for where, message in (
        (shifted(1_000_000, pixel=160), "known.tif: lies elsewhere than the grid of tiles in .*a.tif"),
        (shifted(pixel=160, crs="EPSG:32733"), "its CRS is EPSG:32733"),
        (shifted(pixel=30), "lies elsewhere"),
        ({}, "known.tif: has no CRS"),
    ):
        with pytest.raises(DataError, match=message):
            predict_scene(model, [scene], tmp_path / "out.tif", 16, last_values=known(**where))
    two = tiff(tmp_path / "known.tif", np.ones((4, 4, 2), np.float32), **shifted(pixel=160))
    with pytest.raises(DataError, match="has 2 bands, the model has 1 targets"):
        predict_scene(model, [scene], tmp_path / "out.tif", 16, last_values=two)


@pytest.mark.case("files-C9")
def test_sizes_that_differ_come_with_the_same_advice(tmp_path, tiff, model):
    a = tiff(tmp_path / "2018.tif", PIXELS, **HERE)
    b = tiff(tmp_path / "2020.tif", PIXELS[:-1], **HERE)
    for read in (
        lambda: fit_together([a, b]),
        lambda: grid_tiles(tmp_path, ["2018", "2020"], 16),
        lambda: predict_scene(model, [a, b], tmp_path / "out.tif", 16),
        lambda: model.predict([[a, b]]),
    ):
        with pytest.raises(DataError, match=r"its height is 63, but .* has 64; warp them to one grid"):
            read()


# ---- what pixels mean


def describe(path, **facts):
    with rasterio.open(path, "r+") as file:
        for name, value in facts.items():
            setattr(file, name, value)
    return path


OTHER_KINDS = {
    "offset": ({"offsets": (0.0,) * 3}, {"offsets": (-0.1,) * 3}, "its offset by band is .*-0.1"),
    "scale": ({"scales": (1.0,) * 3}, {"scales": (1e-4,) * 3}, "its scale by band is .*0.0001"),
    "order": (
        {"descriptions": ("B04", "B03", "B02")},
        {"descriptions": ("B02", "B03", "B04")},
        "its band 1 is B02, but .* has B04",
    ),
    "unit": ({"units": ("m",) * 3}, {"units": ("ft",) * 3}, "its band 1's unit is ft, but .* has m"),
    "colors": (
        {"colorinterp": (ColorInterp.red, ColorInterp.green, ColorInterp.blue)},
        {"colorinterp": (ColorInterp.blue, ColorInterp.green, ColorInterp.red)},
        "its band 1's color is blue, but .* has red",
    ),
}


@pytest.mark.case("files-A10")
@pytest.mark.parametrize("name", OTHER_KINDS)
def test_headers_that_mean_other_pixels_are_refused(world, tmp_path, tiff, model, name):
    one, two, message = OTHER_KINDS[name]
    a = describe(tiff(tmp_path / "a.tif", PIXELS, **HERE), **one)
    b = describe(tiff(tmp_path / "b.tif", PIXELS, **HERE), **two)
    for read in (
        lambda: fit_together([a, b]),
        lambda: predict_scene(model, [a, b], tmp_path / "out.tif", 16),
        lambda: model.predict([[a, b]]),
    ):
        with pytest.raises(DataError, match=message):
            read()
    for region, facts in (("7", one), ("8", two)):  # one model reads all regions
        for label in world.labels:
            describe(world.path(label, region), **facts)
    with pytest.raises(DataError, match=message):
        load_tiles(world.csv, world.images, world.labels)
    # and a model remembers what it was trained on
    model.config.pixel_kind = pixel_kind(inspect_raster(a))
    assert len(model.predict([[a, a]])) == 1
    for read in (
        lambda: model.predict([[b]]),
        lambda: predict_scene(model, [b], tmp_path / "out.tif", 16),
    ):
        with pytest.raises(DataError, match=message.replace("but .* has", "but the images .* have")):
            read()


@pytest.mark.case("files-A10")
def test_names_with_dates_and_files_without_names_are_one_kind(tmp_path, tiff):
    files = [tiff(tmp_path / f"{i}.tif", PIXELS, **HERE) for i in range(3)]
    describe(files[0], descriptions=("B04_20190701", "B03_20190701", "B02_20190701"))
    describe(files[1], descriptions=("B04_20200703", "B03_20200703", "B02_20200703"))
    assert fit_together(files).raster.names[0] == "B04_20190701"


@pytest.mark.case("files-A10")
def test_a_saved_model_refuses_other_kinds_in_tables_and_streams(world, tmp_path, model, monkeypatch):
    monkeypatch.setenv("GEOHF_CACHE", str(tmp_path / "cache"))
    model.config.pixel_kind = pixel_kind(inspect_raster(world.path("2019", "7")))
    model.save_pretrained(tmp_path / "model")
    model = TileSequenceModel.from_pretrained(tmp_path / "model")
    model.predict_to_file(world.csv, tmp_path / "a.csv", 4)
    for label in world.labels:
        for region in ("7", "8"):
            describe(world.path(label, region), offsets=(-1000.0,) * 3)
    table = load_tiles(world.csv, world.images, world.labels)
    for read in (
        lambda: model.predict_to_file(world.csv, tmp_path / "b.csv", 4),
        lambda: model.evaluate(world.csv),
        lambda: stream_tiles(table, model.config),
    ):
        with pytest.raises(
            DataError, match=r"offset by band is .*-1000.*, but the images that the model was trained"
        ):
            read()


# ---- classes


def classes(path, table, numbers=(10, 12), side=20, **where):
    pixels = np.random.default_rng(2).choice(np.array(numbers, np.uint8), (1, side, side))
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "height": side, "width": side}
    with rasterio.open(path, "w", **profile, **where) as file:
        file.write(pixels)
        if table:
            file.write_colormap(1, table)
    return path


@pytest.mark.case("files-A21")
def test_color_tables_are_compared_where_pixels_have_the_number(tmp_path):
    table = {10: (0, 100, 0, 255), 12: (0, 0, 200, 255), 99: (1, 2, 3, 255)}
    a = classes(tmp_path / "a.tif", table)
    same = classes(tmp_path / "same.tif", table | {99: (200, 200, 200, 255)})
    other = classes(tmp_path / "other.tif", table | {12: (200, 0, 0, 255)})
    assert fit_together([a, same]).raster.palette is not None
    with pytest.raises(DataError, match=r"other.tif: in its color table 12 is \[200, 0, 0, 255\]"):
        fit_together([a, other])
    with pytest.raises(DataError, match=r"none.tif: its header is no color table, but .* a color table"):
        fit_together([a, classes(tmp_path / "none.tif", None)])


def test_a_raster_fits_itself(tmp_path, tiff):
    path = tiff(tmp_path / "a.tif", PIXELS, **HERE)
    _, raster = read_frame(path)[2]
    require_same_grid(path, raster, path, raster)
    assert raster.located
    assert raster.names == (None, None, None)


@pytest.mark.case("files-B1", "files-A1")
def test_local_systems_are_compared_by_what_they_are(tmp_path, tiff):
    local = 'LOCAL_CS["{}",LOCAL_DATUM["Local Datum",0],UNIT["metre",1]]'
    files = [
        tiff(tmp_path / f"{i}.tif", PIXELS, **shifted(crs=crs))
        for i, crs in enumerate((local.format("Lambert-93"), local.format("Lambert-93"), "EPSG:2154"))
    ]
    assert fit_together(files[:2]).raster.bands == 3
    with pytest.raises(DataError, match=r"2.tif: its CRS is EPSG:2154, but .*0.tif has Lambert-93"):
        fit_together(files)


@pytest.mark.case("files-A1")
def test_regions_that_do_not_fit_can_be_skipped(world, tiff):
    tiff(world.path("2020", "7"), world.pixels["2020", "7"], **(world.geo | {"crs": "EPSG:32633"}))
    errors = RowErrors("skip")
    assert load_tiles(world.csv, world.images, world.labels, errors=errors).regions == ["8"]
    assert len(errors.rows) == 4
    assert "region '7': " in errors.rows[0]["reason"]
    assert "its CRS is EPSG:32633" in errors.rows[0]["reason"]
    with pytest.raises(DataError, match="its CRS is EPSG:32633"):
        load_tiles(world.csv, world.images, world.labels)


@pytest.mark.case("files-A1")
def test_images_that_were_not_warped_yet_are_compared_by_their_control_points(tmp_path, tiff):
    from rasterio.control import GroundControlPoint

    files = []
    for i, east in enumerate((500_000, 500_000, 600_000)):
        points = [
            GroundControlPoint(row, col, east + 10 * col, 5_000_000 - 10 * row)
            for row, col in ((0, 0), (0, 64), (64, 0))
        ]
        files.append(tmp_path / f"{i}.tif")
        profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "height": 64, "width": 64}
        with rasterio.open(files[-1], "w", gcps=points, crs="EPSG:32632", **profile) as file:
            file.write(PIXELS.transpose(2, 0, 1))
    assert fit_together(files[:2]).raster.gcps
    with pytest.raises(DataError, match=r"2.tif: its ground control points are not those of .*0.tif; warp"):
        fit_together(files)
