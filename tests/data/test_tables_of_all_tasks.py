"""One table, by every door of the tasks that take tables of places."""

import pandas as pd
import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from geohf.data.tables import RowErrors
from geohf.errors import DataError
from geohf.place.drives import load_drives
from geohf.place.streaming import stream_drives
from geohf.region.rows import load_region_table
from geohf.region.streaming import stream_regions
from geohf.street.data import load_places
from geohf.street.streaming import stream_places

POINTS = [(48.85, 2.35), (48.86, 2.36), (48.87, 2.37)]


def load_regions(source, on_error):
    errors = RowErrors(on_error)
    loaded = load_region_table(source, errors=errors)
    errors.settle(len(loaded))
    return loaded


DOORS = {
    "region": load_regions,
    "street": lambda source, on_error: load_places(source, on_error)[0]["train"],
    "place": lambda source, on_error: load_drives(source, on_error=on_error)[0],
    "region stream": lambda source, on_error: stream_regions(source, on_error=on_error),
    "street stream": lambda source, on_error: stream_places(source, on_error=on_error),
    "place stream": lambda source, on_error: stream_drives(source, on_error=on_error),
}


def points(rows):
    return [(row["latitude"], row["longitude"]) for row in rows]


@pytest.fixture
def frame(tmp_path):
    for i in range(4):
        Image.new("RGB", (8, 6), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    rows = [*POINTS, (0.0, 0.0)]
    columns = {
        "image": [f"{i}.png" for i in range(4)],
        "lat": [p[0] for p in rows],
        "lon": [p[1] for p in rows],
    }
    return pd.DataFrame(columns | {"region": ["1"] * 4})


@pytest.mark.case("files-A12")
@pytest.mark.parametrize("door", DOORS)
def test_no_fix_is_refused_or_left_out(tmp_path, frame, door):
    path = tmp_path / "t.csv"
    frame.to_csv(path, index=False)
    with pytest.raises(DataError, match=r"row 5: \(0, 0\) stands for a position that is not known"):
        points(DOORS[door](path, "raise"))
    assert points(DOORS[door](path, "skip")) == POINTS


@pytest.mark.case("use-U6", "use-M4", "use-M5")
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", ["jsonl", "excel", "index", "saved"])
def test_every_kind_of_table_is_taken(tmp_path, frame, door, kind):
    frame = frame.iloc[:3]
    path = tmp_path / {"jsonl": "metadata.jsonl", "index": "t.parquet"}.get(kind, "t.csv")
    if kind == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif kind == "excel":
        frame.to_csv(path, index=False, sep=";", decimal=",")
    elif kind == "index":
        frame.set_index("image").to_parquet(path)
    else:
        path = tmp_path / "saved"
        features = Features({"image": ImageFeature(), "region": Value("string")})
        features |= {"lat": Value("float64"), "lon": Value("float64")}
        images = [str(tmp_path / name) for name in frame["image"]]
        columns = {"image": images, "region": frame["region"].tolist()}
        columns |= {"lat": frame["lat"].tolist(), "lon": frame["lon"].tolist()}
        Dataset.from_dict(columns, features=Features(features)).save_to_disk(path)
    assert points(DOORS[door](path, "raise")) == POINTS
    if kind == "jsonl" and "stream" not in door:
        assert points(DOORS[door](tmp_path, "raise")) == POINTS
