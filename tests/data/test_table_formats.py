"""Tables as people have them: out of Excel, pandas, exiftool, datasets; read whole and in chunks alike."""

import json
import os
import unicodedata

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value

from geohf.data.cells import resolve_inside
from geohf.data.inputs import find_images
from geohf.data.streaming import StreamedTable
from geohf.data.tables import (
    FILE_COLUMNS,
    LATITUDE_COLUMNS,
    LONGITUDE_COLUMNS,
    clean_table,
    find_column,
    read_table,
    read_table_in_chunks,
)
from geohf.errors import DataError
from geohf.geo.angles import degrees_of

NUMBERS = (*LATITUDE_COLUMNS, *LONGITUDE_COLUMNS)


def both(path, numbers=NUMBERS, rows=2):
    """A table read whole, after the chunks of it were found to be the same, their lines too."""
    whole = read_table(path, numbers=numbers)
    chunks = [clean_table(chunk, path, numbers=numbers) for chunk in read_table_in_chunks(path, rows)]
    assert all(len(chunk) <= rows + 1 for chunk in chunks)
    together = pd.concat([chunk for chunk in chunks if len(chunk)])
    pd.testing.assert_frame_equal(whole, together, check_dtype=False, check_index_type=False)
    return whole


def refusals(path, numbers=NUMBERS):
    """The message of a table read whole, after that of its chunks was found to be the same."""
    with pytest.raises(DataError) as whole:
        read_table(path, numbers=numbers)
    with pytest.raises(DataError) as parts:
        [clean_table(chunk, path, numbers=numbers) for chunk in read_table_in_chunks(path, 2)]
    assert str(whole.value) == str(parts.value)
    return str(whole.value)


def places(table):
    axes = [find_column(table.columns, names, "t") for names in (LATITUDE_COLUMNS, LONGITUDE_COLUMNS)]
    return table[axes].to_numpy().tolist()


# Excel


@pytest.mark.case("use-U6")
@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("image;lat;lon\na.jpg;48,85;2,35\nb.jpg;-33,5;151\n", "utf-8"),
        ("image;lat;lon\r\na.jpg;48.85;2.35\r\nb.jpg;-33.5;151\r\n", "utf-8-sig"),
        ("sep=;\nimage;lat;lon\na.jpg;48,85;2,35\nb.jpg;-33,5;151\n", "utf-8"),
        ("sep=,\nimage,lat,lon\na.jpg,48.85,2.35\nb.jpg,-33.5,151\n", "utf-8"),
        ("image\tlat\tlon\na.jpg\t48,85\t2,35\nb.jpg\t-33,5\t151\n", "utf-16"),
        ("image\tlat\tlon\r\na.jpg\t48.85\t2.35\r\nb.jpg\t-33.5\t151\r\n", "utf-16-le"),
        ('image;lat;lon\na.jpg;"48,85";"2,35"\nb.jpg;"-33,5";151\n', "utf-8"),
        ("image|lat|lon\na.jpg|48.85|2.35\nb.jpg|-33.5|151\n", "utf-8"),
    ],
)
def test_what_excel_writes_is_read(tmp_path, content, encoding):
    path = tmp_path / "places.csv"
    path.write_bytes(content.encode(encoding))
    table = both(path)
    assert table["image"].tolist() == ["a.jpg", "b.jpg"]
    assert places(table) == [[48.85, 2.35], [-33.5, 151.0]]


@pytest.mark.case("use-U6")
def test_a_comma_stays_the_separator_where_it_cuts_the_rows(tmp_path):
    path = tmp_path / "places.csv"
    path.write_text("image,lat,lon,a;b\na.jpg,48.85,2.35,x;y\nb.jpg,1,2,z\n")
    assert both(path)["a;b"].tolist() == ["x;y", "z"]
    path.write_text("image;lat;lon;note, short\na.jpg;48,85;2,35;x\n")
    assert both(path)["note, short"].tolist() == ["x"]


@pytest.mark.case("use-U6")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("image;lat;lon\na.jpg;1.234,5;2\n", "row 2: lat is '1.234,5', which is not a number"),
        ("sep=;\nimage;lat;lon\na.jpg;x;2\n", "row 3: lat is 'x'"),
        ("image,lat,lon\né.jpg,1,2\n".encode("cp1252"), "no UTF-8 text .*0xe9.*save it as 'CSV UTF-8'"),
        ("image,lat,lon\nZurich,x.jpg,1,2\n", "more cells than the header"),
    ],
)
def test_what_cannot_be_read_says_what_it_looks_like(tmp_path, content, said):
    path = tmp_path / "places.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=said):
        raise DataError(refusals(path))


# Lines


@pytest.mark.case("use-S21")
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_are_those_of_the_file_behind_cells_of_several(tmp_path, end):
    path = tmp_path / "places.csv"
    notes = [f'{i}.jpg,{i},{i},"one{end}two"' for i in range(5)]
    path.write_bytes(end.join(["image,lat,lon,note", *notes, "x.jpg,north,1,", ""]).encode())
    assert "row 12: lat is 'north'" in refusals(path)
    path.write_bytes(end.join(['image,lat,lon,"a', 'note"', *notes, "", "x.jpg,1,1,", ""]).encode())
    assert both(path).index.tolist() == [3, 5, 7, 9, 11, 13, 14]


@pytest.mark.case("use-S21")
def test_a_stream_names_the_line_of_a_row_of_another_chunk(tmp_path):
    path = tmp_path / "places.csv"
    rows = [f'{i}.jpg,1,1,"one\ntwo"' for i in range(600)]
    path.write_text("\n".join(["image,lat,lon,note", *rows, "x.jpg,north,1,"]))

    with pytest.raises(DataError, match="row 1202: lat is 'north'"):
        list(StreamedTable(path, _names, Features({"image": Value("string")}), NUMBERS).stream())


def _names(table, source, errors):
    return {"image": table["image"].tolist()}


def test_blank_rows_between_two_chunks_are_rows_as_they_are_in_the_whole_table(tmp_path):
    path = tmp_path / "places.csv"
    path.write_text("image,lat,lon\na.jpg,1,1\n,,\n\nb.jpg,1,1\n\n\n")
    assert both(path).index.tolist() == [2, 3, 4, 5]


# pandas


@pytest.mark.case("use-U2")
@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.sample(frac=1, random_state=0),
        lambda frame: frame.assign(lat=[1.0, np.nan, 3.0, 4.0, 5.0]).dropna(),
        lambda frame: frame.set_index("filename"),
        lambda frame: frame.set_index(["filename", "lon"]),
        lambda frame: frame.set_axis([f"r{i}" for i in range(5)]),
        lambda frame: frame.groupby("filename").first(),
    ],
    ids=["sample", "dropna", "named", "two levels", "text without a name", "groupby"],
)
def test_what_pandas_writes_as_an_index_is_a_column_or_nothing(tmp_path, change):
    frame = pd.DataFrame({"filename": list("abcde"), "lat": np.arange(5.0), "lon": np.arange(5.0) + 9})
    changed, path = change(frame), tmp_path / "places.parquet"
    changed.to_parquet(path)
    table = both(path)
    assert sorted(table.columns) == ["filename", "lat", "lon"]
    assert table.index.tolist() == list(range(2, len(changed) + 2))
    expected = changed.reset_index() if None not in changed.index.names else changed
    assert table["filename"].tolist() == expected["filename"].tolist()
    assert table["lat"].tolist() == expected["lat"].tolist()


# Names of files


@pytest.mark.case("use-U1")
def test_links_inside_a_folder_are_names_in_it(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "rev"
    for folder in (blobs, snapshot):
        folder.mkdir(parents=True)
    (blobs / "sha").write_bytes(b"x")
    (snapshot / "a.jpg").symlink_to("../../blobs/sha")
    (snapshot / "photos").symlink_to(blobs)
    assert resolve_inside(snapshot, "a.jpg").read_bytes() == b"x"
    assert resolve_inside(snapshot, "photos/sha").read_bytes() == b"x"
    assert str(resolve_inside(snapshot, "photos/../a.jpg")) == str(
        snapshot / "a.jpg"
    )  # not that of blobs' folder


@pytest.mark.case("use-U4", "use-U10")
@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("named", ["NFC", "NFD"])
@pytest.mark.parametrize("separator", ["/", "\\"])
def test_a_name_finds_its_file_in_the_other_form(tmp_path, on_disk, named, separator):
    (tmp_path / "fotos").mkdir()
    file = tmp_path / "fotos" / unicodedata.normalize(on_disk, "Zürich ä.jpg")
    file.write_bytes(b"x")
    found = resolve_inside(tmp_path, f"fotos{separator}{unicodedata.normalize(named, 'Zürich ä.jpg')}")
    assert found == file


# Tables of tools


@pytest.mark.case("use-M1", "use-M2", "use-M3")
@pytest.mark.parametrize(
    ("content", "point"),
    [
        ("SourceFile,GPSLatitude,GPSLongitude\n./a.jpg,48.86,-2.35\n", (48.86, -2.35)),
        ("IMG_ID,AUTHOR,LAT,LON\na.jpg,x,48.86,-2.35\n", (48.86, -2.35)),
        ("IMG_FILE,LAT,LON\na.jpg,48.86,-2.35\n", (48.86, -2.35)),
        ("image_path,Latitude,Longitude\na.jpg,48.86,-2.35\n", (48.86, -2.35)),
        (
            'SourceFile,GPSLatitude,GPSLongitude\na.jpg,"48 deg 51\' 36.00"" N","2 deg 21\' 0.00"" W"\n',
            (48.86, -2.35),
        ),
        (
            "SourceFile,GPSLatitude,GPSLatitudeRef,GPSLongitude,GPSLongitudeRef\n"
            'a.jpg,"33 deg 51\' 36.00""",South,"151 deg 12\' 0""",East\n',
            (-33.86, 151.2),
        ),
        (
            "SourceFile,GPSLatitude,GPSLatitudeRef,GPSLongitude,GPSLongitudeRef\na.jpg,33.86,S,151.2,E\n",
            (-33.86, 151.2),
        ),
        (
            "SourceFile,GPSLatitude,GPSLatitudeRef,GPSLongitude,GPSLongitudeRef\n"
            'a.jpg,"33 deg 51\' 36.00"" S",South,"151 deg 12\' 0.00"" E",East\n',
            (-33.86, 151.2),
        ),
        (
            "file,gps_latitude,gps_latitude_ref,gps_longitude,gps_longitude_ref\na.jpg,33.86,S,2.35,W\n",
            (-33.86, -2.35),
        ),
        ("file,lat,lat_dir,lng,lng_dir\na.jpg,33 51 36,S,151 12 0,E\n", (-33.86, 151.2)),
        ("file,GPSLatitude,GPS Latitude Ref,lon,longitude_ref\na.jpg,33.86,S,151.2,E\n", (-33.86, 151.2)),
        ("file,latitude,GPSLatitudeRef,lon\na.jpg,33.86,,151.2\n", (33.86, 151.2)),
        ("file,lat,lon\na.jpg,33 51 36 S,151d12m00s E\n", (-33.86, 151.2)),
        ("file;lat;lon\na.jpg;33,86 S;151,2°E\n", (-33.86, 151.2)),
    ],
)
def test_tables_of_known_tools_are_read(tmp_path, content, point):
    path = tmp_path / "places.csv"
    path.write_text(content)
    table = both(path)
    assert places(table)[0] == pytest.approx(point)
    assert table[find_column(table.columns, FILE_COLUMNS, path)].iloc[0].endswith("a.jpg")


@pytest.mark.case("use-M1")
@pytest.mark.parametrize(
    "cell",
    [
        "48 deg 51' 24\"",
        "2 deg 21' E",
        "48 deg 71' N",
        "-48 N",
        "N 48 S",
        "48 51",
        "+33 51 36 S",
        "33D51M36S",
        "33.86 18.42 S",  # a latitude and a longitude
        "48.5 0 30 N",
        "48 51.5 24 N",
    ],
)
def test_an_angle_of_unknown_side_or_axis_is_none(cell):
    assert degrees_of(cell, "NS") is None


def test_both_coordinates_in_one_cell_are_no_latitude_in_degrees_and_minutes(tmp_path):
    path = tmp_path / "places.csv"
    path.write_text("filename,lat,lon\na.jpg,-33.86 18.42,18.42\n")
    assert "row 2: lat is '-33.86 18.42'" in refusals(path)


@pytest.mark.case("use-M1")
@pytest.mark.parametrize("cells", ['"33 deg 51\' 36"" S",N', "-33.86,N", "33.86,", "33.86,E"])
def test_a_side_that_contradicts_its_angle_or_is_lacking_is_refused(tmp_path, cells):
    path = tmp_path / "places.csv"
    path.write_text(f"SourceFile,GPSLatitude,GPSLatitudeRef,GPSLongitude\na.jpg,{cells},2\n")
    assert "row 2: GPSLatitude is" in refusals(path)
    frame = pd.DataFrame({"lat": [33.86], "lat_ref": [None], "lon": [151.2]})  # None is no north
    frame.to_parquet(tmp_path / "places.parquet")
    assert "row 2: lat is" in refusals(tmp_path / "places.parquet")


@pytest.mark.case("use-M1")
def test_empty_cells_beside_a_reference_are_unknown(tmp_path):
    path = tmp_path / "places.csv"
    path.write_text("SourceFile,GPSLatitude,GPSLatitudeRef,GPSLongitude\na.jpg,1.5,N,2\nb.jpg,,,\n")
    assert np.isnan(both(path)["GPSLatitude"].iloc[1])


# Folders and datasets


@pytest.mark.case("use-M4")
def test_json_lines_are_a_table(tmp_path):
    path = tmp_path / "metadata.jsonl"
    rows = [{"file_name": "a.jpg", "lat": 1.5, "lon": 2}, {"file_name": "b.jpg", "lat": None, "lon": 3}]
    path.write_text("\n\n".join(map(json.dumps, rows)))
    table = both(path, rows=1)
    assert table.index.tolist() == [1, 3]
    path.with_suffix(".ndjson").write_text(path.read_text())
    pd.testing.assert_frame_equal(both(path.with_suffix(".ndjson"), rows=1), table)
    assert table["lat"].tolist() == pytest.approx([1.5, np.nan], nan_ok=True)
    path.write_text(json.dumps(rows[0]) + '\n{"file_name": "b.jpg"')
    assert "row 2: is no JSON" in refusals(path)
    path.write_text('{"lat": 1, "lon": 2}\n{"lat": 1, "lon": 2, "lat": -1}')
    assert "row 2: is no JSON (it names 'lat' twice)" in refusals(path)
    path.write_text('{"lat": 1, "lon": 2}\n{"lat": "x", "lon": 2}\n')
    assert "row 2: lat is 'x'" in refusals(path)


@pytest.fixture
def photo(tmp_path):
    from PIL import Image as Picture

    folder = tmp_path / "photos"
    folder.mkdir()
    Picture.new("RGB", (8, 6), "red").save(folder / "a.png")
    return folder / "a.png"


@pytest.mark.case("use-M4")
@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet", "train/metadata.csv"])
def test_a_folder_stands_for_its_metadata(tmp_path, name):
    frame = pd.DataFrame({"file_name": ["a.jpg"], "lat": [1.5], "lon": [2.5]})
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    if name.endswith("csv"):
        frame.to_csv(file, index=False)
    elif name.endswith("jsonl"):
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_parquet(file)
    assert places(read_table(tmp_path, numbers=NUMBERS)) == [[1.5, 2.5]]


@pytest.mark.case("use-M5")
def test_a_saved_dataset_is_a_table_a_stream_and_an_input(tmp_path, photo, caplog):
    columns = {"image": [str(photo)] * 5, "lat": np.arange(5.0), "lon": np.arange(5.0) + 1}
    dataset = Dataset.from_dict(
        columns, Features({"image": Image(), "lat": Value("float64"), "lon": Value("float64")})
    )
    for name, saved in (("one", dataset), ("many", DatasetDict(train=dataset, test=dataset.select([0])))):
        folder = tmp_path / name
        saved.save_to_disk(folder)
        os.rename(photo, photo.with_suffix(".moved"))  # the bytes are in the folder
        table = both(folder)
        assert places(table) == [[i, i + 1] for i in range(5)]
        assert table["image"].iloc[0]["bytes"]
        streamed = list(StreamedTable(folder, _points, Features({"lat": Value("float64")}), NUMBERS).stream())
        assert [row["lat"] for row in streamed] == list(range(5))
        assert find_images([folder]).count == (5 if name == "one" else 6)
        os.rename(photo.with_suffix(".moved"), photo)
    words = [record.getMessage() for record in caplog.records if "of its splits" in record.getMessage()]
    assert words == [f"{tmp_path / 'many'}: of its splits train alone is read here, and not test"]
    DatasetDict(a=dataset, b=dataset).save_to_disk(tmp_path / "no")
    with pytest.raises(DataError, match="name the folder of one: a, b"):
        read_table(tmp_path / "no")


def _points(table, source, errors):
    return {"lat": table["lat"].tolist()}
