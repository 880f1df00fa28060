import csv
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.region_models import arguments_of, build_model, options_of
from PIL import Image

from geohf.data.classes import warn_of_spellings
from geohf.data.splits import place_numbers
from geohf.data.tables import RowErrors, points_of
from geohf.errors import DataError
from geohf.geo.scalers import fit_scaler
from geohf.recipes.train_region import make_parser
from geohf.region.arguments import RegionArguments
from geohf.region.data import load
from geohf.region.filtering import clip_dataset, filter_dataset
from geohf.region.rows import TRAIN_IMAGES, TRAIN_TABLE, as_photos, load_region_table
from geohf.region.selection import excluded_names, names_of, region_order

COLUMNS = ["filename", "latitude", "longitude", "Region_ID"]


@pytest.fixture
def table(tmp_path):
    """`table(rows, frame)` writes a.jpg to f.jpg and a table of these rows; `...` keeps a cell's default."""
    for name in "abcdef":
        Image.new("RGB", (8, 8), "teal").save(tmp_path / f"{name}.jpg")

    def write(*rows, columns=COLUMNS):
        with open(tmp_path / "labels.csv", "w", newline="") as file:
            csv.writer(file).writerows([columns, *rows])
        return tmp_path / "labels.csv"

    return write


def good(name="a.jpg", latitude=36.1, longitude=127.1, region="3"):
    return [name, latitude, longitude, region]


def skipped(path, **options):
    errors = RowErrors("skip")
    dataset = load_region_table(path, errors=errors, **options)
    return dataset, {row["row"]: row["reason"] for row in errors.rows}


# --- what is read ---


def test_a_table_becomes_rows(table):
    path = table(
        ["2024-05-01", 90, *good("b.jpg", 36.25, 190.0, "7")],
        ["2024-05-01", 90, *good()],
        columns=["timestamp", "angle", *COLUMNS],
    )
    dataset = load_region_table(path)
    assert dataset["filename"] == ["b.jpg", "a.jpg"]
    assert dataset["region"] == ["7", "3"]
    assert dataset["row"] == [2, 3]
    assert points_of(dataset).tolist() == [[36.25, -170.0], [36.1, 127.1]]


def test_whole_numbers_stay_coordinates(table):
    dataset = load_region_table(
        table(good(latitude=221400, longitude=186300), good("b.jpg", 221401, 186301)), frame="planar"
    )
    assert dataset.features["latitude"].dtype == "float64"
    assert points_of(dataset).tolist() == [[221400.0, 186300.0], [221401.0, 186301.0]]


def test_any_case_of_columns_and_parquet(table, tmp_path):
    import pandas as pd

    pd.DataFrame(
        [good(), good("b.jpg", region=None)], columns=["File_Name", "LAT", "Lon", "REGION_ID"]
    ).assign(REGION_ID=[3.0, 5.0]).to_parquet(tmp_path / "labels.parquet")
    table(good())
    assert load_region_table(tmp_path / "labels.parquet")["region"] == ["3", "5"]


@pytest.mark.case("use-O5")
def test_a_table_as_other_programs_write_it(table, tmp_path):
    """A byte order mark, Windows line ends and paths, quotes, commas in quotes, any case, columns nobody asked for."""
    table()
    (tmp_path / "north").mkdir()
    (tmp_path / "north/a, b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
    lines = [
        '"FileName" ,Note,LATITUDE,"Longitude",region_id',
        '"north\\a, b.jpg","said ""here"", twice",+36.5 ,127.25,"Old Town, east"',
        "c.jpg,,3.65e1, 127.5,Old Town\u2009west",
    ]
    (tmp_path / "windows.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, ""]).encode())
    dataset = load_region_table(tmp_path / "windows.csv")
    assert dataset["region"] == ["Old Town, east", "Old Town\u2009west"]
    assert points_of(dataset).tolist() == [[36.5, 127.25], [36.5, 127.5]]
    assert [Path(image["path"]).is_file() for image in dataset["image"]] == [True, True]


@pytest.mark.case("use-O5")
@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["3", "5"], ["3", "5"]),
        (["3.0", "5.0"], ["3", "5"]),
        (["-1.0", "0"], ["-1", "0"]),
        (["03", "3"], ["03", "3"]),
        (["3.5", "v1.0"], ["3.5", "v1.0"]),
    ],
)
def test_regions_are_names(table, cells, names):
    dataset = load_region_table(table(good(region=cells[0]), good("b.jpg", region=cells[1])))
    assert dataset["region"] == names


def test_regions_are_ordered_by_number_and_always_alike():
    assert region_order(["10", "9", "-1", "10", "0"]) == ["-1", "0", "9", "10"]
    assert region_order(["3", "03", "2"]) == region_order(["03", "2", "3"]) == ["2", "03", "3"]
    assert region_order(["10", "9", "b"]) == ["10", "9", "b"]


def test_one_file_has_many_spellings(table):
    _, left_out = skipped(table(good(), good("./a.jpg", 36.2), good("b.jpg")))
    assert list(left_out) == [2, 3]
    assert "with different labels" in left_out[3]


@pytest.mark.parametrize("east", [180.0, -180.0])
def test_the_antimeridian_goes_through_a_region(table, samples, tmp_path, east):
    """Fiji: half of the places lie at 179.9 and half at -179.9, or at 180.1, which is the same."""
    table()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(60):
        Image.new("RGB", (8, 8), (4 * i, 0, 0)).save(tmp_path / f"{i}.png")
        longitude = 180.0 + rng.normal(0, 0.0002)
        rows.append(
            good(f"{i}.png", -17 + rng.normal(0, 0.0002), longitude + (east - 180) * (longitude >= 180))
        )
    options = options_of(
        samples("wgs84"), train_csv=str(table(*rows)), train_dir=None, val_csv=None, val_dir=None
    )
    data = load(options)
    assert len(data.dropped) <= 8  # none by MAD or DBSCAN but a stray or two, the rest by percentiles
    assert len(data.train) >= 30
    scaler = fit_scaler(points_of(data.train))
    assert abs(abs(scaler.center[1]) - 180) < 0.001
    assert scaler.scale[1] < 0.001


def test_excluded_names_come_as_a_list_or_a_file(table, tmp_path):
    (tmp_path / "bad.txt").write_text("b.jpg\n\n c.jpg \n")
    names = excluded_names(["a.jpg", str(tmp_path / "bad.txt")])
    assert names == ["a.jpg", "b.jpg", "c.jpg"]
    # an excluded row may be wrong in any way
    path = table(good(), good("b.jpg", "", ""), good("d.jpg"), good("c.jpg", region=""))
    assert load_region_table(path, exclude=names)["filename"] == ["d.jpg"]
    with pytest.raises(DataError, match=r"gone\.txt: cannot be read"):
        excluded_names([str(tmp_path / "gone.txt")])
    (tmp_path / "bad.txt").write_text("b.jpg\n", encoding="utf-16")
    with pytest.raises(DataError, match=r"bad\.txt: is no UTF-8 text"):
        excluded_names([str(tmp_path / "bad.txt")])


# --- what is refused, or left out and counted ---


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (good("gone.jpg"), "cannot be read"),
        (good("../a.jpg"), "leads out of the folder"),
        (good(""), "the file name is empty"),
        (good("labels.csv"), "is not an image"),
        (good("f.jpg", "", 127.1), "latitude nan is not finite"),
        (good("f.jpg", 36.1, "nan"), "longitude nan is not finite"),
        (good("f.jpg", 99.0, 127.0), "outside -90..90"),
        (good("f.jpg", 127.1, 36.1), "swapped"),
        (good("f.jpg", 221400, 186300), "planar data need frame='planar'"),
        (good("f.jpg", region=""), "the region is empty"),
        (good("f.jpg", region="nan"), "the region is empty"),
        (good("b.jpg", 36.5), "'b.jpg' stands in rows 3, 6 with different labels"),
        (good("b.jpg", region="5"), "'b.jpg' stands in rows 3, 6 with different labels"),
        (good("b.jpg"), "'b.jpg' stands in rows 3, 6"),
    ],
)
def test_a_bad_row_is_named_and_can_be_skipped(table, bad, reason):
    path = table(good(), good("b.jpg"), good("c.jpg"), good("d.jpg"), bad)
    errors = RowErrors("raise")
    load_region_table(path, errors=errors)
    with pytest.raises(DataError, match="cannot be used") as caught:
        errors.settle(kept=4)
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)
    dataset, left_out = skipped(path)
    assert reason in left_out[6]
    assert "b.jpg" not in dataset["filename"] or "different" not in reason
    assert len(dataset) + len(left_out) == 5


def test_a_truncated_image_is_named(table, tmp_path):
    path = table(good(), good("b.jpg"))
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:200])
    dataset, left_out = skipped(path)
    assert dataset["filename"] == ["a.jpg"]
    assert "broken or truncated" in left_out[3]


@pytest.mark.parametrize(
    ("rows", "frame", "message"),
    [
        ([good(latitude=221400, longitude=186300)], "wgs84", "declare frame='planar'"),
        ([good()], "planar", "frame='wgs84'"),
        ([good()], "utm", "frame must be one of wgs84, planar"),
        ([good(latitude="north")], "wgs84", "row 2: latitude is 'north', which is not a number"),
    ],
)
def test_a_table_in_the_other_frame_is_refused(table, rows, frame, message):
    with pytest.raises(DataError, match=message):
        load_region_table(table(*rows), frame=frame)


def test_a_missing_column_is_named(table):
    with pytest.raises(DataError, match="needs a column 'region_id'"):
        load_region_table(table(good()[:3], columns=COLUMNS[:3]))


# --- filters, with a run's options ---


@pytest.mark.parametrize("frame", ["wgs84", "planar"])
def test_the_filters_find_what_was_planted(samples, frame):
    sample = samples(frame)
    options = options_of(sample, frame=frame)
    dataset = load_region_table(options.train_csv, options.train_dir, frame)
    kept, dropped = filter_dataset(dataset, options)
    with open(sample / "planted.csv") as file:
        planted = {row["filename"]: row["filter"] for row in csv.DictReader(file)}
    found = {row["filename"]: row["filter"] for row in dropped}
    assert len(planted) == 12
    assert {name: found.get(name) for name in planted} == planted
    assert len(dropped) - len(planted) <= 3
    assert len(kept) == len(dataset) - len(dropped)
    lines = Path(options.train_csv).read_text().splitlines()
    for row in dropped:
        assert lines[row["row"] - 1].startswith(row["filename"])
        assert row["reason"]


def test_clips_are_within_regions(samples):
    options = options_of(samples("wgs84"), percentile_low=5, percentile_high=95)
    dataset = load_region_table(options.train_csv, options.train_dir)
    dataset, _ = filter_dataset(dataset, options)
    kept, dropped = clip_dataset(dataset, options)
    points, regions = points_of(dataset), np.array(dataset["region"])
    for name in "135":
        mine = points[regions == name]
        low, high = np.percentile(mine, [5, 95], axis=0)
        assert ((mine >= low) & (mine <= high)).all(1).sum() == kept["region"].count(name)
    assert {row["filter"] for row in dropped} == {"percentile"}


def test_fences_are_for_the_regions_that_were_named(samples):
    options = options_of(
        samples("wgs84"), iqr_factor=0.3, iqr_regions=["3"], percentile_low=0, percentile_high=100
    )
    dataset, _ = filter_dataset(load_region_table(options.train_csv, options.train_dir), options)
    _, dropped = clip_dataset(dataset, options)
    assert {(row["Region_ID"], row["filter"]) for row in dropped} == {("3", "iqr")}
    options.iqr_regions = ["9"]
    with pytest.raises(DataError, match="no region 9"):
        filter_dataset(dataset, options)


def test_filters_can_be_switched_off(samples):
    options = options_of(
        samples("wgs84"), mad_threshold=0, dbscan_eps=0, percentile_low=0, percentile_high=100, min_rows=0
    )
    dataset = load_region_table(options.train_csv, options.train_dir)
    for apply in (filter_dataset, clip_dataset):
        kept, dropped = apply(dataset, options)
        assert (len(kept), dropped) == (120, [])


def test_a_filter_that_leaves_nothing_says_so(samples):
    options = options_of(samples("wgs84"), dbscan_eps=1.5)
    with pytest.raises(DataError, match=r"leave none of 120 training rows: mad 6, dbscan 114; loosen them"):
        load(options)


def test_a_filters_option_out_of_range_says_so(samples):
    with pytest.raises(DataError, match="filter mad: threshold must be above zero"):
        load(options_of(samples("wgs84"), mad_threshold=-1))
    for low, high in ((-5, 100), (0, 101)):  # neither is off
        with pytest.raises(DataError, match="filter percentile: percentiles must be 0 <= low < high <= 100"):
            load(options_of(samples("wgs84"), percentile_low=low, percentile_high=high))
    with pytest.raises(DataError, match="iqr_regions says where --iqr_factor counts"):
        options_of(samples("wgs84"), iqr_regions=["3"])


# --- splits and regions ---


def test_a_run_knows_its_rows(samples):
    options = options_of(samples("wgs84"))
    data = load(options)
    assert data.regions == ["1", "3", "5"]
    names = [set(part["filename"]) for part in (data.train, data.validation, data.test)]
    assert sum(map(len, names)) == len(set.union(*names))
    assert len(data.test) == 30 - 7
    in_table = sum(map(len, names[:2])) + len(data.dropped)
    assert in_table == 120
    assert len(data.validation) == pytest.approx(0.15 * 108, abs=1)


def test_without_a_second_table_rows_are_held_out(samples):
    options = options_of(samples("wgs84"), val_csv=None, val_dir=None)
    data = load(options)
    assert len(data.test) == len(data.validation) == pytest.approx(0.15 * 108, abs=1)
    with pytest.raises(DataError, match="nothing is left to measure on"):
        load(options_of(samples("wgs84"), val_csv=None, val_dir=None, test_share=0))


@pytest.mark.parametrize("name", ["train_dir", "val_csv", "val_dir"])
def test_what_is_named_without_a_table_is_not_left_for_the_sample(tmp_path, name):
    with pytest.raises(DataError, match=f"--{name} goes with --train_csv"):
        load(RegionArguments(**{name: str(tmp_path)}))


def test_photographs_to_measure_on_without_their_table_are_refused(samples):
    with pytest.raises(DataError, match="--val_dir goes with --val_csv"):
        load(options_of(samples("wgs84"), val_csv=None))


def test_blocks_keep_their_distance(samples):
    from geohf.geo import distance_matrix_m

    options = options_of(
        samples("wgs84"), split="blocks", block_size=60, block_buffer=15, val_csv=None, val_dir=None
    )
    data = load(options)
    assert data.buffer > 0
    for held_out in (data.validation, data.test):
        assert distance_matrix_m(points_of(data.train), points_of(held_out)).min() > 15


def with_rows(sample, folder, rows, train=False):
    """A copy of the sample's tables with these rows added to one of them."""
    name = "labels_train.csv" if train else "labels_val.csv"
    shutil.copy(sample / name, folder / name)
    with open(folder / name, "a") as file:
        for filename, region, latitude, longitude in rows:
            file.write(f"{filename},2024-05-01,0,{latitude},{longitude},{region}\n")
    return {"train_csv" if train else "val_csv": str(folder / name)}


@pytest.fixture
def more(tmp_path, samples):
    """`more(count, region, train)`: options whose table has so many rows more, of images beside the others."""
    sample = samples("wgs84")

    def add(count, region, train):
        kind = "train" if train else "val"
        images = tmp_path / kind
        shutil.copytree(sample / f"images_{kind}/images_{kind}", images)
        rows = []
        for i in range(count):
            Image.new("RGB", (8, 8)).save(images / f"more{i}.jpg")
            rows.append((f"more{i}.jpg", region, 36.3665 + i * 1e-5, 127.3672 + i * 1e-5))
        tables = with_rows(sample, tmp_path, rows, train)
        return options_of(sample, **tables, **{f"{kind}_dir": str(images)})

    return add


def test_a_region_that_training_never_saw_is_named(more):
    options = more(1, "9", train=False)
    with pytest.raises(DataError, match=r"labels_val\.csv, row 32: no training row is of region '9'"):
        load(options)
    options.on_error = "skip"
    data = load(options)
    assert [row["reason"] for row in data.skipped] == ["no training row is of region '9'"]
    assert len(data.test) == 23


def test_a_photograph_of_both_tables_is_named(samples):
    """What was trained on says nothing about what was not."""
    sample = samples("wgs84")
    options = options_of(sample)
    options.val_csv, options.val_dir = options.train_csv, options.train_dir
    with pytest.raises(DataError, match=r"labels_train\.csv, row 2: '.*' stands in the training table too"):
        load(options)


def test_a_model_that_training_goes_on_from_is_measured_on_all_its_regions(samples, tmp_path):
    sample = samples("wgs84")
    lines = (sample / "labels_train.csv").read_text().splitlines()
    (tmp_path / "three.csv").write_text(
        "\n".join([lines[0], *(line for line in lines if line.endswith(",3"))])
    )
    build_model("shared").save_pretrained(tmp_path / "model")
    options = options_of(
        sample, train_csv=str(tmp_path / "three.csv"), regions=["3"], start_from=str(tmp_path / "model")
    )
    data = load(options)
    assert set(data.train["region"]) == {"3"}
    assert set(data.test["region"]) == {"1", "3", "5"}


def test_a_region_with_one_row_is_left_out_and_listed(more):
    data = load(more(1, "9", train=True))
    assert data.regions == ["1", "3", "5"]
    (row,) = [row for row in data.dropped if row["Region_ID"] == "9"]
    assert row["filter"] == "min_rows"
    assert "fewer than 10 rows (1)" in row["reason"]


def test_a_region_with_one_row_can_be_asked_for(more):
    options = more(1, "9", train=True)
    options.min_rows = 1
    data = load(options)
    assert data.regions == ["1", "3", "5", "9"]
    assert data.train["region"].count("9") == 1
    assert "9" not in data.validation["region"]


def test_regions_can_be_chosen(samples):
    data = load(options_of(samples("wgs84"), regions=["5", "1"]))
    assert data.regions == ["1", "5"]
    for part in (data.train, data.validation, data.test):
        assert set(part["region"]) == {"1", "5"}
    with pytest.raises(DataError, match="no training row is of region 7"):
        load(options_of(samples("wgs84"), regions=["7"]))


def test_a_model_that_training_goes_on_from_must_know_the_regions(samples, tmp_path):
    build_model("shared", regions=2).save_pretrained(tmp_path)
    with pytest.raises(DataError, match="the model has no region '5'"):
        load(options_of(samples("wgs84"), start_from=str(tmp_path)))


@pytest.mark.case("use-B11")
def test_photographs_in_tables_are_compared_by_their_content(samples, tmp_path):
    """Names in Parquet are names alone: 0.jpg of one table is another picture than 0.jpg of the other."""
    options = options_of(samples("wgs84"))
    for part in ("train", "val"):
        rows = pd.read_csv(getattr(options, f"{part}_csv"), dtype=str)
        files = [Path(getattr(options, f"{part}_dir")) / name for name in rows.pop("filename")]
        rows["image"] = [{"bytes": file.read_bytes(), "path": f"{i}.jpg"} for i, file in enumerate(files)]
        rows.to_parquet(tmp_path / f"{part}.parquet")
        setattr(options, f"{part}_csv", str(tmp_path / f"{part}.parquet"))
        setattr(options, f"{part}_dir", None)
    options.exclude = None
    options.on_error = "skip"
    data = load(options)
    assert not any("training table too" in row["reason"] for row in data.skipped)
    assert len(data.test) > 0
    trained = pd.read_parquet(tmp_path / "train.parquet")
    other = trained.assign(image=[image | {"path": "other.jpg"} for image in trained["image"]])
    other.to_parquet(tmp_path / "val.parquet")
    with pytest.raises(DataError, match=r"'other\.jpg' stands in the training table too"):
        load(options)


def test_headings_that_are_no_numbers_are_told_of(samples, tmp_path, caplog):
    folder = samples("wgs84")
    table = pd.read_csv(folder / TRAIN_TABLE, dtype=str).head(4)
    table["angle"] = ["45,5", "N", "", "725,0"]
    for name in ("latitude", "longitude"):
        table[name] = table[name].str.replace(".", ",")
    table.to_csv(tmp_path / "labels.csv", sep=";", index=False)
    rows = load_region_table(tmp_path / "labels.csv", folder / TRAIN_IMAGES)
    assert rows["heading"][0] == 45.5
    assert rows["heading"][3] == 5.0
    assert np.isnan([rows["heading"][1], rows["heading"][2]]).all()
    assert "1 of 4 headings are no numbers" in caplog.text
    assert "first 'N' in row 3" in caplog.text


def test_a_radius_of_places_below_zero_is_refused():
    with pytest.raises(DataError, match="place_radius must be at least 0"):
        place_numbers([[1.0, 2.0]], -1.0)


@pytest.mark.parametrize("cell", [["3"], {"name": "3"}, b"3"])
def test_a_region_that_is_no_name_is_refused(table, tmp_path, cell):
    table()
    rows = [good(), good("b.jpg", region="5")]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame["Region_ID"] = [cell, cell]
    frame.to_parquet(tmp_path / "labels.parquet")
    dataset, reasons = skipped(tmp_path / "labels.parquet")
    assert len(dataset) == 0
    assert all(reason.startswith("region: a name was expected, got ") for reason in reasons.values())
    with pytest.raises(DataError, match="row 0, region: a name was expected"):
        names_of(as_photos([{"image": tmp_path / "a.jpg", "region": cell}]))


@pytest.mark.parametrize("pair", [("3", "03"), ("Orl\u00e9ans", "Orle\u0301ans"), ("Lund", "lund")])
def test_regions_that_are_written_in_two_ways_are_told_of(pair, caplog):
    warn_of_spellings(["1", *pair, "30"], "regions")
    assert f"written differently: {pair[0]!a} and {pair[1]!a}" in caplog.text
    caplog.clear()
    warn_of_spellings(["1", pair[0], "30", "-3"], "regions")
    assert not caplog.text


@pytest.mark.parametrize("streaming", [False, True])
def test_a_name_to_exclude_that_no_row_has_is_told_of(samples, caplog, streaming):
    folder = samples("wgs84")
    kept = load_region_table(folder / TRAIN_TABLE, folder / TRAIN_IMAGES, errors=RowErrors("skip"))[
        "filename"
    ]
    exclude = [str(folder / "exclude.txt"), kept[-1], f"x{kept[-2]}"]
    options = options_of(folder, exclude=exclude[:-1], streaming=streaming, on_error="skip")
    load(options, arguments_of(folder, max_steps=1))
    assert "exclude: no row" not in caplog.text
    options = options_of(folder, exclude=exclude, streaming=streaming, on_error="skip")
    load(options, arguments_of(folder, max_steps=1))
    assert f"no row has the file name x{kept[-2]} (did you mean '{kept[-2]}'?)" in caplog.text


def test_an_empty_heading_leaves_the_word_to_the_angle_beside_it(samples, tmp_path, caplog):
    folder = samples("wgs84")
    table = (
        pd.read_csv(folder / TRAIN_TABLE, dtype=str).head(2).assign(heading=["", "10"], angle=["90", "20"])
    )
    table.to_csv(tmp_path / "labels.csv", index=False)
    assert load_region_table(tmp_path / "labels.csv", folder / TRAIN_IMAGES)["heading"][:] == [90.0, 10.0]
    table = table.drop(columns="angle").rename(columns={"heading": "heading_rad"})
    table.to_csv(tmp_path / "labels.csv", index=False)
    rows = load_region_table(tmp_path / "labels.csv", folder / TRAIN_IMAGES)
    assert np.isnan(rows["heading"][:]).all()
    assert "the column heading_rad is not read" in caplog.text


def test_a_folder_given_as_the_table_is_told_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"a folder, where a table is asked for: name the table"):
        load_region_table(tmp_path)


def test_data_of_the_other_tasks_is_train_csv_here():
    with pytest.raises(DataError, match=r"'--data' \(did you mean 'train_csv' or 'train_dir'\?\)"):
        make_parser().parse(["--data", "photos"])
