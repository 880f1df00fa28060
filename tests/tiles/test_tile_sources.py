"""Where rasters lie: zip files and STAC item collections give what folders give."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.transform import from_origin

from geohf import DataError
from geohf.tiles.arguments import TileArguments, TileTrainingArguments
from geohf.tiles.cache import cache_key
from geohf.tiles.cutting import build_cache
from geohf.tiles.data import load
from geohf.tiles.images import fit_together, found_labels, mosaic_files
from geohf.tiles.points import regions_in
from geohf.tiles.rasters import inspect_raster
from geohf.tiles.reading import Reading
from geohf.tiles.sources import items_of
from geohf.tiles.table import grid_tiles, load_tiles


def zipped(folder, path, below=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, f"{below}{file.relative_to(folder)}")
    return path


def same_tiles(one, other):
    np.testing.assert_array_equal(one.array, other.array)
    np.testing.assert_array_equal(one.holes, other.holes)


@pytest.mark.parametrize("below", ["", "data/Images/"])
def test_a_zip_file_gives_what_the_folder_gives(world, tmp_path, below):
    plain = build_cache(load_tiles(world.csv, world.images, world.labels), tmp_path / "cache", 1)
    path = zipped(world.images, tmp_path / "all.zip", below)
    images = path / below.rstrip("/")
    assert found_labels(images) == world.labels
    assert regions_in(images, world.labels, ".tif") == ["7", "8"]
    table = load_tiles(world.csv, images, world.labels)
    cache = build_cache(table, tmp_path / "cache", 1)
    same_tiles(cache, plain)
    assert table.rasters == load_tiles(world.csv, world.images, world.labels).rasters
    path.touch()
    world.path("2019", "7").unlink()
    path = zipped(world.images, tmp_path / "all.zip", below)
    fewer = load_tiles(world.csv, images, world.labels)
    assert fewer.files[0][0] is None
    assert build_cache(fewer, tmp_path / "cache", 1).folder != cache.folder


def test_a_zip_file_of_a_mac_has_the_labels_of_its_folder(world, tmp_path):
    path = zipped(world.images, tmp_path / "mac.zip")
    with zipfile.ZipFile(path, "a") as archive:
        for label in world.labels:
            archive.writestr(f"__MACOSX/{label}/._7.tif", b"x")
    assert found_labels(path) == world.labels


@pytest.mark.parametrize("top", ["Images/", "data/Images/"])
def test_a_zipped_folder_is_read_as_what_it_holds(world, tmp_path, top):
    path = zipped(world.images, tmp_path / "all.zip", top)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/Images/._2019", b"x")
        archive.writestr(".DS_Store", b"x")
    assert found_labels(path) == world.labels
    caches = [
        build_cache(load_tiles(world.csv, images, world.labels), tmp_path / "cache", 1)
        for images in (world.images, path)
    ]
    same_tiles(*caches)


def test_a_zip_file_of_several_folders_says_which(world, tmp_path):
    path = zipped(world.images, tmp_path / "place.zip")
    options = TileArguments(data=str(path), target_from="color_share")
    with pytest.raises(DataError, match=r"place.zip: holds no \*.tif, but 2019, 2020, 2021; give a table"):
        load(options, TileTrainingArguments(output_dir=str(tmp_path / "out")))


def test_what_a_zip_file_lacks_is_named(world, tmp_path):
    path = zipped(world.images, tmp_path / "all.zip")
    with pytest.raises(DataError, match=r"all.zip/Images: no such folder; say where .* --image_dir"):
        found_labels(path / "Images")
    with pytest.raises(DataError, match=r"2018/?: no such folder, so there is no image of the label 2018"):
        load_tiles(world.csv, path, ["2018", *world.labels])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"all.zip: no such folder"):
        load_tiles(world.csv, path, world.labels)


@pytest.fixture
def place(tmp_path, tiff):
    """One place on three dates."""
    pixels = np.random.default_rng(0).integers(1, 255, (3, 48, 64, 2), np.uint8)
    for date, frame in zip(("2020-03-01", "2020-05-11", "2021-02-03"), pixels, strict=True):
        tiff(tmp_path / "place" / f"{date}.tif", frame, crs="EPSG:32632")
    return tmp_path / "place"


def item(number, date, **assets):
    times = {"datetime": date} if date else {"datetime": None, "start_datetime": "2020-05-11T00:00:00Z"}
    return {"type": "Feature", "id": f"item-{number}", "properties": times, "assets": assets}


def collection(path, *items):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return path


def test_a_stac_collection_and_a_zip_file_give_what_the_folder_gives(place, tmp_path):
    def data(date):
        return {"href": f"place/{date}.tif", "roles": ["data"]}

    thumbnail = {"href": "none.png", "roles": ["thumbnail"]}
    items = collection(
        tmp_path / "place.json",
        item(0, "2021-02-03T10:00:00Z", B=data("2021-02-03"), preview=thumbnail),
        item(1, "2020-03-01T10:00:00Z", B=data("2020-03-01"), preview=thumbnail),
        item(2, None, B=data("2020-05-11"), preview=thumbnail),
    )
    archive = zipped(place, tmp_path / "place.zip")
    labels = ["2020-03-01", "2020-05-11", "2021-02-03"]
    caches = []
    for source in (place, items, archive):
        options = TileArguments(data=str(source), target_from="ndvi_fall", nir=1, red=2, tile_size=8)
        args = TileTrainingArguments(
            output_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "c"), cache_workers=1
        )
        found = load(options, args).train
        assert found.table.labels == labels
        assert found.table.regions == ["place"]
        caches.append(found.cache)
    same_tiles(caches[1], caches[0])
    same_tiles(caches[2], caches[0])
    with pytest.raises(
        DataError, match=r"holds no image of the label 2022-01-01; there are 2020-03-01, 2020-05-11"
    ):
        grid_tiles(items, ["2020-03-01", "2022-01-01"], 8)


def test_addresses_are_gdals(tmp_path):
    hrefs = ["https://a.org/x.tif", "s3://bucket/x.tif", "gs://bucket/x.tif", "/vsicurl/https://b.org/x.tif"]
    items = [item(i, f"202{i}-01-01", B={"href": href}) for i, href in enumerate(hrefs)]
    assert list(items_of(collection(tmp_path / "items.json", *items)).values()) == [
        "/vsicurl/https://a.org/x.tif",
        "/vsis3/bucket/x.tif",
        "/vsigs/bucket/x.tif",
        "/vsicurl/https://b.org/x.tif",
    ]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            [item(0, "2020-01-01", A={"href": "a"}, B={"href": "b"})],
            r"has the assets A, B; name those that you mean with --asset",
        ),
        (
            [item(0, "2020-01-01T01", A={"href": "a"}), item(1, "2020-01-01T09", A={"href": "b"})],
            "is of 2020-01-01, as",
        ),
        ([item(0, "2020-01-01", A={"href": "a"})] * 2, "the item item-0 is of 2020-01-01, as another one"),
        ([item(0, "2020-01-01", A={"href": "../a.tif"})], "item-0: .*leads out of"),
        ([item(0, "2020-01-01", A={"href": "file:///etc/a.tif"})], "item-0: .*leads out of"),
        ([item(0, "2020-01-01", A={"href": "/vsizip/{/etc/a.zip}/a.tif"})], "item-0: .*leads out of"),
        ([{"assets": {}}], "is no STAC item collection with dates and assets"),
        ([item(0, "2020-01-01") | {"assets": None}], "is no STAC item collection with dates and assets"),
        ([item(0, "2020-01-01", A={"title": "a"})], "item-0: its asset A has no href"),
        ([], r"items.json: holds no items"),
    ],
)
def test_what_a_collection_does_not_tell_is_refused(tmp_path, items, message):
    with pytest.raises(DataError, match=message):
        mosaic_files(collection(tmp_path / "items.json", *items), ".tif")


def test_assets_of_what_has_none_are_refused(place):
    with pytest.raises(
        DataError, match=r"--asset is of a STAC item collection .* or a zarr store, and this is neither"
    ):
        mosaic_files(place, ".tif", "red")


def test_assets_of_a_table_are_refused(world, tmp_path):
    options = TileArguments(data=str(world.csv), image_dir=str(world.images), asset=["red"])
    with pytest.raises(
        DataError, match=r"--asset is of a STAC item collection or a zarr store, and this is a table"
    ):
        load(options, TileTrainingArguments(output_dir=str(tmp_path / "out")))


def units(style, offset):
    """An asset's scale and offset in the words of STAC's raster extension: 1.x, and 2.0 of a band or of all."""
    facts = {"scale": 0.0001, "offset": offset}
    if style == "raster:bands":
        return {"raster:bands": [facts | {"nodata": 0}]}
    facts = {f"raster:{key}": value for key, value in facts.items()}
    return {"bands": [facts]} if style == "bands" else facts


@pytest.mark.parametrize("style", ["raster:bands", "bands", "asset"])
def test_items_that_tell_other_offsets_get_a_word(place, tmp_path, caplog, style):
    """As Sentinel-2's before and after January 2022, whose files say nothing of it."""
    labels, offsets = ["2020-03-01", "2020-05-11", "2021-02-03"], [0, 0, -0.1]
    items = [
        item(i, date, B={"href": f"place/{date}.tif"} | units(style, offset))
        for i, (date, offset) in enumerate(zip(labels, offsets, strict=True))
    ]
    path = collection(tmp_path / "place.json", *items)
    grid_tiles(path, labels[:2], 8)
    assert "offset" not in caplog.text
    grid_tiles(path, labels, 8)
    assert "the items of 2020-03-01 and 2021-02-03 tell other scales or offsets" in caplog.text
    assert "(0.0001 * number + 0 and 0.0001 * number + -0.1)" in caplog.text


def test_a_baseline_in_the_addresses_of_assets_is_heard(tmp_path, tiff, caplog):
    path, frames = single_bands(tmp_path, tiff)
    content = json.loads(path.read_text())
    for found, number in zip(content["features"], ("0213", "0214", "0400"), strict=True):
        for asset in found["assets"].values():
            name = f"T32_N{number}_R065_{asset['href']}"
            (tmp_path / asset["href"]).rename(tmp_path / name)
            asset["href"] = name
    path.write_text(json.dumps(content))
    grid_tiles(path, list(frames), 8, asset=["red", "nir"])
    assert "baselines 0213, 0214, 0400" in caplog.text


def test_a_raster_that_is_not_at_its_address_is_named(tmp_path):
    missing = {"href": "./a.tif"}
    path = collection(tmp_path / "items.json", *(item(i, f"202{i}-01-01", A=missing) for i in range(2)))
    with pytest.raises(DataError, match=r"/a.tif: no such file"):
        grid_tiles(path, ["2020-01-01", "2021-01-01"], 8)


def single_bands(folder, tiff, coarse=(), **profile):
    """A collection of three dates whose assets red, nir and scl lie in a file each; the coarse ones at half the resolution."""
    rng, items, frames = np.random.default_rng(0), [], {}
    for i, date in enumerate(("2020-03-01", "2020-05-11", "2021-02-03")):
        fine = rng.integers(1, 4000, (24, 32, 3)).repeat(2, 0).repeat(2, 1).astype(np.uint16)
        fine[..., 2] = rng.choice([4, 5, 9], (24, 32)).repeat(2, 0).repeat(2, 1)
        fine[:6, :6] = 0
        assets = {}
        for number, name in enumerate(("red", "nir", "scl")):
            pixels, cell = fine[..., number : number + 1], 10
            if name in coarse:
                pixels, cell = pixels[::2, ::2], 20
            kind = np.uint8 if name == "scl" else np.uint16
            where = {"crs": "EPSG:32632", "transform": from_origin(500_000, 5_000_000, cell, cell)}
            tiff(folder / f"{date}_{name}.tif", pixels.astype(kind), **where | {"nodata": 0} | profile)
            assets[name] = {"href": f"{date}_{name}.tif", "roles": ["data"]}
        items.append(item(i, date, **assets))
        frames[date] = fine
    return collection(folder / "place.json", *items), frames


CLOUDS = Reading(cloud_band=3, cloud_values=(8, 9))


def test_assets_of_a_band_each_give_what_a_file_of_all_bands_gives(tmp_path, tiff):
    items, frames = single_bands(tmp_path, tiff)
    for date, pixels in frames.items():
        where = {"crs": "EPSG:32632", "transform": from_origin(500_000, 5_000_000, 10, 10), "nodata": 0}
        tiff(tmp_path / "place" / f"{date}.tif", pixels, **where)
    one = grid_tiles(items, list(frames), 8, reading=CLOUDS, asset=["red", "nir", "scl"])
    other = grid_tiles(tmp_path / "place", list(frames), 8, reading=CLOUDS)
    caches = [build_cache(table, tmp_path / "cache", 1) for table in (one, other)]
    same_tiles(*caches)
    assert 0 < caches[0].holes.mean() < 1
    assert one.rasters[0].names == ("red", "nir", "scl")
    assert one.bands == 2
    turned = grid_tiles(items, list(frames), 8, reading=Reading(bands=(2, 1)), asset=["nir", "red"])
    np.testing.assert_array_equal(build_cache(turned, tmp_path / "cache", 1).array, caches[0].array)
    key = cache_key(one)
    tiff(tmp_path / "2020-03-01_nir.tif", frames["2020-03-01"][..., :1], compress="deflate", **where)
    again = grid_tiles(items, list(frames), 8, reading=CLOUDS, asset=["red", "nir", "scl"])
    assert cache_key(again) != key


def test_assets_of_other_resolutions_are_read_on_request(tmp_path, tiff):
    assets = ["red", "nir", "scl"]
    items, frames = single_bands(tmp_path, tiff, coarse=("nir", "scl"))
    with pytest.raises(
        DataError, match=r"2020-03-01_nir.tif: its width is 32, but .*red.tif has 64; .* --align"
    ):
        grid_tiles(items, list(frames), 8, asset=assets)
    reading = replace(CLOUDS, align="bilinear")
    cache = build_cache(
        grid_tiles(items, list(frames), 8, reading=reading, asset=assets), tmp_path / "cache", 1
    )
    tile, hole = cache.tile(20), cache.tile_mask(20, np.arange(3))
    y, x = 8 * 2, 8 * 4
    for step, frame in enumerate(frames.values()):
        here = frame[y : y + 8, x : x + 8]
        np.testing.assert_array_equal(hole[step], here[..., 2] == 9)  # classes stay classes
        np.testing.assert_array_equal(tile[step, ..., 0], here[..., 0])
        mixed = frame[y - 2 : y + 10 : 2, x - 2 : x + 10 : 2, 1].astype(float)
        for _ in range(2):  # bilinear by hand: three quarters of the pixel, one of its neighbor
            before, after = 0.75 * mixed[1:-1] + 0.25 * mixed[:-2], 0.75 * mixed[1:-1] + 0.25 * mixed[2:]
            mixed = np.stack([before, after], 1).reshape(-1, mixed.shape[1]).T
        np.testing.assert_allclose(tile[step, ..., 1], mixed, atol=1)
    assert cache.tile_mask(0, np.arange(3))[:, :6, :6].all()


def test_a_pixel_that_one_asset_did_not_measure_was_not_measured(tmp_path, tiff):
    items, frames = single_bands(tmp_path, tiff, nodata=None)
    pixels = frames["2020-05-11"][..., 1:2].copy()
    pixels[8:10, 8:11] = 0
    where = {"crs": "EPSG:32632", "transform": from_origin(500_000, 5_000_000, 10, 10), "nodata": 0}
    tiff(tmp_path / "2020-05-11_nir.tif", pixels, **where)
    for reading in (Reading(), Reading(align="bilinear")):
        table = grid_tiles(items, list(frames), 8, reading=reading, asset=["red", "nir"])
        holes = build_cache(table, tmp_path / "cache", 1).tile_mask(9, np.arange(3))
        assert holes.sum() == holes[1, :2, :3].sum() == 6


def test_a_value_without_data_that_no_header_names_is_not_mixed_with_its_neighbors(tmp_path, tiff):
    items, frames = single_bands(tmp_path, tiff, coarse=("nir",), nodata=None)
    asset, labels = ["red", "nir"], list(frames)
    with pytest.raises(
        DataError,
        match=r"03-01_nir.tif: has another resolution .* so --nodata -9999 would be mixed .* nearest",
    ):
        grid_tiles(items, labels, 8, nodata=-9999, reading=Reading(align="bilinear"), asset=asset)
    grid_tiles(items, labels, 8, nodata=-9999, reading=Reading(align="nearest"), asset=asset)
    grid_tiles(items, labels, 8, reading=Reading(align="bilinear"), asset=asset)


def test_assets_with_ground_control_points_on_other_ground_are_refused(tmp_path, tiff):
    items, frames = single_bands(tmp_path, tiff, transform=None, crs=None)
    for number, date in enumerate(frames):
        corners = [(row, column) for row in (0, 48) for column in (0, 64)]
        points = [GroundControlPoint(r, c, 10 + number + c / 64, 50 - r / 48) for r, c in corners]
        for name in ("red", "nir"):
            with rasterio.open(tmp_path / f"{date}_{name}.tif", "r+") as file:
                file.gcps = points, rasterio.CRS.from_epsg(4326)
    with pytest.raises(DataError, match=r"item-1 \(red, nir\): its ground control points are not those of"):
        grid_tiles(items, list(frames), 8, asset=["red", "nir"])
    first = fit_together([mosaic_files(items, ".tif", ["red", "nir"])["2020-03-01"]])
    assert first.header.gcps == inspect_raster(tmp_path / "2020-03-01_nir.tif").gcps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"crs": "EPSG:32633"},
            r"its CRS is EPSG:32632, but .*red.tif has EPSG:32633; of one image --align true",
        ),
        ({"transform": from_origin(500_040, 5_000_000, 10, 10)}, r"a corner is 4 pixels away"),
        ({"bands": 2}, r"red.tif: has 2 bands; of several assets each is one band"),
        ({"palette": True}, r"red.tif: has a color table \(classes\), and among several assets only"),
    ],
)
def test_assets_that_do_not_lie_on_each_other_are_refused(tmp_path, tiff, changes, message):
    items, frames = single_bands(tmp_path, tiff, coarse=("nir",))
    where = {"crs": "EPSG:32632", "transform": from_origin(500_000, 5_000_000, 10, 10)}
    bands, palette = changes.pop("bands", 1), changes.pop("palette", False)
    path = tiff(tmp_path / "2020-03-01_red.tif", np.ones((48, 64, bands), np.uint8), **where | changes)
    if palette:
        with rasterio.open(path, "r+") as file:
            file.write_colormap(1, {1: (1, 2, 3, 255)})
    with pytest.raises(DataError, match=message):
        grid_tiles(items, list(frames), 8, reading=Reading(align="bilinear"), asset=["red", "nir"])


@pytest.mark.parametrize(
    ("asset", "message"),
    [
        (["red", "blue"], r"item-0: has the assets red, nir, scl; name those that you mean with --asset"),
        (["red", "red"], r"--asset red red: name each asset once"),
        (None, r"has the assets red, nir, scl; name those"),
    ],
)
def test_assets_are_named(tmp_path, tiff, asset, message):
    items, frames = single_bands(tmp_path, tiff)
    with pytest.raises(DataError, match=message):
        grid_tiles(items, list(frames), 8, asset=asset)
