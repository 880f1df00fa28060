"""Zarr stores give the frames that rasters of the same pixels give, and what they lack is told."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.transform import from_origin

from geohf import DataError
from geohf.tiles.arguments import TileArguments, TileTrainingArguments
from geohf.tiles.cache import cache_key
from geohf.tiles.cutting import build_cache, cut_region
from geohf.tiles.data import load
from geohf.tiles.masks import read_window
from geohf.tiles.rasters import inspect_raster, open_raster
from geohf.tiles.stores import store_frames
from geohf.tiles.table import grid_tiles

xarray = pytest.importorskip("xarray", reason="zarr stores are read by xarray")
pytest.importorskip("zarr", reason="zarr stores need zarr")

DATES = ["2020-05-11", "2020-03-01", "2021-02-03"]  # as stored
WGS84 = CRS.from_epsg(32632).to_wkt()


def pixels():
    frames = np.random.default_rng(0).integers(1, 4000, (3, 2, 24, 32)).astype(np.uint16)
    frames[:, :, :3, :4] = 0
    return frames


def dataset(frames, up=True, crs=WGS84, **coordinates):
    """One variable of bands, and one variable a band, on the same grid."""
    y = 5_000_000 - 10 * (np.arange(24) + 0.5)
    axes = {"time": np.array(DATES, "datetime64[ns]"), "band": ["red", "nir"]}
    axes |= {"y": y if up else y[::-1], "x": 500_000 + 10 * (np.arange(32) + 0.5)} | coordinates
    frames = frames if up else frames[:, :, ::-1]
    facts = {"grid_mapping": "spatial_ref", "_FillValue": np.uint16(0), "scale_factor": 1e-4}
    found = xarray.Dataset(coords=axes | ({} if crs is None else {"spatial_ref": ((), 0, {"crs_wkt": crs})}))
    found["image"] = ("time", "band", "y", "x"), frames, facts
    for number, name in enumerate(("red", "nir")):
        found[name] = ("time", "y", "x"), frames[:, number], facts
    return found


def stored(found, path, version=3):
    # the pixels are stored as they are: what they mean stands in the attributes, as xarray writes it
    found.drop_vars([]).to_zarr(path, mode="w", zarr_format=version, consolidated=False)
    return path


@pytest.mark.parametrize(("version", "up"), [(2, True), (3, False)])
@pytest.mark.parametrize("asset", ["image", ["red", "nir"]])
def test_a_store_gives_what_rasters_give(tmp_path, tiff, asset, version, up):
    frames = pixels()
    where = {"crs": "EPSG:32632", "transform": from_origin(500_000, 5_000_000, 10, 10), "nodata": 0}
    for date, frame in zip(DATES, frames, strict=True):
        tiff(tmp_path / "place" / f"{date}.tif", frame.transpose(1, 2, 0), **where)
    path = stored(dataset(frames, up), tmp_path / "place.zarr", version)
    assert list(store_frames(path, asset)) == sorted(DATES)
    table = grid_tiles(path, sorted(DATES), 8, asset=asset)
    plain = grid_tiles(tmp_path / "place", sorted(DATES), 8)
    one, other = (build_cache(found, tmp_path / "cache", 1) for found in (table, plain))
    np.testing.assert_array_equal(one.array, other.array)
    np.testing.assert_array_equal(one.holes, other.holes)
    header = table.rasters[0]
    assert (header.crs, header.transform) == (plain.rasters[0].crs, plain.rasters[0].transform)
    assert header.names == ("red", "nir")
    assert header.scales == (1e-4, 1e-4)
    key = cache_key(table)
    stored(dataset(frames + np.uint16(1), up), path, version)
    assert cache_key(grid_tiles(path, sorted(DATES), 8, asset=asset)) != key


def test_a_store_is_data_of_a_run(tmp_path):
    path = stored(dataset(pixels()), tmp_path / "place.zarr")
    options = TileArguments(
        data=str(path), asset=["red", "nir"], target_from="ndvi_fall", nir=2, red=1, tile_size=4
    )
    args = TileTrainingArguments(output_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    found = load(options, args).train
    assert found.table.labels == sorted(DATES)
    assert found.table.steps.unit == "dates"


@pytest.mark.parametrize("up", [True, False])
def test_of_a_store_the_lines_of_a_strip_alone_are_read(tmp_path, monkeypatch, up):
    path = stored(dataset(pixels(), up), tmp_path / "place.zarr")
    frame = store_frames(path, "image")["2020-05-11"]
    with open_raster(replace(frame, lines=(8, 13))) as part, open_raster(frame) as whole:
        assert (part.height, part.width) == (5, 32)
        np.testing.assert_array_equal(part.read(), whole.read()[:, 8:13])
        assert part.transform == whole.transform @ Affine.translation(0, 8)
    table = grid_tiles(path, sorted(DATES)[:2], 8, asset="image")
    at_once = np.concatenate([block for _, block, _ in cut_region(table, 0)])
    monkeypatch.setattr("geohf.tiles.cutting.STRIP_BYTES", 1)
    np.testing.assert_array_equal(np.concatenate([block for _, block, _ in cut_region(table, 0)]), at_once)


def test_a_zipped_store_is_told(tmp_path):
    path = stored(dataset(pixels()), tmp_path / "place.zarr")
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, path.name)
    options = TileArguments(data=archive, target_from="ndvi_fall", nir=2, red=1)
    with pytest.raises(DataError, match=r"packed.zip: is a zipped zarr store; unzip it"):
        load(options, TileTrainingArguments(output_dir=str(tmp_path / "out")))


@pytest.mark.parametrize(
    ("changes", "asset", "message"),
    [
        (
            {},
            "blue",
            r"has no variable blue; has the variables image, nir, red of images; name those .* --asset",
        ),
        ({}, None, r"has the variables image, nir, red of images; name those"),
        ({}, ["image", "red"], r"image has the axes time, band, y, x; read are time, y and x"),
        ({"crs": None}, "red", r"red has no CRS; rioxarray writes it .* into spatial_ref"),
        ({"crs": "somewhere"}, "red", r"red has no CRS"),
        ({"x": np.arange(32.0) ** 2}, "red", r"the coordinates x are not evenly apart"),
        (
            {"time": np.array(["2020-01-01T00", "2020-01-01T12", "2021-01-01"], "datetime64[ns]")},
            "red",
            "two images are of 2020-01-01",
        ),
    ],
)
def test_what_a_store_lacks_is_told_and_no_cache_is_made(tmp_path, changes, asset, message):
    path = stored(dataset(pixels(), **changes), tmp_path / "place.zarr")
    options = TileArguments(data=str(path), asset=asset, target_from="ndvi_fall", nir=2, red=1)
    args = TileTrainingArguments(output_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(DataError, match=message):
        load(options, args)
    assert not (tmp_path / "cache").exists()


def test_axes_that_are_not_known_and_broken_stores_are_told(tmp_path):
    found = dataset(pixels()).rename(y="row")
    with pytest.raises(
        DataError, match=r"red has the axes time, row, x; .* must be called y or latitude or lat"
    ):
        store_frames(stored(found, tmp_path / "rows.zarr"), "red")
    (tmp_path / "broken.zarr").mkdir()
    (tmp_path / "broken.zarr" / "zarr.json").write_text("{}")
    with pytest.raises(DataError, match=r"broken.zarr: holds no variable with the axes"):
        store_frames(tmp_path / "broken.zarr")


def floats(kind="float32", **attributes):
    """Variables as xarray writes them by default: NaN is their value without data."""
    found = dataset(np.where(pixels() == 0, np.nan, pixels()).astype(kind))
    for name in ("image", "red", "nir"):
        found[name].attrs = {"grid_mapping": "spatial_ref"} | attributes
    return found


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("kind", ["float16", "float32"])
@pytest.mark.parametrize("asset", ["image", ["red", "nir"]])
def test_nan_is_one_value_without_data(tmp_path, version, kind, asset):
    path = stored(floats(kind), tmp_path / "place.zarr", version)
    with open_raster(store_frames(path, asset)["2020-05-11"]) as raster:
        found, holes = read_window(raster, (0, 0, 32, 24))
    np.testing.assert_array_equal(holes, (pixels()[0] == 0).any(0))
    np.testing.assert_array_equal(
        found[~holes], pixels()[0].astype(kind).astype(np.float32).transpose(1, 2, 0)[~holes]
    )


@pytest.mark.parametrize("value", [np.nan, -9999.0, 1e20])
def test_a_value_without_data_that_pixels_cannot_hold_is_none(tmp_path, value):
    found = dataset(pixels())
    found["red"].attrs = {"grid_mapping": "spatial_ref", "nodata": value}
    path = stored(found, tmp_path / "place.zarr", 3)
    assert inspect_raster(store_frames(path, "red")["2020-05-11"]).nodata == (None,)


@pytest.mark.parametrize("version", [2, 3])
def test_unsigned_numbers_that_are_stored_as_signed_ones_are_what_they_stand_for(tmp_path, version):
    numbers = np.arange(3 * 24 * 32).reshape(3, 24, 32).astype(np.uint8)
    found = dataset(pixels())[["red"]]
    facts = {"grid_mapping": "spatial_ref", "_FillValue": np.int8(-1), "_Unsigned": "true"}
    found["red"] = ("time", "y", "x"), numbers.view(np.int8), facts
    path = stored(found, tmp_path / "place.zarr", version)
    with open_raster(store_frames(path)["2020-05-11"]) as raster:
        frame, holes = read_window(raster, (0, 0, 32, 24))
    np.testing.assert_array_equal(frame[..., 0], numbers[0])
    np.testing.assert_array_equal(holes, numbers[0] == 255)


def test_units_are_kept_as_those_of_rasters_are(tmp_path):
    path = stored(floats(units="K"), tmp_path / "place.zarr")
    assert inspect_raster(store_frames(path, ["red", "nir"])["2020-05-11"]).units == ("K", "K")


def test_what_else_a_store_says_oddly_is_told(tmp_path):
    path = stored(floats(scale_factor=[0.1, 0.2]), tmp_path / "place.zarr")
    with pytest.raises(DataError, match=r"2020-05-11\): scale_factor is .*0.1.*; read is one number for all"):
        inspect_raster(store_frames(path, "image")["2020-05-11"])
    with pytest.raises(DataError, match="--asset red red: name each variable once"):
        store_frames(path, ["red", "red"])
    times = np.array(["2020-01-01", "NaT", "2021-01-01"], "datetime64[ns]")
    with pytest.raises(DataError, match=r"place.zarr: the image number 1, from 0, has no time"):
        store_frames(stored(dataset(pixels(), time=times), tmp_path / "place.zarr"), "red")
