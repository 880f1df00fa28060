import csv
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from geohf.errors import DataError
from geohf.io import atomic_write, columns, plain, require_writable
from geohf.report.tables import format_number, markdown_table, write_csv


def test_atomic_write_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b.txt"
    for words in ("old", "new"):
        with atomic_write(path) as file:
            file.write(words)
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["b.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_atomic_write_keeps_the_old_file_when_the_body_raises(tmp_path, error):
    path = tmp_path / "b.bin"
    path.write_bytes(b"old")

    def write():
        with atomic_write(path, binary=True) as file:
            file.write(b"half of the ne")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["b.bin"]


def test_a_place_where_nothing_can_be_written_is_named_before_the_work(tmp_path):
    (tmp_path / "taken").write_text("mine")
    require_writable(tmp_path / "new" / "deep" / "a.csv")
    require_writable(tmp_path / "taken")  # is replaced
    with pytest.raises(DataError, match=f"{tmp_path}: is a folder; name a file in it"):
        require_writable(tmp_path)
    with pytest.raises(DataError, match=r"a\.csv: taken is a file, not a folder"):
        require_writable(tmp_path / "taken" / "deep" / "a.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]


def test_atomic_write_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    with atomic_write(tmp_path / "atomic"):
        pass
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_plain_unpacks_what_json_does_not_know(tmp_path):
    value = {
        "f": np.float32(0.5),
        "b": np.bool_(True),
        "inf": float("inf"),
        "nat": pd.NaT,
        "na": pd.NA,
        "day": pd.Timestamp("2024-05-06"),
        "no_day": np.datetime64("NaT"),
        3: (np.int8(1), {"x": np.array([[1.0, np.nan]])}),
    }
    assert plain(value) == {
        "f": 0.5,
        "b": True,
        "inf": None,
        "nat": None,
        "na": None,
        "day": "2024-05-06T00:00:00",
        "no_day": None,
        "3": [1, {"x": [[1.0, None]]}],
    }
    assert plain(value)["b"] is True
    assert plain(tmp_path) == str(tmp_path)


def test_columns_takes_frames_dicts_and_rows():
    expected = {"a": [1, 2], "b": ["x", None]}
    assert columns({"a": np.array([1, 2]), "b": ["x", None]}, 2, "details") == expected
    assert columns(pd.DataFrame({"a": [1, 2], "b": ["x", None]}), 2, "details") == expected
    assert columns([{"a": 1, "b": "x"}, {"a": 2}], 2, "details") == expected
    with pytest.raises(DataError, match="details column 'a' has 2 values for 3 points"):
        columns({"a": [1, 2]}, 3, "details")
    with pytest.raises(DataError, match="details has 1 rows for 3 points"):
        columns([{"a": 1}], 3, "details")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.00012346, "-0.0001235"),
        (99.996, "100"),
        (1234567.0, "1234567"),
        (np.float32(0.1), "0.1"),
        (np.int64(65980), "65980"),
        (float("inf"), "–"),
        (2e20, "2e+20"),
        ("text", "text"),
        (False, "no"),
    ],
)
def test_format_number(value, text):
    assert format_number(value) == text


def test_markdown_table_is_aligned_and_safe():
    rows = [
        {"name": "a|b\nc", "km": np.float64(12.3456), "n": 1},
        {"name": "<script>", "km": None},
    ]
    lines = markdown_table(rows).split("\n")
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert "a\\|b c" in lines[2]
    assert "<" not in lines[3]
    assert lines[1].split("|")[1].strip().startswith(":--")
    assert lines[1].split("|")[2].strip().endswith("-:")
    assert lines[2].split("|")[-3].endswith(" 12.35 ")
    assert markdown_table(rows, columns=["n"], digits=2).split("\n")[0] == "|    n |"
    assert markdown_table([]) == ""


def test_write_csv_round_trip(tmp_path):
    path = tmp_path / "rows.csv"
    rows = [
        {"id": np.int64(1), "lat": np.float64(1 / 3), "name": 'say "a, b"\nthen c'},
        {"id": 2, "lat": np.nan, "top": np.array([3, 1])},
    ]
    write_csv(path, rows)
    with open(path, newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [list(row) for row in read] == [["id", "lat", "name", "top"]] * 2
    assert float(read[0]["lat"]) == 1 / 3
    assert read[0]["name"] == rows[0]["name"]
    assert read[1]["lat"] == ""
    assert json.loads(read[1]["top"]) == [3, 1]
    assert pd.read_csv(path)["id"].tolist() == [1, 2]


def test_import_is_cheap():
    code = (
        "import sys\n"
        # geohf.geo needs torch, which may bring these along; what is asked here is what report itself imports.
        "import geohf.geo\n"
        "before = set(sys.modules)\n"
        "from geohf.report import classes, geojson, map_png, maps, plots, tables, tiles, uncertainty\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new & {'matplotlib', 'pandas', 'PIL', 'jinja2'}))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
