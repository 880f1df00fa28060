"""The competition's files: read as they are, and every fault named with its file and line."""

import csv
import io
import os
import struct
import zlib

import numpy as np
import pytest
from datasets import DatasetDict, Features, Image, List, Value
from PIL import Image as PIL

from geohf.data.samples import without_decoding
from geohf.data.tables import points_of
from geohf.errors import DataError
from geohf.street import data
from geohf.street.competition import load_competition
from geohf.street.hub_data import load_hub_dataset
from geohf.street.places import place_features
from geohf.vision.images import open_image


def load_places(source, on_error="raise"):
    """The loader's places with their images undecoded: paths and bytes are what these tests look at."""
    places, errors = data.load_places(source, on_error)
    return DatasetDict({name: without_decoding(split) for name, split in places.items()}), errors


HEADINGS = {"north": 0.0, "east": 90.0, "south": 180.0, "west": 270.0}
COLORS = {"north": (200, 30, 30), "east": (30, 200, 30), "south": (30, 30, 200), "west": (200, 200, 30)}
HEADER = ["sample_id", *(f"image_{name}" for name in HEADINGS), "state", "state_idx", "latitude", "longitude"]
MAPPING = "state_idx,state\n1,Alaska\n8,Florida\n18,Maine\n42,Texas\n"
PLACES = [
    (3, "Maine", 18, "43.472421", "-70.719764"),
    (0, "Florida", 8, "28.1", "-81.5"),
    (12, "Texas", 42, "31.5", "-99.25"),
    (5, "Alaska", 1, "52.9", "172.9"),  # Attu: west of the antimeridian, still Alaska
]


def jpeg(path, color=(90, 120, 60)):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.new("RGB", (16, 12), color).save(path)


def write_csv(path, rows, header=None):
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header or rows[0])
    writer.writerows([row.get(name, "") for name in header or rows[0]] for row in rows)
    path.write_text(text.getvalue(), encoding="utf-8")


class Competition:
    """A folder in the competition's layout: change `rows`, then `load`."""

    def __init__(self, folder, prefix="img"):
        self.folder, self.images, self.table = (
            folder,
            folder / "train_images",
            folder / "train_ground_truth.csv",
        )
        self.rows = []
        for sample_id, state, index, latitude, longitude in PLACES:
            names = [f"{prefix}_{sample_id:06d}_{heading}.jpg" for heading in HEADINGS]
            for name, color in zip(names, COLORS.values(), strict=True):
                jpeg(self.images / name, color)
            values = [sample_id, *names, state, index, latitude, longitude]
            self.rows.append(dict(zip(HEADER, values, strict=True)))
        (folder / "state_mapping.csv").write_text(MAPPING)

    def load(self, on_error="raise", header=HEADER):
        write_csv(self.table, self.rows, header)
        return load_places(self.folder, on_error)

    def refusal(self, **options):
        with pytest.raises(DataError) as caught:
            self.load(**options)
        return str(caught.value)


@pytest.fixture
def competition(tmp_path):
    return Competition(tmp_path / "data")


# Files as they are


def test_the_table_becomes_places(competition):
    loaded, errors = competition.load()
    assert isinstance(loaded, DatasetDict)
    assert list(loaded) == ["train"]
    assert errors.rows == []
    train = loaded["train"]
    assert train["sample_id"][:] == ["3", "0", "12", "5"]
    assert train["state"][:] == ["Maine", "Florida", "Texas", "Alaska"]
    assert train["state_idx"][:] == [18, 8, 42, 1]
    assert train["latitude"][:] == [43.472421, 28.1, 31.5, 52.9]
    assert train["longitude"][:] == [-70.719764, -81.5, -99.25, 172.9]  # every digit as in the file
    assert train["headings"][:] == [[0.0, 90.0, 180.0, 270.0]] * 4


def test_the_columns_of_places(competition):
    wanted = Features(
        {
            "sample_id": Value("string"),
            "views": List(Image()),
            "headings": List(Value("float64")),
            "state": Value("string"),
            "state_idx": Value("int64"),
            "latitude": Value("float64"),
            "longitude": Value("float64"),
        }
    )
    competition.load()  # writes the tables
    assert data.load_places(competition.folder)[0]["train"].features == wanted == place_features()


@pytest.mark.parametrize("prefix", ["img", "image"])
def test_file_names_come_from_the_table(tmp_path, prefix):
    folder = tmp_path / "data"
    row = Competition(folder, prefix).load()[0]["train"][1]
    names = [f"{prefix}_000000_{heading}.jpg" for heading in HEADINGS]
    assert [view["path"] for view in row["views"]] == [str(folder / "train_images" / name) for name in names]
    for view, color in zip(row["views"], COLORS.values(), strict=True):
        assert np.abs(np.array(open_image(view)).mean((0, 1)) - color).max() < 4


def test_neither_column_order_nor_file_names_follow_a_rule(competition):
    row = competition.rows[1]
    for heading in HEADINGS:  # a name that says another heading, id and suffix than the row
        name = f"sub dir/{'north' if heading == 'south' else heading}_999.JPEG"
        jpeg(competition.images / name, COLORS[heading])
        row[f"image_{heading}"] = name
    header = [*HEADER[::-1], "note"]
    found = competition.load(header=header)[0]["train"][1]
    assert (found["sample_id"], found["state"], found["state_idx"]) == ("0", "Florida", 8)
    assert found["headings"] == [0.0, 90.0, 180.0, 270.0]
    assert [os.path.basename(view["path"]) for view in found["views"]] == [
        f"{name}_999.JPEG" for name in ("north", "east", "north", "west")
    ]


def test_a_missing_view_is_left_out_with_its_heading(competition):
    competition.rows[1]["image_north"] = ""
    competition.rows[1]["image_south"] = " "
    for heading in ("east", "south", "west"):
        competition.rows[2][f"image_{heading}"] = ""
    loaded, errors = competition.load()
    assert errors.rows == []
    assert [row["headings"] for row in loaded["train"]] == [
        [0, 90, 180, 270],
        [90, 270],
        [0],
        [0, 90, 180, 270],
    ]
    assert [os.path.basename(view["path"]) for view in loaded["train"][1]["views"]] == [
        "img_000000_east.jpg",
        "img_000000_west.jpg",
    ]


def test_a_place_without_any_view_is_refused(competition):
    for heading in HEADINGS:
        competition.rows[1][f"image_{heading}"] = ""
    assert f"{competition.table}, row 3: has no view that can be used" in competition.refusal()


def test_the_template_may_stand_in_any_order(competition):
    ids = [40, 2, 31, 7]
    rows = [
        {
            "sample_id": i,
            **{f"image_{h}": f"image_{i:06d}_{h}.jpg" for h in HEADINGS},
            "predicted_latitude": "",
        }
        for i in ids
    ]
    rows[2]["image_east"] = ""
    for row in rows:
        for heading in HEADINGS:
            if row[f"image_{heading}"]:
                jpeg(competition.folder / "test_images" / row[f"image_{heading}"])
    write_csv(competition.folder / "sample_submission.csv", rows)
    test = competition.load()[0]["test"]
    assert test.column_names == list(place_features())
    assert test["sample_id"][:] == ["40", "2", "31", "7"]
    assert test[2]["headings"] == [0.0, 180.0, 270.0]
    assert test[1]["views"][3]["path"] == str(competition.folder / "test_images" / "image_000002_west.jpg")
    assert test["state"][:] == [None] * 4
    assert np.isnan(points_of(test)).all()


def test_quotes_spaces_and_a_byte_order_mark(competition):
    competition.load()
    lines = competition.table.read_text().splitlines()
    lines[2] = ",".join(f' "{cell}"' for cell in lines[2].split(","))
    competition.table.write_text("\ufeff" + "\r\n".join(lines) + "\r\n\r\n", encoding="utf-8")
    (competition.folder / "state_mapping.csv").write_text(
        "\ufeff" + MAPPING.replace("8,Florida", '8, "Florida" ')
    )
    train = load_places(competition.folder)[0]["train"]
    assert train["sample_id"][:] == ["3", "0", "12", "5"]
    assert train[1]["state"] == "Florida"
    assert train[1]["longitude"] == -81.5


def test_the_mapping_gives_the_index_where_the_table_has_none(competition):
    train = competition.load(header=[name for name in HEADER if name != "state_idx"])[0]["train"]
    assert train["state_idx"][:] == [18, 8, 42, 1]


def test_without_a_mapping_the_table_gives_the_index(competition):
    (competition.folder / "state_mapping.csv").unlink()
    assert competition.load()[0]["train"]["state_idx"][:] == [18, 8, 42, 1]


def test_without_a_mapping_one_row_is_enough_to_know_a_state_by(competition):
    (competition.folder / "state_mapping.csv").unlink()
    competition.rows[0].update(state="Florida", state_idx="", latitude="28.4", longitude="-81.6")
    assert competition.load()[0]["train"]["state_idx"][:] == [8, 8, 42, 1]


def test_with_neither_there_is_no_index(competition):
    (competition.folder / "state_mapping.csv").unlink()
    train = competition.load(header=[name for name in HEADER if name != "state_idx"])[0]["train"]
    assert train["state_idx"][:] == [None] * 4
    assert train["state"][:] == ["Maine", "Florida", "Texas", "Alaska"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"state": "Maine", "latitude": "44.0", "longitude": "-70.0"}, "gives 18 to Maine"),
        ({"state_idx": 18}, "state_idx 18 of Florida belongs to another state"),
        ({"state_idx": 8.5}, "state_idx 8.5 is no whole number"),
        ({"state_idx": -1}, "state_idx -1 is no whole number"),
    ],
)
def test_without_a_mapping_rows_must_agree(competition, change, reason):
    (competition.folder / "state_mapping.csv").unlink()
    competition.rows[1].update(change)
    message = competition.refusal()
    assert f"{competition.table}, row 3: " in message
    assert reason in message
    assert competition.load("skip")[0]["train"]["state_idx"][:] == [18, 42, 1]


def test_longitudes_from_0_to_360(competition):
    for row in competition.rows:
        row["longitude"] = float(row["longitude"]) % 360
    longitudes = competition.load()[0]["train"]["longitude"][:]
    assert longitudes == pytest.approx([-70.719764, -81.5, -99.25, 172.9], abs=1e-12)


def test_other_lands_are_no_united_states(competition):
    (competition.folder / "state_mapping.csv").write_text(
        "state_idx,state\n0,Georgia\n1,Peru\n2,Chile\n3,Fiji\n"
    )
    lands = [("Georgia", 0, 41.7, 44.8), ("Peru", 1, -12, -77), ("Chile", 2, -33, -70), ("Fiji", 3, -17, 178)]
    for row, (name, index, latitude, longitude) in zip(competition.rows, lands, strict=True):
        row.update(state=name, state_idx=index, latitude=latitude, longitude=longitude)
    assert competition.load()[0]["train"]["state"][:] == ["Georgia", "Peru", "Chile", "Fiji"]


# One view that cannot be used


def png_header(width, height):
    """A PNG that says it is that large, and hardly holds anything."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


def noise(path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    PIL.fromarray(pixels).save(path, quality=95)
    return path.read_bytes()


VIEWS = {
    "missing": (lambda path: path.unlink(), "cannot be read (No such file or directory)"),
    "zero bytes": (lambda path: path.write_bytes(b""), "is empty (0 bytes)"),
    "truncated": (lambda path: path.write_bytes(noise(path)[:3000]), "is broken or truncated"),
    "cut in the header": (lambda path: path.write_bytes(noise(path)[:20]), "is not an image"),
    "text": (lambda path: path.write_text("<html>404 not found</html>"), "is not an image"),
    "bomb": (lambda path: path.write_bytes(png_header(60_000, 60_000)), "decompression bomb"),
    "small bomb": (lambda path: path.write_bytes(png_header(10_000, 10_000)), "decompression bomb"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "is a folder"),
}


def check_one_view_lost(competition, reason, name):
    message = competition.refusal()
    assert f"{competition.table}, row 3: " in message
    assert reason in message
    assert name in message
    loaded, errors = competition.load("skip")
    assert [(row["source"], row["row"]) for row in errors.rows] == [(str(competition.table), 3)]
    assert reason in errors.rows[0]["reason"]
    assert loaded["train"]["sample_id"][:] == ["3", "0", "12", "5"]
    assert [len(views) for views in loaded["train"]["views"]] == [4, 3, 4, 4]
    assert loaded["train"][1]["headings"] == [0.0, 180.0, 270.0]


@pytest.mark.parametrize("fault", VIEWS)
def test_a_bad_view_is_named_and_the_place_keeps_the_others(competition, fault):
    spoil, reason = VIEWS[fault]
    spoil(competition.images / "img_000000_east.jpg")
    check_one_view_lost(competition, reason, "img_000000_east.jpg")


def test_a_place_with_no_good_view_is_left_out(competition):
    for heading in HEADINGS:
        (competition.images / f"img_000000_{heading}.jpg").write_bytes(b"")
    loaded, errors = competition.load("skip")
    assert loaded["train"]["sample_id"][:] == ["3", "12", "5"]
    assert {row["row"] for row in errors.rows} == {3}
    assert len(errors.rows) == 4


@pytest.mark.parametrize("how", ["dots", "absolute"])
def test_a_path_that_climbs_out_is_refused(competition, tmp_path, how):
    jpeg(tmp_path / "private" / "secret.jpg")
    name = {
        "dots": "../../private/secret.jpg",
        "absolute": str(tmp_path / "private" / "secret.jpg"),
    }[how]
    competition.rows[1]["image_east"] = name
    check_one_view_lost(competition, "leads out of the folder", name)


def test_the_image_folder_itself_may_be_a_link(competition, tmp_path):
    competition.images.rename(tmp_path / "elsewhere")
    competition.images.symlink_to(tmp_path / "elsewhere")
    assert len(competition.load()[0]["train"]) == 4


def test_a_bad_view_of_the_template_is_named(competition):
    row = {"sample_id": 1} | {f"image_{heading}": f"{heading}.jpg" for heading in HEADINGS}
    for heading in HEADINGS:
        jpeg(competition.folder / "test_images" / f"{heading}.jpg")
    (competition.folder / "test_images" / "west.jpg").write_bytes(b"")
    write_csv(competition.folder / "sample_submission.csv", [row])
    message = competition.refusal()
    assert f"{competition.folder / 'sample_submission.csv'}, row 2: " in message
    assert "west.jpg: the file is empty" in message
    assert competition.load("skip")[0]["test"][0]["headings"] == [0.0, 90.0, 180.0]


# One row that cannot be used

ROWS = {
    "duplicate": ({"sample_id": 3}, "sample_id 3 stands in row 2 already"),
    "no sample_id": ({"sample_id": ""}, "sample_id is empty"),
    "empty latitude": ({"latitude": ""}, "latitude nan is not finite"),
    "NaN": ({"longitude": "nan"}, "longitude nan is not finite"),
    "latitude": ({"latitude": "91.2"}, "latitude 91.2 is outside -90..90"),
    "longitude": ({"longitude": "-190"}, "longitude -190 is outside -180..360"),
    "metres": ({"latitude": "3112345", "longitude": "-9056789"}, "no degrees"),
    "swapped, out of range": ({"latitude": "-118.2", "longitude": "34.05"}, "look swapped"),
    "swapped, in range": ({"latitude": "-81.5", "longitude": "28.1"}, "look swapped"),
    "Alaska swapped": (
        {"state": "Alaska", "state_idx": 1, "latitude": "-149.9", "longitude": "61.2"},
        "swapped",
    ),
    "sign lost": (
        {"longitude": "81.5"},
        "(28.1, 81.5) is not in the United States, but the state is Florida",
    ),
    "wrong half": (
        {"latitude": "-28.1"},
        "(-28.1, -81.5) is not in the United States, but the state is Florida",
    ),
    "null island": ({"latitude": "0", "longitude": "0"}, "(0, 0) stands for a position that is not known"),
    "unknown state": ({"state": "Floridda"}, "the state 'Floridda' is not in state_mapping.csv"),
    "no state": ({"state": ""}, "the state is empty"),
    "index at odds": ({"state_idx": 42}, "state_idx is 42, but state_mapping.csv gives 8 to Florida"),
    "index between": ({"state_idx": "8.5"}, "state_idx is 8.5, but state_mapping.csv gives 8"),
}


@pytest.mark.parametrize("fault", ROWS)
def test_a_bad_row_is_named_or_left_out(competition, fault):
    change, reason = ROWS[fault]
    competition.rows[1].update(change)
    message = competition.refusal()
    assert message.startswith("1 row cannot be used (--on_error skip")
    assert f"{competition.table}, row 3: " in message
    assert reason in message
    loaded, errors = competition.load("skip")
    assert [(row["source"], row["row"]) for row in errors.rows] == [(str(competition.table), 3)]
    assert reason in errors.rows[0]["reason"]
    assert loaded["train"]["sample_id"][:] == ["3", "12", "5"]
    assert loaded["train"]["state_idx"][:] == [18, 42, 1]
    assert [len(views) for views in loaded["train"]["views"]] == [4, 4, 4]


def test_swapped_rows_are_found_where_states_are_not_american(competition):
    (competition.folder / "state_mapping.csv").write_text("state_idx,state\n0,Bayern\n")
    for i, row in enumerate(competition.rows):
        row.update(state="Bayern", state_idx=0, latitude=48 + i / 10, longitude=11 + i / 10)
    competition.rows[1].update(latitude=11.2, longitude=48.2)
    message = competition.refusal()
    assert f"{competition.table}, row 3: " in message
    assert "look swapped" in message


def test_all_faults_are_listed_and_counted(competition):
    competition.rows[0]["latitude"] = "95"
    competition.rows[2]["state"] = "Texa"
    (competition.images / "img_000005_south.jpg").unlink()
    message = competition.refusal()
    assert message.startswith("3 rows cannot be used")
    assert all(f"{competition.table}, row {line}: " in message for line in (2, 4, 5))
    loaded, errors = competition.load("skip")
    assert sorted(row["row"] for row in errors.rows) == [2, 4, 5]
    assert loaded["train"]["sample_id"][:] == ["0", "5"]


def test_when_every_row_is_bad_skipping_is_refused_too(competition):
    for row in competition.rows:
        row["latitude"] = "95"
    assert "no row is left, all were skipped" in competition.refusal(on_error="skip")


def test_text_for_a_number_is_refused_with_its_line(competition):
    competition.rows[1]["latitude"] = "28,1 N"
    assert f"{competition.table}, row 3: latitude is '28,1 N', which is not a number" in competition.refusal()


# A table that cannot be used


@pytest.mark.parametrize("column", [name for name in HEADER if name != "state_idx"])
def test_a_missing_column_is_named(competition, column):
    message = competition.refusal(header=[name for name in HEADER if name != column])
    assert f"{competition.table}: column {column!r} is missing" in message


def test_an_empty_table_and_a_header_alone(competition):
    competition.table.write_text("")
    with pytest.raises(DataError) as caught:
        load_competition(competition.folder, "skip")
    assert f"{competition.table}: the table is empty" in str(caught.value)
    competition.table.write_text(",".join(HEADER) + "\n")
    with pytest.raises(DataError) as caught:
        load_competition(competition.folder, "skip")
    assert f"{competition.table}: the table has a header but no rows" in str(caught.value)


def test_a_template_without_its_columns_or_rows(competition):
    template = competition.folder / "sample_submission.csv"
    template.write_text("sample_id,image_north,image_east,image_west\n1,a.jpg,b.jpg,c.jpg\n")
    assert f"{template}: column 'image_south' is missing" in competition.refusal()
    template.write_text("sample_id,image_north,image_east,image_south,image_west\n")
    assert f"{template}: the table has a header but no rows" in competition.refusal()


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        ("state_idx,name\n8,Florida\n", ": column 'state' is missing"),
        ("state_idx,state\n8,Florida\n8,Texas\n", ", row 3: the state 'Texas' or its index 8 appears twice"),
        (
            "state_idx,state\n8,Florida\n9,Florida\n",
            ", row 3: the state 'Florida' or its index 9 appears twice",
        ),
        ("state_idx,state\n8,Florida\n,Texas\n", ", row 3: state_idx nan is no whole number"),
        ("state_idx,state\n1.5,Florida\n", ", row 2: state_idx 1.5 is no whole number"),
        ("state_idx,state\n-1,Florida\n", ", row 2: state_idx -1 is no whole number"),
    ],
)
def test_a_mapping_that_is_none(competition, mapping, reason):
    path = competition.folder / "state_mapping.csv"
    path.write_text(mapping)
    assert f"{path}{reason}" in competition.refusal()


def test_the_policy_is_raise_or_skip(competition):
    with pytest.raises(ValueError, match="must be one of raise, skip"):
        competition.load("ignore")


def test_an_index_that_is_none_is_a_bad_row_of_a_hub_dataset(tmp_path):
    from datasets import Dataset, DatasetDict
    from PIL import Image

    columns = {"latitude": [10.0, 11.0], "longitude": [20.0, 21.0], "state_idx": [1.0, 3.5]}
    rows = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(2)]
    DatasetDict(train=Dataset.from_dict({"image": rows} | columns)).save_to_disk(tmp_path / "saved")
    with pytest.raises(
        DataError, match=r"saved \[train\], row 1: state_idx is 3.5, which is no whole number"
    ):
        load_hub_dataset(str(tmp_path / "saved"), "raise")
    loaded, errors = load_hub_dataset(str(tmp_path / "saved"), "skip")
    assert loaded["train"]["state_idx"][:] == [1]
    assert [row["row"] for row in errors.rows] == [1]


def test_a_hub_dataset_tells_the_side_of_its_latitudes_in_a_column_beside(tmp_path):
    from datasets import Dataset, DatasetDict, Features, Value
    from datasets import Image as ImageFeature
    from PIL import Image

    columns = {
        "image": [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(2)],
        "GPSLatitude": [33.86, 12.5],
        "GPSLatitudeRef": ["S", "N"],
        "lon": [151.2, 10.0],
        "state": ["a", "b"],
    }
    text, number = Value("string"), Value("float64")
    features = {
        "image": ImageFeature(),
        "GPSLatitude": number,
        "GPSLatitudeRef": text,
        "lon": number,
        "state": text,
    }
    rows = Dataset.from_dict(columns, features=Features(features))
    DatasetDict(train=rows).save_to_disk(tmp_path / "saved")
    loaded, _ = load_hub_dataset(str(tmp_path / "saved"), "raise")
    assert loaded["train"]["latitude"][:] == [-33.86, 12.5]
    DatasetDict(
        train=Dataset.from_dict(columns | {"GPSLatitude": [33.86, 95.0]}, rows.features)
    ).save_to_disk(tmp_path / "odd")
    loaded, errors = load_hub_dataset(str(tmp_path / "odd"), "skip")
    assert loaded["train"]["latitude"][:] == [-33.86]
    assert [(row["row"], row["reason"].partition(";")[0]) for row in errors.rows] == [
        (1, "latitude 95 is outside -90..90")
    ]
