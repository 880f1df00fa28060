"""The table and its images: what is read, and what each kind of bad input says."""

from __future__ import annotations

import numpy as np
import pytest

from geohf import DataError
from geohf.data.tables import RowErrors
from geohf.tiles.arguments import TileArguments, TileTrainingArguments
from geohf.tiles.cutting import build_cache
from geohf.tiles.data import load as load_data
from geohf.tiles.images import found_labels
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


@pytest.mark.parametrize("case", [str.upper, str.title])
def test_columns_are_heard_in_any_case_of_letters(world, case):
    expected = load(world)
    world.frame.columns = [case(name) for name in world.frame.columns]
    world.save()
    for source, target in ((world.csv, "target"), (world.frame, "target"), (world.csv, "taRGet")):
        table = load_tiles(source, world.images, world.labels, targets=[target])
        np.testing.assert_array_equal(table.values, expected.values)
        assert table.tile_ids.tolist() == expected.tile_ids.tolist()


def test_columns_that_only_their_case_tells_apart_are_not_taken_at_random(world):
    world.frame = world.frame.rename(columns={"target": "Target"}).assign(TARGET=0.0)
    world.save()
    for source in (world.csv, world.frame):
        with pytest.raises(DataError, match="'target' may be the column 'Target' or 'TARGET'; rename one"):
            load_tiles(source, world.images, world.labels)
        assert load_tiles(source, world.images, world.labels, targets=["TARGET"]).values.max() == 0


def test_columns_of_a_data_frame_may_be_called_by_numbers(world):
    frame = world.frame[world.frame.label_id == "2021"].drop(columns="label_id")
    frame[2019] = 1.0
    assert len(load_tiles(frame, world.images, world.labels)) == len(world.boxes) * 2


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
    tiff(world.path("2020", "8"), world.pixels["2020", "8"], nodata=255, **world.geo)
    assert load(world).nodata == 255
    assert load(world, nodata=3).nodata == 3
    tiff(world.path("2020", "7"), world.pixels["2020", "7"], nodata=0, **world.geo)
    message = (
        r"name different nodata values \(0, 255\), and .*7.tif names none; say which it has with --nodata"
    )
    with pytest.raises(DataError, match=message):
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


def test_a_year_whose_file_ends_in_another_case_is_not_masked(world):
    """Before, the year was passed over as one without an image."""
    path = world.path("2020", "7")
    path.rename(path.with_suffix(".TIF"))
    with pytest.raises(
        DataError, match=r"holds 2020/7.TIF, which does not end in .tif; write all endings alike"
    ):
        load(world)
    errors = RowErrors("skip")
    assert load(world, errors=errors).regions == ["8"]
    assert len(errors.rows) == 4


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
        (
            (20, 25, 3),
            np.uint8,
            r"2020/7.tif: its width is 25, but .*2019/7.tif has 24; warp them to one grid",
        ),
        ((20, 24, 4), np.uint8, "2020/7.tif: its number of bands is 4, but .* has 3"),
        ((20, 24, 3), np.uint16, "2020/7.tif: its type is uint16, but .* has uint8"),
        ((20, 24, 3), np.complex64, "2020/7.tif: pixels are complex64; bands must all be one of uint8"),
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


# ---- time: the order of labels, and one value a tile and step


def months(world, tiff, names):
    """The world's table and images over twelve months; names: of the folders."""
    import shutil

    import pandas as pd

    shutil.rmtree(world.images)
    one = world.frame[world.frame.label_id == "2019"]
    rows = []
    for number, name in enumerate(names, 1):
        for region in ("7", "8"):
            tiff(world.path(name, region), world.pixels["2019", region])
        rows.append(one.assign(label_id=number, target=number / 10))
    world.frame = pd.concat(rows)
    world.save()
    return world


@pytest.mark.case("files-A2")
@pytest.mark.parametrize("pattern", ["{}", "{:02d}"])
def test_months_in_folders_come_in_order_and_meet_the_tables_numbers(world, tiff, pattern):
    months(world, tiff, [pattern.format(n) for n in range(1, 13)])
    labels = found_labels(world.images)
    assert list(map(int, labels)) == list(range(1, 13))
    table = load_tiles(world.csv, world.images, labels)
    np.testing.assert_allclose(table.values[0, :, 0], np.arange(1, 13) / 10)
    assert table.steps.times.tolist() == list(range(1, 13))


@pytest.mark.case("files-A2")
def test_mosaics_come_in_the_order_of_their_numbers(tmp_path, tiff):
    for n in range(1, 13):
        tiff(tmp_path / f"t{n}.tif", np.full((96, 96, 3), n, np.uint8))
    options = TileArguments(data=str(tmp_path), target_type="last-image", tile_size=8)
    args = TileTrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True, report_to="none")
    data = load_data(options, args)
    assert data.train.table.labels == [f"t{n}" for n in range(1, 13)]
    assert data.train.cache.tile(0)[:, 0, 0, 0].tolist() == list(range(1, 13))


@pytest.mark.case("files-A2")
def test_labels_that_go_back_in_time_are_refused(world):
    with pytest.raises(DataError, match="labels 2021, 2020, 2019 do not ascend: 2020 is before 2021"):
        load_tiles(world.csv, world.images, world.labels[::-1])
    assert load_tiles(world.csv, world.images, [2019.0, 2020.0, 2021.0]).labels == world.labels


@pytest.mark.case("files-A19")
def test_a_tile_twice_in_an_earlier_year(world):
    import pandas as pd

    again = world.frame.iloc[[0]]
    equal = load_tiles(pd.concat([world.frame, again]), world.images, world.labels)
    np.testing.assert_array_equal(equal.values, load(world).values)
    unknown = load_tiles(pd.concat([world.frame, again.assign(target=np.nan)]), world.images, world.labels)
    np.testing.assert_array_equal(unknown.values, load(world).values)
    world.frame = pd.concat([world.frame, again.assign(target=0.99)])
    world.save()
    with pytest.raises(DataError, match=r"row 26: tile .* of region 7 has other values for 2019 in row 2"):
        load(world)
    errors = RowErrors("skip")
    table = load(world, errors=errors)
    assert table.values[0, 0, 0] == 0.0
    assert [row["row"] for row in errors.rows] == [26]


@pytest.mark.case("files-A19")
def test_a_tile_twice_in_the_last_year(world, caplog):
    import pandas as pd

    twice = load_tiles(pd.concat([world.frame, world.frame]), world.images, world.labels)
    assert twice.tile_ids.tolist() == load(world).tile_ids.tolist()
    np.testing.assert_array_equal(twice.values, load(world).values)
    assert "8 rows repeat an earlier one" in caplog.text
    again = world.frame.iloc[[2]]
    with pytest.raises(DataError, match="row 26: tile_id 100 stands in row 4 already"):
        load_tiles(pd.concat([world.frame, again.assign(target=0.99)]), world.images, world.labels)
    other = again.assign(tile_id=999, target=0.99)
    with pytest.raises(DataError, match="row 26: tile 999 lies where the tile of row 4 lies, with other"):
        load_tiles(pd.concat([world.frame, other]), world.images, world.labels)
    assert (
        len(load_tiles(pd.concat([world.frame, again.assign(tile_id=999)]), world.images, world.labels)) == 9
    )


def test_rows_that_belong_to_no_step_or_tile_are_counted(world, caplog):
    import pandas as pd

    other = world.frame.iloc[[0]]
    moved = other.assign(region_coordinates="(1, 1, 5, 5)")
    load_tiles(pd.concat([world.frame, other.assign(label_id="2012"), moved]), world.images, world.labels)
    assert "1 rows of the labels 2012 are not used" in caplog.text
    assert "1 rows of earlier labels are of no tile of 2021" in caplog.text
    with pytest.raises(DataError, match="row 26: label_id is empty"):
        load_tiles(pd.concat([world.frame, other.assign(label_id=None)]), world.images, world.labels)
    with pytest.raises(DataError, match="row 26: region_coordinates 'x' are not"):
        load_tiles(pd.concat([world.frame, other.assign(region_coordinates="x")]), world.images, world.labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": "ltae"}, "--encoder ltae needs a frame encoder: --backbone"),
        ({"normalize": "backbone"}, "--normalize backbone needs a frame encoder, convlstm is none"),
    ],
)
def test_encoder_and_backbone_are_compared_before_anything_is_read(tmp_path, settings, message):
    with pytest.raises(DataError, match=message):  # and not that there is no such table
        load_data(TileArguments(data=str(tmp_path / "none.csv"), **settings))
