"""Labels at points: the windows around them, their steps, and what is said of those that have none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from rasterio.transform import from_origin
from rasterio.warp import transform

from geohf import DataError, TileSequenceModel
from geohf.data.tables import RowErrors
from geohf.recipes import train_tiles
from geohf.tiles.arguments import TileArguments, TileTrainingArguments
from geohf.tiles.data import load
from geohf.tiles.points import load_points, steps_of_dates
from geohf.tiles.table import load_tiles

LABELS = ["2019", "2020", "2021"]
ORIGINS = {
    "7": (500_000, 5_000_000),
    "8": (500_300, 5_000_000),
}  # 300 m: 30 pixels apart, 40 wide: they overlap
SIDE = 40


class Points:
    """Two rasters that overlap, and points in them."""

    def __init__(self, folder, tiff):
        self.folder, self.images = folder, folder / "Images"
        rng = np.random.default_rng(0)
        for label in LABELS:
            for region, (x, y) in ORIGINS.items():
                geo = {"crs": "EPSG:32632", "transform": from_origin(x, y, 10, 10)}
                tiff(
                    self.images / label / f"{region}.tif",
                    rng.integers(1, 255, (SIDE, SIDE, 3), np.uint8),
                    **geo,
                )

    def write(self, pixels, region="7", **columns):
        """A table of points at these (x, y) pixels of a raster."""
        x, y = np.array(pixels, float).T * 10
        lon, lat = transform("EPSG:32632", "EPSG:4326", ORIGINS[region][0] + x, ORIGINS[region][1] - y)
        frame = pd.DataFrame({"latitude": lat, "longitude": lon} | columns)
        frame.to_csv(self.folder / "points.csv", index=False)
        return self.folder / "points.csv"

    def load(self, path, tile_size=8, **settings):
        return load_points(path, self.images, LABELS, tile_size, **settings)


@pytest.fixture
def points(tmp_path, tiff):
    return Points(tmp_path / "world", tiff)


def test_windows_are_those_of_the_box_table_made_by_hand(points):
    rng = np.random.default_rng(1)
    pixels = rng.uniform(4.6, 25, (12, 2))  # in the part that the first raster has alone, and the other's rim
    table = points.load(points.write(pixels, target=np.arange(12.0)))
    corners = np.floor(pixels - 4 + 0.5).astype(int)
    boxes = pd.DataFrame(
        {
            "tile_id": np.arange(12),
            "region_id": "7",
            "target": np.arange(12.0),
            "region_coordinates": [str((x, y, x + 8, y + 8)) for x, y in corners.tolist()],
        }
    )
    by_hand = load_tiles(boxes, points.images, LABELS)
    assert (table.boxes == by_hand.boxes).all()
    assert table.regions == by_hand.regions == ["7"]
    np.testing.assert_array_equal(table.values, by_hand.values)
    middle = (table.boxes[:, :2] + table.boxes[:, 2:]) / 2
    assert np.abs(middle - pixels).max() <= 0.5 + 1e-6


def test_of_rasters_that_overlap_the_deeper_one_counts_unless_the_table_says(points):
    path = points.write([(31, 20), (36, 20)], target=[1.0, 2.0])
    assert points.load(path).regions == ["7", "8"]  # 9 pixels from the rim of the first, then 6 in the second
    path = points.write([(31, 20), (36, 20)], target=[1.0, 2.0], region_id=["7", "7"])
    assert points.load(path).regions == ["7"]


def test_columns_are_heard_in_any_case_of_letters(points):
    path = points.write(
        [(20, 20)] * 2, target=[0.1, 0.2], DATE=["2019-05-01", "2020-05-01"], Region_ID=["7"] * 2
    )
    text = path.read_text().replace("latitude", "LATITUDE").replace("target", "Target")
    path.write_text(text)
    table = points.load(path)
    assert table.values[0, :2, 0].tolist() == [0.1, 0.2]
    assert table.regions == ["7"]


def test_dates_say_which_step_a_value_is_of(points):
    path = points.write(
        [(10, 10), (10, 10), (20, 20)],
        target=[1.0, 2.0, 3.0],
        date=["2019-06-01", "2020-01-01", "2021-12-31"],
    )
    table = points.load(path)
    assert len(table) == 2
    np.testing.assert_array_equal(table.values[..., 0], [[1, 2, np.nan], [np.nan, np.nan, 3]])
    months = ["2020-01", "2020-03", "2020-06"]
    dates = [
        "2020-01-01",
        "2020-02-29",
        "2020-03-01",
        "2020-06",
        "2020-08-31",
        "2020-09-01",
        "2019-12-31",
        "x",
    ]
    steps, bad = steps_of_dates(dates, months)
    assert steps[:5].tolist() == [0, 0, 1, 2, 2]
    assert {i: reason.rpartition(" is ")[2] for i, reason in bad.items()} == {
        5: "after the last label, 2020-06",
        6: "before the first label, 2020-01",
        7: "no date; write 2019-07-31, 2019-07 or 2019",
    }


def test_dates_of_a_year_that_has_no_image_get_a_word(caplog):
    steps, bad = steps_of_dates(["2017-06-01", "2018-06-01", "2019-12-31"], ["2016", "2017", "2019"])
    assert (steps.tolist(), bad) == ([1, 1, 2], {})
    assert "1 dates are of no label's own time, such as 2018-06-01: each counts as of" in caplog.text
    caplog.clear()
    steps_of_dates(["2017-02-01", "2017-02-28"], ["2017-01", "2017-02"])
    steps_of_dates(["2017-06-01", "2018-06-01"], ["2017-01-01", "2018-01-01"])
    assert not caplog.text


@pytest.mark.parametrize(
    ("pixel", "columns", "message"),
    [
        ((200, 200), {}, "row 3: the point .* lies outside of any raster"),
        ((10, 3), {}, "row 3: the point .* lies 3 pixels from the rim of 7, a window of 8 does not fit in"),
        ((10, 10), {"region_id": ["7", "9"]}, "row 3: the point .* lies outside of the raster 9"),
        ((10, 10), {"date": ["2019", "spring"]}, "row 3: date: 'spring' is no date"),
        (
            (10, 10),
            {"date": ["2019", "1999-01-01"]},
            "row 3: date: 1999-01-01 is before the first label, 2019",
        ),
        ((10, 10), {"target": [1.0, np.nan]}, "row 3: its target is empty or not a finite number"),
        ((20, 20), {"target": [1.0, 2.0]}, "row 3: lies in the window of row 2, with other values for 2021"),
        ((10, 10), {"latitude": [44.0, 91.0]}, "row 3: "),
        ((10, 10), {"longitude": [8.0, np.nan]}, "row 3: latitude or longitude is empty"),
    ],
)
def test_points_that_cannot_be_used(points, pixel, columns, message):
    path = points.write(
        [(20, 20), pixel], **{"target": [1.0, 1.0]} | {k: v for k, v in columns.items() if "itude" not in k}
    )
    if "latitude" in columns or "longitude" in columns:
        (name, (_, value)) = next(iter(columns.items()))
        frame = pd.read_csv(path)
        frame.loc[1, name] = value
        frame.to_csv(path, index=False)
    with pytest.raises(DataError, match=message):
        points.load(path)
    if "window" not in message.partition("row 2")[0]:
        errors = RowErrors("skip")
        assert len(points.load(path, errors=errors)) == 1
        assert len(errors.rows) == 1


def test_a_point_table_trains_and_its_model_reads_another_one(points, tmp_path):
    rng = np.random.default_rng(0)
    pixels = np.concatenate([rng.uniform(5, 28, (40, 2)), rng.uniform(36, 60, (40, 2)) - (0, 28)])
    path = points.write(pixels, target=rng.random(80), date=rng.choice(["2020-05-01", "2021-08-01"], 80))
    args = TileTrainingArguments(
        output_dir=str(tmp_path / "out"),
        cache_dir=str(tmp_path / "cache"),
        cache_workers=1,
        num_train_epochs=1,
        use_cpu=True,
        disable_tqdm=True,
        eval_strategy="no",
        load_best_model_at_end=False,
    )
    options = TileArguments(data=str(path), tile_size=8, block_px=10, hidden_sizes=[4])
    data = load(options, args)
    assert set(data.train.windows.steps) == {1, 2}
    train_tiles.run(options, args)
    model = TileSequenceModel.from_pretrained(tmp_path / "out")
    assert model.config.window == 8
    asked = points.write([(10, 10), (20, 20)])
    assert len(model.predict(str(asked))) == 2
