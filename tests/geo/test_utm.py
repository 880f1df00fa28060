"""UTM against points that others published, and against its own inverse."""

import numpy as np
import pytest

from geohf.errors import DataError
from geohf.geo import great_circle_m
from geohf.geo.utm import points_from_utm, utm_from_points, utm_zone


# latitude, longitude, zone, easting, northing: from the `utm` package's documentation and tests, and GeographicLib's
@pytest.mark.parametrize(
    ("latitude", "longitude", "zone", "east", "north"),
    [
        (50.77535, 6.08389, "32U", 294409, 5628898),  # Aachen
        (40.71435, -74.00597, "18T", 583960, 4507523),  # New York
        (-41.28646, 174.77624, "60 south", 313784, 5427057),  # Wellington
        (-33.92487, 18.42406, "EPSG:32734", 261878, 6243186),  # Cape Town
        (-32.89018, -68.84405, "19 south", 514586, 6360877),  # Mendoza
        (64.83778, -147.71639, "6 north", 466013, 7190568),  # Fairbanks
        (56.79680, -5.00601, "30V", 377486, 6296562),  # Ben Nevis
        (84, -5.00601, "30X", 476594, 9328501),
    ],
)
def test_published_points(latitude, longitude, zone, east, north):
    point = points_from_utm([[east, north]], zone)[0]
    # the published metres and degrees are both rounded, to 1 m and to 0.00001 degrees
    assert great_circle_m(point, [latitude, longitude]) < 1.6
    assert np.abs(utm_from_points([[latitude, longitude]], zone)[0] - [east, north]).max() < 1.6


def test_on_the_central_meridian_the_northing_is_the_scaled_arc():
    # the meridian quarter of WGS 84 is 10,001,965.7293 m
    point = points_from_utm([[500_000.0, 0.9996 * 10_001_965.7293]], "31 north")[0]
    assert point[0] == pytest.approx(90, abs=1e-9)
    assert points_from_utm([[500_000.0, 10_000_000.0]], "31 south").tolist() == [[0.0, 3.0]]


@pytest.mark.parametrize("zone", ["1 north", "31 north", "31 south", "60 south"])
def test_there_and_back(zone):
    rng = np.random.default_rng(0)
    middle = 6 * utm_zone(zone)[0] - 183
    points = np.stack([rng.uniform(-80, 84, 2000), (middle + rng.uniform(-4, 4, 2000) + 180) % 360 - 180], 1)
    back = points_from_utm(utm_from_points(points, zone), zone)
    assert great_circle_m(points, back).max() < 1e-5


def test_a_letter_is_a_latitude_band():
    assert utm_zone("54S") == (54, True)  # Tokyo; band S begins at 32 degrees north
    assert utm_zone(" 19 K ") == (19, False)
    assert utm_zone("32719") == (19, False)


@pytest.mark.parametrize("zone", ["54", "0 north", "61N", "12 west", "12I", "", "EPSG:4326"])
def test_zones_that_say_too_little_are_refused(zone):
    with pytest.raises(DataError, match="zone"):
        utm_zone(zone)
