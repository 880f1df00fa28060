"""Times and names of drives: which unit a time has, which drive a table is, and the order of a drive's pictures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from datasets import concatenate_datasets
from helpers.place_models import along, write_csv, write_pictures
from PIL import Image
from PIL.ExifTags import IFD
from PIL.TiffImagePlugin import IFDRational

from geohf.data.tables import points_of
from geohf.place.arguments import PlaceArguments
from geohf.place.audit import audit
from geohf.place.data import load
from geohf.place.drives import files_of, load_drives, names_of_sources
from geohf.place.metrics import stretches
from geohf.place.streaming import stream_drives

NAMES = [f"{i}.png" for i in range(6)]
MONDAY, DAYS_20 = 1641321200, 20 * 86400  # seconds
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@pytest.fixture
def folder(tmp_path):
    for drive in ("day", "night"):
        write_pictures(tmp_path / drive, NAMES)
    return tmp_path


def drive(folder, name, times=None, column="t_nsec", table="images.csv"):
    """A table of six pictures, 10 m apart."""
    times = [""] * 6 if times is None else times
    rows = [
        f"{n},{p[0]:.8f},{p[1]:.8f},{t}"
        for n, p, t in zip(NAMES, along(10 * np.arange(6)), times, strict=True)
    ]
    return str(write_csv(folder / name / table, f"image,lat,lon,{column}", *rows))


def loaded(train, test):
    """Both parts, one after the other; nobody has looked for leaks yet."""
    data = load(PlaceArguments(train_csv=train, test_csv=test, audit="off"))
    return concatenate_datasets([data.train, data.test])


def leaks(images):
    rows, sequences = np.arange(len(images)), np.array(images["sequence"][:])
    found = audit(
        files_of(images), points_of(images), sequences, images["time_ns"][:], rows[:0], rows[:6], rows[6:]
    )
    return {finding.kind: finding.queries for finding in found}


@pytest.mark.case("files-A15")
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("column", ["t_nsec", "Timestamp"])
def test_times_in_any_unit_tell_two_days_apart(folder, unit, column):
    times = [[(start + i) * UNITS[unit] for i in range(6)] for start in (MONDAY, MONDAY + DAYS_20)]
    tables = [drive(folder, name, part, column) for name, part in zip(("day", "night"), times, strict=True)]
    data = loaded(tables[:1], tables[1:])
    assert data["time_ns"][:] == [
        (start + i) * 10**9 for start in (MONDAY, MONDAY + DAYS_20) for i in range(6)
    ]
    assert "same_drive" not in leaks(data)
    same = drive(folder, "night", times[0], column)
    data = loaded(tables[:1], [same])
    assert leaks(data)["same_drive"] == 6


@pytest.mark.case("files-A15")
def test_one_table_in_seconds_and_one_in_nanoseconds(folder):
    day = drive(folder, "day", [(MONDAY + i) * 10**9 for i in range(6)])
    night = drive(folder, "night", [MONDAY + i for i in range(6)])
    data = loaded(day, night)
    assert leaks(data)["same_drive"] == 6


@pytest.mark.case("files-A15")
def test_two_tables_of_one_name_are_two_drives(folder, monkeypatch):
    tables = [drive(folder, name) for name in ("day", "night")]
    data = loaded(tables[:1], tables[1:])
    assert data["sequence"][:] == ["day/images"] * 6 + ["night/images"] * 6
    assert "same_drive" not in leaks(data)
    streamed = [row["sequence"] for row in stream_drives(tables)]
    assert streamed == load_drives(tables)[0]["sequence"][:] == data["sequence"][:]
    assert [row["sequence"] for row in stream_drives(folder)] == streamed
    monkeypatch.chdir(folder)  # and one table under two spellings is one
    data = loaded(["day/images.csv"], tables[:1])
    assert set(data["sequence"]) == {"images"}


@pytest.mark.case("files-A15")
def test_names_of_sources(tmp_path):
    folders = [tmp_path / "a.1", tmp_path / "a.2"]
    for folder in folders:
        folder.mkdir()
    poses = [tmp_path / top / "noon" / "poses.csv" for top in ("x", "y")]
    assert names_of_sources(folders) == ["a.1", "a.2"]
    assert names_of_sources([*poses, "z/dusk/poses.csv"]) == ["x/noon", "y/noon", "dusk"]
    both = [tmp_path / "t.csv", tmp_path / "t.parquet"]
    assert names_of_sources(both) == list(map(str, both))


@pytest.mark.case("files-C11")
def test_a_time_that_cannot_be_read_is_left_out_and_its_row_kept(folder, caplog):
    times = ["noon", f"{MONDAY}.25", "2022-01-04T18:33:20Z", "", "7", f"{MONDAY}"]
    table = drive(folder, "day", times)
    images, skipped = load_drives(table)
    at = MONDAY * 10**9
    assert images["time_ns"][:] == [None, at + 250_000_000, at, None, None, at]
    assert skipped.rows == []
    assert f"{table}: 2 of 6 times in the column t_nsec cannot be read and are left out" in caplog.text
    assert "row 2: 'noon' is no time" in caplog.text
    caplog.clear()
    assert [row["time_ns"] for row in stream_drives(table)] == images["time_ns"][:]
    assert "2 of 6 times" in caplog.text


@pytest.mark.case("files-C11")
@pytest.mark.parametrize(
    ("times", "second"),
    [
        ([1641321200080306003.0, None, None], 1641321200080306000),
        ([MONDAY + 0.5, np.nan, np.nan], MONDAY * 10**9 + 500_000_000),
        (pd.to_datetime([1641321200080306003, None, None]), 1641321200080306003),
        (pd.array([1641321200080306003, None, None], dtype="Int64"), 1641321200080306003),
        (["2022-01-04 18:33:20", None, ""], MONDAY * 10**9),
    ],
)
def test_times_with_holes_in_parquet(folder, caplog, times, second):
    points = along([0, 10, 20])
    frame = pd.DataFrame({"image": NAMES[:3], "lat": points[:, 0], "lon": points[:, 1], "t_nsec": times})
    path = folder / "day" / "images.parquet"
    frame.to_parquet(path)
    found = load_drives(path)[0]["time_ns"][:]
    assert found[1:] == [None, None]
    assert abs(found[0] - second) <= 128  # as float64 has it
    assert caplog.text == ""


@pytest.mark.case("files-A20")
def test_stretches_go_by_time_where_it_is_known():
    meters = 24 * np.arange(125)  # a straight drive of 3 km
    shuffled = np.random.default_rng(0).permutation(125)
    times = [(MONDAY + i) * 10**9 for i in shuffled.tolist()]
    names = stretches(along(meters[shuffled]), ["a"] * 125, times)
    assert len(set(names)) == 12
    assert names.tolist() == [f"a {m // 250}" for m in meters[shuffled]]
    # without all of them as the rows stand: in order here
    assert len(set(stretches(along(meters), ["a"] * 125, [None, *times[1:]]))) == 12


@pytest.mark.case("files-A20")
def test_a_folder_of_names_without_padding_is_driven_in_order(tmp_path):
    """A straight drive of 3 km whose pictures are called 1.jpg to 120.jpg."""
    points = along(24 * np.arange(125))
    for number, (latitude, longitude) in enumerate(points, 1):
        exif = Image.Exif()
        degrees = [
            tuple(IFDRational(round(abs(x) * 1e7), 10**7 if i == 0 else 1) for i, x in enumerate((y, 0, 0)))
            for y in (latitude, longitude)
        ]
        exif.get_ifd(IFD.GPSInfo).update({1: "N", 2: degrees[0], 3: "W", 4: degrees[1]})
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.jpg", exif=exif)
    images, _ = load_drives(tmp_path)
    np.testing.assert_allclose(points_of(images), points, atol=1e-6)
    assert len(set(stretches(points_of(images), images["sequence"], images["time_ns"]))) == 12
