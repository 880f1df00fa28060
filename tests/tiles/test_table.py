"""The table and its images: what is read, and what each kind of bad input says."""

from __future__ import annotations

import numpy as np
import pytest

from geohf import DataError
from geohf.data.tables import RowErrors
from geohf.tiles.cutting import build_cache
from geohf.tiles.table import grid_tiles, load_tiles


def load(world, **changes):
    return load_tiles(world.csv, world.images, world.labels, **changes)


def test_the_seeds_table_is_read_as_it_is(world):
    table = load(world)
    assert table.tile_ids.tolist() == [str(100 + i) for i in range(8)]
    assert table.regions == ["7", "8"]
    assert table.region.tolist() == [0] * 4 + [1] * 4
    assert table.boxes[3].tolist() == [12, 10, 23, 20]
    assert table.sizes[:4].tolist() == [[10, 12], [10, 12], [10, 12], [10, 11]]
    np.testing.assert_allclose(table.values[5, :, 0], [0.06, 0.16, 0.26])
    assert table.rasters[0].bands == 3


def test_a_table_without_years_has_a_row_a_tile(world):
    frame = world.frame[world.frame.label_id == "2021"].drop(columns="label_id")
    table = load_tiles(frame, world.images, [2019, 2020, 2021])
    assert np.isnan(table.values[:, :2]).all()
    np.testing.assert_allclose(table.values[1, 2], [0.21])


@pytest.mark.parametrize("kind", [tuple, list])
def test_parquet_and_coordinates_that_are_no_text(world, kind):
    boxes = [box for _ in range(2) for box in world.boxes for _ in world.labels]
    world.frame["region_coordinates"] = [kind(box) for box in boxes]
    path = world.folder / "tiles.parquet"
    world.frame.to_parquet(path)
    assert load_tiles(path, world.images, world.labels).boxes.tolist() == load(world).boxes.tolist()


def test_numbers_that_pandas_made_floats(world):
    world.frame[["tile_id", "region_id", "label_id"]] = world.frame[
        ["tile_id", "region_id", "label_id"]
    ].astype(float)
    world.save()
    table = load(world, extension="tif")
    assert table.regions == ["7", "8"]
    assert table.tile_ids[0] == "100"
    assert len(table) == 8


def test_nodata_is_what_any_header_says(world, tiff):
    tiff(world.path("2020", "8"), world.pixels["2020", "8"], nodata=255)
    assert load(world).nodata == 255
    assert load(world, nodata=3).nodata == 3
    tiff(world.path("2020", "7"), world.pixels["2020", "7"], nodata=0)
    with pytest.raises(DataError, match=r"name different nodata values \(0, 255\); say which with --nodata"):
        load(world)


def test_text_where_a_number_should_be(world):
    change("target", "much")(world)
    with pytest.raises(DataError, match=r"tiles.csv, row 4: target is 'much', which is not a number"):
        load(world)
    with pytest.raises(DataError, match="row 4: tile 100: its target is empty or not a finite number"):
        load_tiles(world.frame, world.images, world.labels)


def test_several_target_columns(world):
    world.frame["rate"] = 1.5
    world.save()
    assert load(world, targets=["target", "rate"]).values[0, 2].tolist() == [0.2, 1.5]


# ---- bad input: where, which value, what to do about it


def change(column, value, row=2):
    def apply(world):
        world.frame[column] = world.frame[column].astype(object)
        world.frame.loc[row, column] = value
        world.save()

    return apply


def truncated(world):
    path = world.path("2020", "7")
    path.write_bytes(path.read_bytes()[:700])


BAD_ROWS = {
    "outside": (
        change("region_coordinates", "(12, 0, 25, 10)"),
        r"row 4: tile \(12, 0, 25, 10\) reaches out .* 24 x 20",
    ),
    "negative origin": (change("region_coordinates", "(-1, 0, 9, 10)"), "row 4: tile .* reaches out"),
    "zero area": (
        change("region_coordinates", "(5, 0, 5, 10)"),
        r"row 4: tile 100: \(5, 0, 5, 10\) has no area",
    ),
    "negative area": (change("region_coordinates", "(9, 0, 5, 10)"), "row 4: .* has no area"),
    "no coordinates": (
        change("region_coordinates", "__import__('os')"),
        "row 4: region_coordinates .* are not",
    ),
    "half pixels": (
        change("region_coordinates", "(0, 0, 9.5, 10)"),
        "row 4: region_coordinates .* whole pixels",
    ),
    "empty target": (change("target", ""), "row 4: tile 100: its target is empty"),
    "no tile": (change("tile_id", ""), "row 4: tile_id is empty"),
    "duplicate": (change("tile_id", 101), "row 7: tile_id 101 stands in row 4 already"),
    "region without file": (
        change("region_id", "99"),
        "row 4: region '99' has no image 99.tif in any label's folder",
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_named_and_can_be_skipped(world, name):
    spoil, message = BAD_ROWS[name]
    spoil(world)
    with pytest.raises(DataError, match=message) as caught:
        load(world)
    assert str(world.csv) in str(caught.value)
    errors = RowErrors("skip")
    assert len(load(world, errors=errors)) == 7
    assert len(errors.rows) == 1


def test_a_year_without_a_file_is_masked_up_to_the_limit(world):
    world.path("2020", "7").unlink()
    files = load(world).files
    assert [[file is not None for file in row] for row in files] == [[True, False, True], [True, True, True]]
    with pytest.raises(
        DataError, match=r"region '7' has no image for 1 of 3 labels, more than the share of 0\.2"
    ):
        load(world, max_missing=0.2)


def test_a_label_without_a_folder_is_named(world):
    with pytest.raises(DataError, match="2018: no such folder, so there is no image of the label 2018"):
        load_tiles(world.csv, world.images, [2018, *world.labels])


def test_a_path_that_climbs_out_is_refused(world):
    change("region_id", "../../secret")(world)
    with pytest.raises(DataError, match="leads out of the folder"):
        load(world)


def test_a_truncated_tiff_is_named(world, tmp_path):
    truncated(world)
    with pytest.raises(DataError, match=r"2020/7.tif: cannot be read, it is truncated or no image"):
        build_cache(load(world), tmp_path / "cache", workers=1)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((20, 25, 3), np.uint8, r"2020/7.tif: its width is 25, but .*2019/7.tif of the same region 7 has 24"),
        ((20, 24, 4), np.uint8, "2020/7.tif: its number of bands is 4, but .* has 3"),
        ((20, 24, 3), np.uint16, "2020/7.tif: its type is uint16, but .* has uint8"),
        ((20, 24, 3), np.float64, "2020/7.tif: pixels are float64; bands must all be one of uint8"),
    ],
)
def test_images_of_a_region_must_agree(world, tiff, shape, dtype, message):
    tiff(world.path("2020", "7"), np.ones(shape, dtype))
    with pytest.raises(DataError, match=message):
        load(world)


def test_images_that_lie_elsewhere_are_refused(world, tiff):
    from rasterio.transform import from_origin

    elsewhere = from_origin(500_100, 5_000_000, 10, 10)
    tiff(world.path("2020", "7"), world.pixels["2020", "7"], crs="EPSG:32632", transform=elsewhere)
    with pytest.raises(DataError, match="lies elsewhere"):
        load(world)


def test_a_folder_of_mosaics_is_cut_into_a_grid(world):
    for label in world.labels:
        world.path(label, "7").rename(world.images / f"{label}.tif")
    table = grid_tiles(world.images, world.labels, 8)
    assert len(table) == 6
    assert table.boxes[-1].tolist() == [16, 8, 24, 16]
    with pytest.raises(DataError, match="no tile of 21 x 21 fits in"):
        grid_tiles(world.images, world.labels, 21)
