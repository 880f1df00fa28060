"""Reading tables: what is wrong is named with its file and line, and nothing is silently changed."""

import logging
import os

import numpy as np
import pandas as pd
import pytest

from geohf.data.cells import file_in, resolve_inside
from geohf.data.tables import RowErrors, find_column, heading_cells, line_of, read_table, require_columns
from geohf.errors import DataError, warn_once


@pytest.fixture
def csv(tmp_path):
    def write(content, name="places.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def refusal(path, **options):
    with pytest.raises(DataError) as caught:
        read_table(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


# Files that are no table


def test_a_missing_file_is_named(tmp_path):
    assert "no such file" in refusal(tmp_path / "absent.csv")
    assert "a folder, where a table is asked for" in refusal(tmp_path)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_refused(csv, content):
    assert "empty" in refusal(csv(content))


@pytest.mark.parametrize("content", ["image,latitude\n", "image,latitude\n\n\n"])
def test_a_header_without_rows_is_refused(csv, content):
    assert "no rows" in refusal(csv(content))


@pytest.mark.parametrize(
    "content",
    [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b'a,b\n1,"unclosed\n3,4\n', b"a,b\n1,2\n3,4,5\n"],
    ids=["binary", "open quote", "longer row"],
)
def test_what_cannot_be_parsed_is_refused(csv, content):
    assert "cannot be read as a table" in refusal(csv(content))


def test_broken_parquet_is_refused(csv):
    assert "cannot be read as a table" in refusal(csv(b"PAR1 but no more", "places.parquet"))


def test_rows_longer_than_the_header_do_not_shift_the_columns(csv):
    assert "more cells than the header" in refusal(csv("latitude,longitude\nZurich,47,8\nBern,46,7\n"))


def test_a_column_named_twice_is_refused(csv):
    assert "'a' twice" in refusal(csv("a ,a\n1,2\n"))


# Columns


def test_a_missing_column_comes_with_the_nearest_name(csv):
    message = refusal(csv("image,latitud\na.jpg,1\n"), required=["image", "latitude"])
    assert "'latitude' is missing (did you mean 'latitud'?)" in message
    assert "image, latitud" in message


def test_a_missing_column_without_a_near_name_comes_without_a_suggestion():
    with pytest.raises(DataError) as caught:
        require_columns(["x"], ["latitude"], "a.csv")
    assert "did you mean" not in str(caught.value)


@pytest.mark.case("use-O5")
def test_spaces_and_a_byte_order_mark_do_not_belong_to_column_names(csv):
    table = read_table(csv("\ufeffimage , latitude,longitude \na.jpg, 47.5,8\n"), numbers=["latitude"])
    assert list(table.columns) == ["image", "latitude", "longitude"]
    assert table["latitude"].tolist() == [47.5]


# Cells


def test_text_that_looks_like_nothing_stays_text(csv):
    table = read_table(csv("state,note\nNA,null\nNone,nan\n"))
    assert table["state"].tolist() == ["NA", "None"]
    assert table["note"].tolist() == ["null", "nan"]


def test_numbers_that_are_names_keep_their_zeros(csv):
    assert read_table(csv("id\n007\n"))["id"].tolist() == ["007"]


def test_coordinates_written_as_integers_are_float64(csv):
    table = read_table(csv("latitude,longitude\n47,8\n-1,180\n"), numbers=["latitude", "longitude"])
    assert table["latitude"].dtype == table["longitude"].dtype == np.float64
    assert table["longitude"].tolist() == [8.0, 180.0]


def test_an_empty_number_is_nan_and_not_an_error(csv):
    table = read_table(csv("latitude,heading\n47,\n48,90\n"), numbers=["heading"])
    assert np.isnan(table["heading"].iloc[0])
    assert table["heading"].iloc[1] == 90


@pytest.mark.parametrize("cell", ["north", '"47,5"', "1_000", "0x10", "True", "inf", "-inf", "1e400"])
def test_a_cell_that_is_no_finite_number_is_named_with_its_line(csv, cell):
    path = csv(f"image,latitude\na.jpg,1\nb.jpg,{cell}\nc.jpg,3\n")
    message = refusal(path, numbers=["latitude"])
    assert f"{path}, row 3: latitude is" in message
    assert cell.strip('"') in message


def test_lines_are_counted_through_blank_lines(csv):
    path = csv("latitude\n1\n\n\nx\n")
    assert f"{path}, row 5" in refusal(path, numbers=["latitude"])
    table = read_table(csv("latitude,b\n1,2\n\n3,4\n\n\n"), numbers=["latitude"])
    assert len(table) == 3  # the blank line in between is a row without values, those at the end are none
    assert np.isnan(table["latitude"].iloc[1])
    assert line_of(table, 2) == 4


def test_a_short_row_has_empty_text(csv):
    assert read_table(csv("a,b\n1\n2,3\n"))["b"].tolist() == ["", "3"]


def test_parquet_gives_the_same_numbers_as_csv(csv, tmp_path):
    rows = {"image": ["a.jpg", "b.jpg"], "latitude": [47, -33], "heading": [None, 90.5]}
    pd.DataFrame(rows).to_parquet(tmp_path / "places.parquet")
    numbers = ["latitude", "heading"]
    from_csv = read_table(csv("image,latitude,heading\na.jpg,47,\nb.jpg,-33,90.5\n"), numbers=numbers)
    from_parquet = read_table(tmp_path / "places.parquet", ["image"], numbers)
    pd.testing.assert_frame_equal(from_csv, from_parquet, check_dtype=False)
    assert from_parquet["latitude"].dtype == np.float64


def test_text_in_a_parquet_number_column_is_named(tmp_path):
    path = tmp_path / "places.parquet"
    pd.DataFrame({"latitude": ["47", None, "north"]}).to_parquet(path)
    assert f"{path}, row 4: latitude is 'north'" in refusal(path, numbers=["latitude"])


# Paths


def test_paths_inside_a_folder_resolve(tmp_path):
    assert resolve_inside(tmp_path, "sub/a.jpg") == tmp_path / "sub" / "a.jpg"
    assert resolve_inside(tmp_path, "sub/../a.jpg").resolve() == (tmp_path / "a.jpg").resolve()
    assert resolve_inside(tmp_path, "..a.jpg") == tmp_path / "..a.jpg"


@pytest.mark.case("use-U1", "use-U3")
@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../a.jpg",
        "sub/../../a.jpg",
        "..\\a.jpg",
        "sub\\..\\..\\a.jpg",
        "..",
        "link/../../a.jpg",
    ],
)
def test_paths_out_of_a_folder_are_refused(tmp_path, name):
    inside = tmp_path / "images"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="leads out of the folder"):
        resolve_inside(inside, name)


@pytest.mark.case("use-U3")
def test_an_absolute_path_may_lie_in_the_folder(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    name = str(tmp_path / "photos" / "sub" / "a.jpg")
    assert resolve_inside(tmp_path / "photos", name) == tmp_path / "photos" / "sub" / "a.jpg"
    assert resolve_inside(tmp_path / "link", name) == tmp_path / "link" / "sub" / "a.jpg"
    monkeypatch.chdir(tmp_path)
    assert str(resolve_inside("photos", name)) == "photos/sub/a.jpg"
    with pytest.raises(DataError, match="leads out"):  # a folder beside it that begins alike
        resolve_inside(tmp_path / "photo", name)


def test_the_folder_itself_may_be_a_link_and_links_within_it_may_be_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.symlink(tmp_path / "real" / "b.jpg", tmp_path / "real" / "a.jpg")
    assert resolve_inside(tmp_path / "link", "a.jpg").name == "a.jpg"


@pytest.mark.parametrize(("name", "reason"), [("", "empty"), ("a\0.jpg", "NUL")])
def test_impossible_names_are_refused(tmp_path, name, reason):
    with pytest.raises(DataError, match=reason):
        resolve_inside(tmp_path, name)


# Bad rows


def test_bad_rows_stop_a_run_by_default_and_the_message_shows_how_to_leave_them_out():
    errors = RowErrors()
    errors.settle(kept=0)  # nothing is wrong, also with nothing kept
    for row in range(2, 9):
        errors.add("a.csv", row, "no image")
    with pytest.raises(DataError) as caught:
        errors.settle(kept=100)
    message = str(caught.value)
    assert "7 rows cannot be used (--on_error skip" in message
    assert "a.csv, row 2: no image" in message
    assert "a.csv, row 6: no image" in message
    assert "row 7" not in message
    assert "and 2 more" in message


def test_a_row_with_two_faults_is_one_row():
    errors = RowErrors()
    errors.add("t.csv", 2, "latitude 140 is beyond the poles")
    errors.add("t.csv", 2, "a.jpg is missing")
    with pytest.raises(DataError, match=r"(?s)^1 row cannot be used.*poles.*missing"):
        errors.settle(0)


def test_skipped_rows_are_counted_and_listed(caplog):
    errors = RowErrors("skip")
    errors.add("a.csv", 3, "no image")
    with caplog.at_level(logging.WARNING, "geohf"):
        errors.settle(kept=1)
    assert "left out 1 row:" in caplog.text
    assert "a.csv, row 3: no image" in caplog.text
    assert errors.rows == [{"source": "a.csv", "row": 3, "reason": "no image"}]


def test_skipping_every_row_is_an_error():
    errors = RowErrors("skip")
    errors.add("a.csv", 2, "no image")
    with pytest.raises(DataError, match="no row is left"):
        errors.settle(kept=0)


def test_there_is_no_third_way_with_bad_rows():
    with pytest.raises(ValueError, match="on_error must be"):
        RowErrors("ignore")


@pytest.mark.case("real-size")
@pytest.mark.parametrize(
    "name",
    [
        "a.jpg",
        "train/0 1/a-b_c.JPG",
        "a b/..c.jpg",
        "./a.jpg",
        "a//b.jpg",
        "-x/1.2.3.png",
        "a/./b.jpg",
        "é.jpg",
    ],
)
def test_a_plain_name_is_joined_as_any_other_is(tmp_path, name):
    for folder in (tmp_path, f"{tmp_path}/", "some/folder", "./here"):
        assert file_in(folder, name) == str(resolve_inside(folder, name))


@pytest.mark.parametrize("ending", ["gz", "xz", "bz2", "zip"])
@pytest.mark.parametrize("damage", ["none of its kind", "cut off"])
def test_a_compressed_table_that_is_damaged_is_named(tmp_path, ending, damage):
    path = tmp_path / f"table.csv.{ending}"
    rows = pd.DataFrame({"image": [f"{i * 7919 % 10007}.jpg" for i in range(500)], "latitude": range(500)})
    rows.to_csv(path, index=False)
    path.write_bytes(
        b"image,latitude\na.jpg,1\n" if damage == "none of its kind" else path.read_bytes()[:-600]
    )
    with pytest.raises(DataError, match=rf"table\.csv\.{ending}: cannot be read as a table"):
        read_table(path)


def test_of_columns_that_differ_in_case_the_one_asked_for_counts():
    assert find_column(["Image", "image"], ["image"]) == find_column(["image", "Image"], ["image"]) == "image"
    with pytest.raises(
        DataError, match=r"t\.csv: the columns 'Lat' and 'LAT' differ in case alone: rename one"
    ):
        find_column(["Lat", "LAT", "lon"], ["latitude", "lat"], "t.csv")
    assert find_column(["Lat", "LAT", "latitude"], ["latitude", "lat"]) == "latitude"


@pytest.mark.parametrize(
    ("headings", "told"),
    [
        (["-3.0", "0.5", "", "2.9", "1.1", "-0.4"], True),
        (["0.1", "6.2", "3.3", "2.2", "5.1"], True),
        (["0.1", "6.2"], False),  # too few to tell
        (["-3", "0", "3"], False),  # whole degrees
        (["1.5", "3.9"], False),  # a straight street
        (["0.1", "359.9"], False),
        (["north", "0.1"], False),
        ([*["0.1", "6.2"] * 600, "90"], False),
    ],
)
def test_headings_that_look_like_radians_get_a_word_once(headings, told, caplog):
    source = f"{headings[:2]}.csv"
    for part in ("first chunk", "second"):
        assert heading_cells(pd.DataFrame({"heading": headings}), source) == headings, part
    assert caplog.text.count("they look like radians") == told


def test_a_column_of_splits_that_is_not_read_gets_a_word(csv, caplog):
    warn_once.cache_clear()
    read_table(csv("image,split\na.jpg,train\nb.jpg,Val\nc.jpg,\n"))
    assert "its column 'split' is not read: rows of all splits count alike" in caplog.text
    caplog.clear()
    read_table(csv("image,split,set\na.jpg,left,2\nb.jpg,train,3\n"))  # of something else
    read_table(csv("image,split\na.jpg,val\nb.jpg,Validation\n"))  # of one split, as it should be
    assert not caplog.records


def test_a_column_called_set_may_hold_lists(tmp_path):
    (tmp_path / "rows.jsonl").write_text(
        '{"image": "a.jpg", "set": [1, 2]}\n{"image": "b.jpg", "set": {"a": 1}}\n'
    )
    assert read_table(tmp_path / "rows.jsonl")["set"].tolist() == [[1, 2], {"a": 1}]
