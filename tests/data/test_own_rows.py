"""Rows of a user's own may name their columns as tables do."""

import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from geohf.data.rows import cell_of, positions_of
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
