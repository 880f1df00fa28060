"""Rows of a user's own may name their columns as tables do."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, IterableDataset
from PIL import Image
from torch.utils.data import ConcatDataset, Subset

from geohf.data.rows import cell_of, heading_of, positions_of
from geohf.data.streaming import as_stream
from geohf.errors import DataError
from geohf.place.rows import as_drives
from geohf.region.rows import as_photos
from geohf.street.places import as_places

PHOTO = Image.new("RGB", (8, 8))


@pytest.mark.parametrize("read", [as_photos, as_drives, as_places])
@pytest.mark.parametrize("names", [("lat", "lon"), ("Latitude", "Longitude"), ("GPSLatitude", "lng")])
def test_positions_have_the_names_that_tables_take(read, names):
    rows = read([{"image": PHOTO, **dict(zip(names, (36.5, 127.25), strict=True))}])
    assert (rows["latitude"], rows["longitude"]) == ([36.5], [127.25])


def test_regions_and_headings_have_the_names_that_tables_take():
    rows = as_photos([{"image": PHOTO, "region_id": "3", "compass": 370}, {"image": PHOTO, "RegionID": 5}])
    assert rows["region"] == ["3", 5]
    assert rows["heading"][0] == 10
    assert math.isnan(rows["heading"][1])


@pytest.mark.case("use-M1")
@pytest.mark.parametrize("read", [as_photos, as_drives, as_places])
def test_positions_are_written_as_in_tables(read):
    cells = [
        {"GPSLatitude": 33.86, "GPSLatitudeRef": "S", "GPSLongitude": 151.2, "GPSLongitudeRef": "E"},
        {"lat": "33 deg 51' 36.00\" S", "lon": "151.2 E"},
        {"gps_latitude": "33.86", "gps_latitude_ref": "South", "gps_longitude": "151.2"},
    ]
    rows = read([{"image": PHOTO} | cell for cell in cells])
    assert rows["latitude"] == pytest.approx([-33.86] * 3)
    assert rows["longitude"] == pytest.approx([151.2] * 3)
    with pytest.raises(
        DataError, match=r"got 33\.86 and lat_ref '' as lat"
    ):  # as in a table, None is no north
        read([{"image": PHOTO, "lat": 33.86, "lat_ref": None, "lon": 151.2}])["latitude"]
    both = cells[1] | {"lat_ref": "N"}
    with pytest.raises(DataError, match=r"row 1: .* got '33 deg .* and lat_ref 'N' as lat"):
        read([{"image": PHOTO} | cell for cell in [cells[0], both]])["latitude"]


@pytest.mark.parametrize("empty", [None, "", " ", "nan", "None", math.nan, pd.NA, pd.NaT])
def test_an_empty_position_is_unknown_and_a_photograph_of_a_drive_needs_one(empty):
    rows = [{"image": PHOTO, "latitude": empty, "longitude": empty}]
    for read in (as_photos, as_places):
        assert math.isnan(read(rows)["latitude"][0])
    with pytest.raises(DataError, match="row 0 has no latitude and no longitude"):
        as_drives(rows)["latitude"]


@pytest.mark.parametrize("read", [as_photos, as_drives, as_places])
@pytest.mark.parametrize("heading", ["N", "90°", True])
def test_a_heading_that_is_no_number_is_refused_and_an_empty_one_is_unknown(read, heading):
    row = {"image": PHOTO, "latitude": 48.0, "longitude": 2.0}
    with pytest.raises(DataError, match="a heading is degrees clockwise from north, got"):
        read([row | {"heading": heading}])[0]
    for empty in (None, "", math.nan):
        assert np.isnan(read([row | {"heading": empty}])[0].get("heading", math.nan))
    turned = read([row | {"heading": -90}])[0]
    assert turned.get("heading", turned.get("headings")) in (270, [270])


@pytest.mark.parametrize("lacking", [{}, {"longitude": None}, {"longitude": np.nan}])
def test_half_a_position_is_refused(lacking):
    with pytest.raises(DataError, match="row 0: has only one of latitude and longitude"):
        positions_of([{"latitude": 48.0} | lacking])


def test_of_cells_the_name_asked_for_and_the_first_that_is_not_empty_counts():
    assert cell_of({"latitude": 1.0, "Latitude": 2.0}, ["latitude", "lat"]) == 1.0
    assert cell_of({"Latitude": 2.0, "latitude": 1.0}, ["latitude", "lat"]) == 1.0
    for empty in (None, "", math.nan, np.float32("nan"), pd.NA):
        assert cell_of({"lat": empty, "GPSLatitude": 5.0}, ["latitude", "lat", "gpslatitude"]) == 5.0
    with pytest.raises(DataError, match="'Lat' and 'LAT' differ in case alone"):
        cell_of({"Lat": 1.0, "LAT": 2.0}, ["latitude", "lat"])


@pytest.mark.case("use-S2")
@pytest.mark.parametrize(
    ("read", "column"),
    [(as_photos, "region"), (as_places, "state"), (as_places, "label"), (as_drives, "sequence")],
)
def test_numbers_of_a_class_label_are_its_names(read, column):
    def rows(*names):
        cells = {"image": [PHOTO] * 3, "latitude": [36.5] * 3, "longitude": [127.25] * 3, column: [1, 0, -1]}
        return Dataset.from_dict(cells).cast_column(column, ClassLabel(names=names))

    given = rows("Texas", "Maine")
    for kind in (given, Subset(given, range(3)), ConcatDataset([given])):
        named = read(kind)["state" if column == "label" else column]
        assert named[:2] == ["Maine", "Texas"]
        assert not named[2]
    with pytest.raises(DataError, match="number their classes differently"):
        read(ConcatDataset([given, rows("Maine", "Texas")]))


@pytest.mark.parametrize("read", [as_photos, as_places])
def test_columns_and_splits_are_no_rows(read):
    columns = {
        "image": [PHOTO],
        "latitude": [36.5],
        "longitude": [127.25],
        "state": ["Maine"],
        "region": ["3"],
    }
    for given in (columns, pd.DataFrame(columns), DatasetDict(train=Dataset.from_dict(columns))):
        with pytest.raises(DataError, match=r"a list of dicts, .* got "):
            read(given)


class TorchStream(torch.utils.data.IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


@pytest.mark.parametrize("read", [as_photos, as_places])
@pytest.mark.parametrize("kind", ["arrow", "mapped", "generator", "torch"])
def test_a_users_own_stream_may_name_its_columns_as_tables_do(read, kind):
    """Its regions and states were unknown before, and its rows without a label."""
    rows = [
        {"image": PHOTO, "Region_ID": "3", "GPSLatitude": 33.5, "GPSLatitudeRef": "S", "lng": 151.25},
        {"image": PHOTO, "Region_ID": "5", "GPSLatitude": 36.5, "GPSLatitudeRef": "N", "lng": 127.25},
    ]
    if read is as_places:
        rows = [
            {"State" if name == "Region_ID" else name: cell for name, cell in row.items()} for row in rows
        ]
    streams = {
        "arrow": lambda: Dataset.from_list(rows).to_iterable_dataset(),
        "mapped": lambda: Dataset.from_list(rows).to_iterable_dataset().map(dict),
        "generator": lambda: IterableDataset.from_generator(lambda: iter(rows)),
        "torch": lambda: as_stream(TorchStream(rows)),
    }
    stream = read(streams[kind]())
    for found in (list(stream), list(stream)):
        assert [row["state" if read is as_places else "region"] for row in found] == ["3", "5"]
        assert [(row["latitude"], row["longitude"]) for row in found] == [(-33.5, 151.25), (36.5, 127.25)]


class SharedOut(torch.utils.data.IterableDataset):
    """As torch's documentation shows it."""

    def __iter__(self):
        told = torch.utils.data.get_worker_info()
        numbers = range(9) if told is None else range(told.id, 9, told.num_workers)
        return ({"n": number} for number in numbers)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_torch_stream_that_shares_itself_out_among_workers_is_read_whole(workers):
    loader = torch.utils.data.DataLoader(as_stream(SharedOut()), batch_size=None, num_workers=workers)
    assert sorted(row["n"] for row in loader) == list(range(9))


@pytest.mark.parametrize(("read", "column"), [(as_photos, "Region_ID"), (as_places, "State")])
def test_classes_of_a_users_own_stream_have_their_names(read, column):
    rows = Dataset.from_list([{"image": PHOTO, column: i} for i in (1, 0)])
    rows = rows.cast_column(column, ClassLabel(names=["Texas", "Maine"]))
    (first, second) = read(rows.to_iterable_dataset())
    name = "state" if read is as_places else "region"
    assert (first[name], second[name]) == ("Maine", "Texas")


@pytest.mark.parametrize("cell", [math.inf, "-inf", "north"])
def test_a_heading_that_is_no_finite_number_is_refused(cell):
    with pytest.raises(DataError, match="a heading is degrees clockwise from north"):
        heading_of(cell)
