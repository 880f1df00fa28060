"""People's own photographs: tables as they write them, folders with EXIF positions, datasets of the Hub."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from helpers.street_models import build_model
from PIL import ExifTags
from PIL import Image as PIL

from geohf.data.samples import without_decoding
from geohf.data.tables import points_of
from geohf.errors import DataError
from geohf.street import data
from geohf.street.photos import load_photos, table_of_views
from geohf.street.places import place_features
from geohf.street.processing import split_views
from geohf.street.sample import write_sample
from geohf.street.streaming import stream_places
from geohf.vision.images import open_image


def load_places(source, on_error="raise"):
    """The loader's places with their images undecoded: paths and bytes are what these tests look at."""
    places, errors = data.load_places(source, on_error)
    return DatasetDict({name: without_decoding(split) for name, split in places.items()}), errors


REPO = "tester/places"


def jpeg(path, color=(90, 120, 60), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.new("RGB", (16, 12), color).save(path, **options)
    return path


@pytest.fixture
def table(tmp_path):
    """Writes photographs a.jpg, b.jpg, sub/c.jpg and a table beside them."""
    for name in ("a.jpg", "b.jpg", "sub/c.jpg"):
        jpeg(tmp_path / name)

    def write(text, name="photos.csv"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def refusal(source, on_error="raise"):
    with pytest.raises(DataError) as caught:
        load_places(source, on_error)
    return str(caught.value)


def numbers(dataset):
    return points_of(dataset).tolist()


# Tables


@pytest.mark.parametrize(
    "header",
    [
        "image,lat,lon",
        "file_name,latitude,longitude",
        "filename,latitude,lng",
        "Path,Latitude,Longitude",
        "FILE,LAT,LONG",
    ],
)
def test_the_names_that_people_give_their_columns(table, header, tmp_path):
    path = table(f"{header}\na.jpg,-33.9,18.4\nb.jpg,52.52,13.405\nsub/c.jpg,0.5,-179.5\n")
    loaded, errors = load_places(path)
    train = loaded["train"]
    assert list(loaded) == ["train"]
    assert errors.rows == []
    assert train.column_names == list(place_features())
    assert numbers(train) == [[-33.9, 18.4], [52.52, 13.405], [0.5, -179.5]]
    assert train["sample_id"][:] == ["a.jpg", "b.jpg", "sub/c.jpg"]
    assert train["state"][:] == [None] * 3
    assert [view["path"] for views in train["views"] for view in views] == [
        str(tmp_path / name) for name in ("a.jpg", "b.jpg", "sub/c.jpg")
    ]
    assert np.isnan(train["headings"][:]).all()


def test_states_headings_and_other_columns(table):
    path = table(
        "camera,longitude,state,angle,file_name,latitude\n"
        "x,-81.5, Florida ,90,a.jpg,28.1\nx,-99.2,Texas,,b.jpg,31\n"
    )
    train = load_places(path)[0]["train"]
    assert train["state"][:] == ["Florida", "Texas"]
    assert train["state_idx"][:] == [None, None]
    assert train["headings"][0] == [90.0]
    assert math.isnan(train["headings"][1][0])
    assert numbers(train) == [[28.1, -81.5], [31.0, -99.2]]


def test_four_views_a_row_without_states(table, tmp_path):
    for name in ("n", "e", "s", "w"):
        jpeg(tmp_path / f"{name}1.jpg")
    path = table(
        "North,east,image_south,west,lat,lon\nn1.jpg,e1.jpg,s1.jpg,w1.jpg,48.1,11.5\n,a.jpg,b.jpg,,48.2,11.6\n"
    )
    places, _ = load_places(path)
    rows = places["train"]
    assert rows["headings"][:] == [[0.0, 90.0, 180.0, 270.0], [90.0, 180.0]]
    assert [image["path"] for image in rows[1]["views"]] == [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]
    assert numbers(rows) == [[48.1, 11.5], [48.2, 11.6]]
    assert rows["state"][:] == [None, None]
    path = table("north,east,lat,lon\nn1.jpg,e1.jpg,48.1,11.5\n,,48.2,11.6\nw1.jpg,gone.jpg,48.3,11.7\n")
    places, errors = load_places(path, "skip")
    assert [len(views) for views in places["train"]["views"]] == [2, 1]
    assert (errors.rows[0]["row"], errors.rows[0]["reason"]) == (3, "a sample has no view")
    assert "gone.jpg" in errors.rows[1]["reason"]


def test_eight_views_in_one_column_as_a_list(table, tmp_path):
    names = [f"{i}.jpg" for i in range(8)]
    for name in names:
        jpeg(tmp_path / name)
    turns = [45 * i for i in range(8)]
    rows = [
        {"views": json.dumps(names), "headings": json.dumps(turns), "lat": 48.1, "lon": 11.5},
        {"views": str(["a.jpg", None]), "headings": "[-10, 5]", "lat": 48.2, "lon": 11.6},
    ]
    for form in ("csv", "parquet", "jsonl"):
        path = tmp_path / f"views.{form}"
        frame = pd.DataFrame(rows)
        if form == "csv":
            frame.to_csv(path, index=False)
        else:
            frame["views"], frame["headings"] = [names, ["a.jpg", None]], [turns, [-10, 5]]
            frame.to_parquet(path) if form == "parquet" else frame.to_json(path, orient="records", lines=True)
        places = without_decoding(load_places(path)[0]["train"])
        assert places["headings"][:] == [turns, [350.0]]
        assert [[Path(view["path"]).name for view in views] for views in places["views"]] == [
            names,
            ["a.jpg"],
        ]
        assert [row["headings"] for row in stream_places(path)] == [turns, [350.0]]
    assert "views must hold a list" in refusal(table("views,lat,lon\na.jpg,1,2\n"))


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_headings_may_lack_and_are_heard_in_any_case_of_letters(table, tmp_path, form):
    """Before, an empty cell was refused as 0 headings, and `Headings` were not heard."""
    path, names, turns = table("", f"views.{form}"), [["a.jpg", "b.jpg"], ["sub/c.jpg"]], [[90, 270], None]
    if form == "csv":
        path.write_text(
            'Views,Headings,lat,lon\n"[""a.jpg"", ""b.jpg""]","[90, 270]",1,2\n"[""sub/c.jpg""]",,3,4\n'
        )
    else:
        frame = pd.DataFrame({"Views": names, "Headings": turns, "lat": [1.0, 3.0], "lon": [2.0, 4.0]})
        frame.to_parquet(path) if form == "parquet" else frame.to_json(path, orient="records", lines=True)
    expected = [[90.0, 270.0], [math.nan]]
    np.testing.assert_equal(load_places(path)[0]["train"]["headings"][:], expected)
    np.testing.assert_equal([row["headings"] for row in stream_places(path)], expected)


def test_the_example_of_headings_is_one_of_headings(table):
    message = refusal(table('views,headings,lat,lon\n"[""a.jpg""]","[nan]",1,2\n'))
    assert "headings must hold a list, such as [0, 90, null], got '[nan]'" in message


def test_headings_beside_one_picture_are_heard(table):
    path = table("image,headings,lat,lon\na.jpg,[90],1,2\nb.jpg,,3,4\n")
    np.testing.assert_equal(load_places(path)[0]["train"]["headings"][:], [[90.0], [math.nan]])


def test_pictures_of_two_kinds_of_columns_are_not_left_out(table):
    assert "has 'north' and 'image'" in refusal(table("image,north,lat,lon\na.jpg,b.jpg,1,2\n"))


def test_places_to_be_found_may_be_a_table_of_views(table, tmp_path):
    """Before, only the column of a file counted, and nobody heard which way a photograph looks."""
    model = build_model(heading_aware=True).eval()
    photos = [str(tmp_path / name) for name in ("a.jpg", "b.jpg")]
    path = table("north,image_west\na.jpg,b.jpg\n,b.jpg\n")
    expected = model.predict([{"north": photos[0], "west": photos[1]}, {"west": photos[1]}])
    assert model.predict(str(path)) == expected
    path = table("image,angle\na.jpg,90\nb.jpg,\n")
    expected = model.predict([{"east": photos[0]}, photos[1]])
    assert model.predict(str(path)) == expected
    pd.read_csv(path).to_parquet(tmp_path / "photos.parquet")
    assert model.predict(str(tmp_path / "photos.parquet")) == expected
    with pytest.raises(DataError, match="row 2: a sample has no view"):
        model.predict(str(table("north,east\n,\na.jpg,\n")))


def test_longitudes_from_0_to_360(table):
    path = table("image,lat,lon\na.jpg,28.1,278.5\nb.jpg,-17,181\nsub/c.jpg,10,180\n")
    assert numbers(load_places(path)[0]["train"]) == [[28.1, -81.5], [-17.0, -179.0], [10.0, 180.0]]


@pytest.mark.case("use-O5")
def test_a_table_written_on_windows(table, tmp_path):
    path = table("image,lat,lon\r\nsub\\c.jpg,1,2\r\na.jpg,3,4\r\n")
    train = load_places(path)[0]["train"]
    assert train["views"][0][0]["path"] == str(tmp_path / "sub" / "c.jpg")
    assert "leads out of the folder" in refusal(table("image,lat,lon\nsub\\..\\..\\secret.jpg,1,2\n"))


def test_states_that_pandas_made_floats(table):
    train = load_places(table("image,lat,lon,state\na.jpg,1,2,3\nb.jpg,3,4,3.0\n"))[0]["train"]
    assert train["state"] == ["3", "3"]


def test_an_empty_state_that_became_text_is_no_class(table):
    """As `frame.astype(str).to_csv` writes it; NA is Namibia."""
    train = load_places(table("image,lat,lon,state\na.jpg,1,2,nan\nb.jpg,3,4,NA\nsub/c.jpg,5,6,None\n"))[0][
        "train"
    ]
    assert train["state"][:] == [None, "NA", None]


def test_the_index_of_a_state_is_read_by_loader_and_stream(table):
    for header, names in (
        ("state,state_idx", ["Maine", "Texas", None]),
        ("place,state_idx", ["18", "42", None]),
    ):
        path = table(
            f"image,lat,lon,{header}\na.jpg,45,-69,Maine,18\nb.jpg,31,-99,Texas,42\nsub/c.jpg,31,-98,,\n"
        )
        for rows in (load_places(path)[0]["train"], list(stream_places(path))):
            assert [row["state"] for row in rows] == names
            assert [row["state_idx"] for row in rows] == [18, 42, None]
    assert "row 2: state_idx is 1.5, which is no whole number" in refusal(
        table("image,lat,lon,state_idx\na.jpg,45,-69,1.5\n")
    )


@pytest.mark.parametrize("empty", [None, float("nan"), ""])
def test_parquet(table, tmp_path, empty):
    frame = pd.DataFrame(
        {
            "image": ["a.jpg", "b.jpg", "sub/c.jpg"],
            "lat": np.array([28.1, 31.0, 44.0], np.float32),
            "lon": [-81.5, -99.25, -70.0],
            "state": ["Florida", empty, "Maine"],
        }
    )
    frame.to_parquet(tmp_path / "photos.parquet")
    train = load_places(tmp_path / "photos.parquet")[0]["train"]
    assert train["state"][:] == ["Florida", None, "Maine"]
    assert numbers(train)[1:] == [[31.0, -99.25], [44.0, -70.0]]
    assert numbers(train)[0] == pytest.approx([28.1, -81.5], abs=1e-5)


def test_parquet_without_a_file_name_or_position(table, tmp_path):
    path = tmp_path / "photos.parquet"
    frame = pd.DataFrame(
        {"image": ["a.jpg", None, "sub/c.jpg"], "lat": [1.0, 2.0, None], "lon": [1.0, 2.0, 3.0]}
    )
    frame.to_parquet(path)
    message = refusal(path)
    assert f"{path}, row 3: the file name is empty" in message
    assert f"{path}, row 4: latitude nan is not finite" in message


@pytest.mark.case("use-U9", "files-A8")
def test_parquet_with_images_inside(tmp_path):
    cells = []
    for shade in (10, 200):
        content = io.BytesIO()
        PIL.new("RGB", (8, 8), (shade, 0, 0)).save(content, "PNG")
        cells.append({"bytes": content.getvalue(), "path": "0.png"})  # a name alone, and twice the same
    PIL.new("RGB", (8, 8), (0, 0, 255)).save(tmp_path / "0.png")
    path = tmp_path / "photos.parquet"
    pd.DataFrame({"image": cells, "lat": [1.0, 2.0], "lon": [1.0, 2.0]}).to_parquet(path)
    train = load_places(path)[0]["train"]
    assert [open_image(row["views"][0]).getpixel((0, 0))[0] for row in train] == [10, 200]
    cells[0]["bytes"] = b"\xff\xd8"
    pd.DataFrame({"image": cells, "lat": [1.0, 2.0], "lon": [1.0, 2.0]}).to_parquet(path)
    assert f"{path}, row 2: 0.png: is not an image" in refusal(path)


def test_a_folder_with_metadata(table, tmp_path):
    table("file_name,latitude,longitude\nsub/c.jpg,10,20\na.jpg,30,40\n", "metadata.csv")
    assert numbers(load_places(tmp_path)[0]["train"]) == [[10.0, 20.0], [30.0, 40.0]]


def test_georgia_is_a_country_too(table):
    points = "a.jpg,41.7,44.8,Georgia\nb.jpg,-12,-77,Peru\nsub/c.jpg,-33,-70,Chile\n"
    for column in ("country", "region"):
        train = load_places(table(f"image,lat,lon,{column}\n{points}"))[0]["train"]
        assert train["state"][:] == ["Georgia", "Peru", "Chile"]
    train = load_places(table("image,lat,lon,country\na.jpg,41.7,44.8,Georgia\n"))[0]["train"]
    assert train["state"][:] == ["Georgia"]
    assert "not in the United States" in refusal(table("image,lat,lon,state\na.jpg,41.7,44.8,Georgia\n"))


ROWS = {
    "missing": ("x.jpg,46.1,8.1", "x.jpg: cannot be read (No such file or directory)"),
    "empty name": (",46.1,8.1", "the file name is empty"),
    "twice": ("a.jpg,46.1,8.1", "'a.jpg' stands in row 2 already"),
    "twice, written otherwise": ("./a.jpg,46.1,8.1", "'./a.jpg' stands in row 2 already"),
    "zero bytes": ("empty.jpg,46.1,8.1", "empty.jpg: the file is empty (0 bytes)"),
    "not an image": ("photos.csv,46.1,8.1", "is not an image"),
    "climbs out": ("../x.jpg,46.1,8.1", "the path '../x.jpg' leads out of the folder"),
    "empty": ("b.jpg,,8.1", "latitude nan is not finite"),
    "out of range": ("b.jpg,46.1,1080", "are no degrees"),
    "latitude": ("b.jpg,-91,8.1", "latitude -91 is outside -90..90"),
    "swapped in range": ("b.jpg,8.1,46.1", "latitude and longitude look swapped"),
}


@pytest.mark.parametrize("fault", ROWS)
def test_a_bad_row_is_named_or_left_out(table, tmp_path, fault):
    row, reason = ROWS[fault]
    (tmp_path / "empty.jpg").write_bytes(b"")
    for i in range(3):
        jpeg(tmp_path / f"{i}.jpg")
    others = [f"{i}.jpg,46.{i},8.{i}" for i in range(3)]
    path = table("\n".join(["image,lat,lon", "a.jpg,46,8", row, *others, "sub/c.jpg,46.2,8.2"]) + "\n")
    message = refusal(path)
    assert f"{path}, row 3: " in message
    assert reason in message
    loaded, errors = load_places(path, "skip")
    assert [(entry["source"], entry["row"]) for entry in errors.rows] == [(str(path), 3)]
    assert reason in errors.rows[0]["reason"]
    assert loaded["train"]["sample_id"][:] == ["a.jpg", "0.jpg", "1.jpg", "2.jpg", "sub/c.jpg"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", ": the table is empty"),
        ("image,lat,lon\n", ": the table has a header but no rows"),
        ("lat,lon\n1,2\n", ": needs a column 'image' or 'file_name'"),
        ("image,lat\na.jpg,1\n", ": needs a column 'longitude' or 'lon'"),
        (
            "image,lon,latitud\na.jpg,1,2\n",
            ": needs a column 'latitude' or 'lat'; the columns are: image, lon, latitud",
        ),
        ("image,lat,lon\na.jpg,1,2\nb.jpg,1,two\n", ", row 3: lon is 'two', which is not a number"),
        ("image,Lat,Lon\na.jpg,1,2\nb.jpg,1,two\n", ", row 3: Lon is 'two', which is not a number"),
        ("image,lat,lon,heading\na.jpg,1,2,NE\n", ", row 2: heading is 'NE', which is not a number"),
    ],
)
def test_a_table_that_cannot_be_used(table, text, reason):
    path = table(text)
    assert f"{path}{reason}" in refusal(path, "skip")


# Folders


def dms(degrees):
    minutes, seconds = divmod(abs(degrees) * 3600, 60)
    return (float(minutes // 60), float(minutes % 60), round(seconds, 4))


def tagged(path, latitude, longitude, **more):
    exif, gps = PIL.Exif(), ExifTags.GPS
    tags = {
        gps.GPSLatitudeRef: "N" if latitude >= 0 else "S",
        gps.GPSLatitude: dms(latitude),
        gps.GPSLongitudeRef: "E" if longitude >= 0 else "W",
        gps.GPSLongitude: dms(longitude),
    }
    tags |= {getattr(gps, name): value for name, value in more.items()}
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({int(tag): value for tag, value in tags.items()})
    return jpeg(path, exif=exif)


def test_positions_in_exif_in_all_hemispheres(tmp_path):
    wanted = {
        "a.jpg": (59.9139, 10.7522),
        "b/rio.jpeg": (-22.9068, -43.1729),
        "c/fiji.jpg": (-17.5, 179.99),
        "d.JPG": (21.3, -157.85),
    }
    for name, point in wanted.items():
        tagged(tmp_path / name, *point, GPSImgDirection=123.5)
    (tmp_path / "notes.txt").write_text("no image")
    loaded, errors = load_places(tmp_path)
    assert errors.rows == []
    assert loaded["train"]["sample_id"][:] == list(wanted)
    np.testing.assert_allclose(points_of(loaded["train"]), list(wanted.values()), atol=1e-7)
    assert loaded["train"]["headings"][:] == [[123.5]] * 4


def test_photographs_of_another_datum_are_named_or_left_out(tmp_path):
    tagged(tmp_path / "a.jpg", 10, 20, GPSMapDatum="WGS-84")
    tagged(tmp_path / "old.jpg", 35, 139, GPSMapDatum="TOKYO")
    assert "row old.jpg: its EXIF gives a position of the datum 'TOKYO'" in refusal(tmp_path)
    assert load_photos(tmp_path, "skip")[0]["train"]["sample_id"][:] == ["a.jpg"]


def test_photographs_without_a_position_are_named_or_left_out(tmp_path):
    tagged(tmp_path / "a.jpg", 10, 20)
    jpeg(tmp_path / "sub" / "plain.jpg")
    (tmp_path / "cut.jpg").write_bytes(tagged(tmp_path / "whole.jpg", 11, 21).read_bytes()[:-150])
    (tmp_path / "zero.jpg").write_bytes(b"")
    message = refusal(tmp_path)
    assert message.startswith("3 rows cannot be used")
    assert f"{tmp_path}, row sub/plain.jpg: carries no position in its EXIF; give a metadata.csv" in message
    assert "row cut.jpg: " in message
    assert "is broken or truncated" in message
    assert f"{tmp_path}, row zero.jpg: the file is empty (0 bytes)" in message
    loaded, errors = load_photos(tmp_path, "skip")
    assert loaded["train"]["sample_id"][:] == ["a.jpg", "whole.jpg"]
    assert len(errors.rows) == 3


def test_a_folder_where_no_photograph_has_a_position(tmp_path):
    jpeg(tmp_path / "a.jpg")
    assert "no row is left" in refusal(tmp_path, "skip")


def test_a_folder_without_images(tmp_path):
    assert f"{tmp_path}: holds no image" in refusal(tmp_path)


def test_real_photographs(shared_data):
    loaded, errors = load_places(shared_data("geotagged"))
    points = points_of(loaded["train"])
    town = np.array([name.split("/")[0] for name in loaded["train"]["sample_id"]])
    assert errors.rows == []
    assert len(points) == 32
    assert (town == "berlin").sum() == 3
    assert np.abs(points[town == "berlin"] - [52.52, 13.4]).max() < 0.2
    assert np.abs(points[town == "lund"] - [55.7, 13.2]).max() < 0.2


def test_a_source_that_is_nowhere(hub, tmp_path):
    for name in (str(tmp_path / "nowhere"), str(tmp_path / "typo.csv"), "tester/no-such-data"):
        assert f"{name}: no such file or folder, and no dataset that can be loaded" in refusal(name)


# Datasets of the Hub


def encoded(value, form="JPEG"):
    buffer = io.BytesIO()
    PIL.new("RGB", (8, 8), (value, 100, 50)).save(buffer, form)
    return {"bytes": buffer.getvalue(), "path": f"{value}.{form.lower()}"}


def pixel(view):
    return PIL.open(io.BytesIO(view["bytes"])).getpixel((0, 0))


STATES = ["Texas", "Florida", "Maine"]
LATITUDES, LONGITUDES = [28.1, 31.0, 44.25, 30.5], [-81.5, -99.0, -70.5, -98.0]


def push(features, splits=None, **columns):
    features = Features(
        {"image": Image(), "latitude": Value("float64"), "longitude": Value("float64")} | features
    )
    columns = {"image": [encoded(v) for v in (10, 80, 160, 240)], "latitude": LATITUDES} | columns
    columns = {"longitude": LONGITUDES} | columns
    train = Dataset.from_dict({name: columns[name] for name in features}, features=features)
    DatasetDict({"train": train} | (splits or {})).push_to_hub(REPO)
    return train


def test_a_dataset_with_class_labels(hub):
    push({"state": ClassLabel(names=STATES)}, state=[1, 0, 2, 0])
    loaded, errors = load_places(REPO)
    train = loaded["train"]
    assert errors.rows == []
    assert train.column_names == list(place_features())
    assert train["state"][:] == ["Florida", "Texas", "Maine", "Texas"]
    assert train["state_idx"][:] == [None] * 4
    assert numbers(train) == [list(point) for point in zip(LATITUDES, LONGITUDES, strict=True)]
    assert [len(views) for views in train["views"]] == [1] * 4
    for views, value in zip(train["views"], (10, 80, 160, 240), strict=True):
        assert abs(pixel(views[0])[0] - value) < 6


def test_a_dataset_with_names_ids_and_headings(hub):
    push(
        {"label": Value("string"), "heading": Value("float32"), "sample_id": Value("int64")},
        label=["Florida", "Texas", " Maine", "Texas"],
        heading=[0.0, 90.0, None, 45.5],
        sample_id=[7, 3, 11, 2],
        longitude=[278.5, -99.0, -70.5, -98.0],
    )
    train = load_places(REPO)[0]["train"]
    assert train["state"][:] == ["Florida", "Texas", "Maine", "Texas"]
    assert train["sample_id"][:] == ["7", "3", "11", "2"]
    assert [row[0] for row in train["headings"]] == pytest.approx([0, 90, math.nan, 45.5], nan_ok=True)
    assert numbers(train)[0] == [28.1, -81.5]


def test_unknown_class_labels_are_no_state(hub):
    push({"state": ClassLabel(names=STATES)}, state=[1, -1, 2, None])
    assert load_places(REPO)[0]["train"]["state"][:] == ["Florida", None, "Maine", None]


def test_a_dataset_with_four_views(hub):
    image = Image()
    names = ("north", "east", "south", "west")
    features = {"latitude": Value("float64"), "longitude": Value("float64")} | dict.fromkeys(names, image)
    columns = {name: [encoded(20 + 60 * k), encoded(25 + 60 * k)] for k, name in enumerate(names)}
    columns["south"][1] = None
    columns |= {"latitude": [10.0, 11.0], "longitude": [20.0, 21.0]}
    Dataset.from_dict(columns, features=Features(features)).push_to_hub(REPO)
    train = load_places(REPO)[0]["train"]
    assert train["headings"][:] == [[0, 90, 180, 270], [0, 90, 270]]
    assert [round(pixel(view)[0] / 60) for view in train["views"][1]] == [0, 1, 3]


def test_places_that_were_pushed_come_back(hub, tmp_path):
    """What load_places gives can be shared by name, test places without a position included."""
    rows = {"train": [("1", 10.0), ("2", 20.0)], "test": [("3", math.nan)]}
    splits = {}
    for name, entries in rows.items():
        columns = {
            "sample_id": [sample_id for sample_id, _ in entries],
            "views": [[{"path": str(jpeg(tmp_path / f"{i}.jpg")), "bytes": None}] * 2 for i, _ in entries],
            "headings": [[0.0, 180.0]] * len(entries),
            "state": ["Texas" if name == "train" else None] * len(entries),
            "state_idx": [42 if name == "train" else None] * len(entries),
            "latitude": [30.0 if name == "train" else math.nan] * len(entries),
            "longitude": [-99.0 if name == "train" else math.nan] * len(entries),
        }
        splits[name] = Dataset.from_dict(columns, features=place_features())
    DatasetDict(splits).push_to_hub(REPO)
    loaded, errors = load_places(REPO)
    assert errors.rows == []
    for name, split in splits.items():
        assert loaded[name].column_names == list(place_features())
        for column in ("sample_id", "headings", "state", "state_idx"):
            assert loaded[name][column][:] == split[column][:]
        np.testing.assert_array_equal(points_of(loaded[name]), points_of(split))
        assert all(view["bytes"] for views in loaded[name]["views"] for view in views)


def test_a_run_on_a_dataset_that_has_a_test_split(hub, tmp_path, recipe):
    """Only the competition's folder has a submission to fill."""
    write_sample(tmp_path / "sample", size=2, image_size=32)
    load_places(tmp_path / "sample")[0].push_to_hub(REPO)
    done = recipe(
        "train_streetclip", "--data", REPO, "--backbone", "test_resnet", "--pretrained", "false", "--image_size", 32,
        "--head_min_steps", 1, "--head_epochs", 1, "--num_train_epochs", 0, "--map_places", 5, "--use_cpu",
        "--output_dir", tmp_path / "out", "--cache_dir", tmp_path / "cache",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert not (tmp_path / "out" / "submission.csv").exists()


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (
            {"image": [encoded(10), {"bytes": b"no image", "path": "x.jpg"}, encoded(160), encoded(240)]},
            "not an image",
        ),
        ({"image": [encoded(10), None, encoded(160), encoded(240)]}, "a sample has no view"),
        ({"latitude": [28.1, 131.0, 44.25, 30.5]}, "latitude 131 is outside -90..90"),
        ({"latitude": [28.1, None, 44.25, 30.5]}, "latitude nan is not finite"),
        (
            {"latitude": [28.1, -82.1, 44.25, 30.5], "longitude": [-81.5, 28.2, -70.5, -98.0]},
            "look swapped",
        ),
    ],
    ids=["broken", "no image", "out of range", "no position", "swapped"],
)
def test_a_bad_row_of_a_dataset(hub, columns, reason):
    push({"state": Value("string")}, state=["Florida", "Florida", "Maine", "Texas"], **columns)
    message = refusal(REPO)
    assert f"{REPO} [train], row 1: " in message
    assert reason in message
    loaded, errors = load_places(REPO, "skip")
    assert [(row["source"], row["row"]) for row in errors.rows] == [(f"{REPO} [train]", 1)]
    assert loaded["train"]["state"][:] == ["Florida", "Maine", "Texas"]
    assert [round(pixel(views[0])[0] / 80) for views in loaded["train"]["views"]] == [0, 2, 3]


def test_an_id_twice_in_a_dataset(hub):
    push({"sample_id": Value("string")}, sample_id=["a", "b", "a", "c"])
    assert f"{REPO} [train], row 2: sample_id a stands in row 0 already" in refusal(REPO)


def test_a_bad_view_of_a_dataset_does_not_cost_the_others(hub):
    broken = {"bytes": encoded(80)["bytes"][:200], "path": None}
    features = Features({"views": List(Image()), "lat": Value("float64"), "lon": Value("float64")})
    columns = {"views": [[broken, encoded(200)], [encoded(90)]], "lat": [1.0, 2.0], "lon": [3.0, 4.0]}
    Dataset.from_dict(columns, features=features).push_to_hub(REPO)
    loaded, errors = load_places(REPO, "skip")
    assert [row["row"] for row in errors.rows] == [0]
    assert [[round(pixel(view)[0] / 10) for view in views] for views in loaded["train"]["views"]] == [
        [20],
        [9],
    ]
    assert [len(headings) for headings in loaded["train"]["headings"]] == [1, 1]


def test_a_dataset_of_file_names_opens_no_file(hub, tmp_path):
    """Text in a dataset of strangers could name any file of this machine."""
    private = str(jpeg(tmp_path / "private.jpg"))
    Dataset.from_dict({"image": [private], "latitude": [1.0], "longitude": [2.0]}).push_to_hub(REPO)
    assert "column 'image' must hold images" in refusal(REPO, "skip")


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"photo": [encoded(10)], "latitude": [1.0], "longitude": [2.0]}, "needs a column 'views', 'image'"),
        (
            {"image": [encoded(10)], "latitude": [1.0], "longitud": [2.0]},
            "needs a column 'longitude' or 'lon'",
        ),
        ({"image": [encoded(10)], "latitude": ["here"], "longitude": [2.0]}, "must hold numbers"),
    ],
)
def test_a_dataset_without_what_is_needed(hub, columns, reason):
    dataset = Dataset.from_dict(columns)
    dataset.cast_column(next(iter(columns)), Image()).push_to_hub(REPO)
    assert reason in refusal(REPO, "skip")


def test_a_dataset_without_training_places(hub):
    dataset = Dataset.from_dict({"image": [encoded(10)], "lat": [1.0], "lon": [2.0]}).cast_column(
        "image", Image()
    )
    DatasetDict(validation=dataset).push_to_hub(REPO)
    assert f"{REPO}: has no split 'train' but validation" in refusal(REPO)


def test_a_row_is_called_by_its_sample_id_in_every_way_of_reading(tmp_path):
    jpeg(tmp_path / "a.jpg")
    jpeg(tmp_path / "b.jpg", color=(1, 2, 3))
    table = tmp_path / "places.csv"
    table.write_text("sample_id,image,latitude,longitude\nparis,a.jpg,48,2\n,b.jpg,50,3\n")
    assert load_photos(table)[0]["train"]["sample_id"][:] == ["paris", "b.jpg"]
    assert [row["sample_id"] for row in stream_places(table)] == ["paris", "b.jpg"]
    assert table_of_views(str(table))[0] == ["paris", "b.jpg"]


def test_an_empty_heading_leaves_the_word_to_the_angle_beside_it(tmp_path, caplog):
    for name in ("a.jpg", "b.jpg"):
        jpeg(tmp_path / name, color=(ord(name[0]), 2, 3))
    table = tmp_path / "places.csv"
    table.write_text("image,latitude,longitude,heading,angle\na.jpg,48,2,,90\nb.jpg,50,3,10,20\n")
    assert load_photos(table)[0]["train"]["headings"][:] == [[90.0], [10.0]]
    assert [sample["headings"] for sample in table_of_views(str(table))[1]] == [[90.0], [10.0]]
    assert split_views({"image": "a.jpg", "heading": math.nan, "angle": 90})[1] == [90.0]
    assert "is not read" not in caplog.text
    table.write_text("image,latitude,longitude,heading_rad\na.jpg,48,2,1.5\n")
    assert np.isnan(load_photos(table)[0]["train"]["headings"][0]).all()
    assert "the column heading_rad is not read: headings are degrees" in caplog.text


def test_a_heading_counts_where_the_list_of_headings_is_empty(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        jpeg(tmp_path / name, color=(ord(name[0]), 2, 3))
    rows = {"views": ['["a.jpg"]', '["b.jpg"]'], "headings": ["[10]", ""], "heading": ["", "77"]}
    table = tmp_path / "places.csv"
    pd.DataFrame(rows | {"latitude": [48, 50], "longitude": [2, 3]}).to_csv(table, index=False)
    assert load_photos(table)[0]["train"]["headings"][:] == [[10.0], [77.0]]


def test_a_sample_id_twice_in_a_table(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        jpeg(tmp_path / name, color=(ord(name[0]), 2, 3))
    table = tmp_path / "places.csv"
    table.write_text("sample_id,image,latitude,longitude\n7.0,a.jpg,48,2\n7,b.jpg,50,3\n")
    with pytest.raises(DataError, match="sample_id '7' stands in row 2 already"):
        load_photos(table)
