"""Positions from EXIF tags: hemispheres, rationals, headings, and what cameras write in their place."""

import math
import random

import pytest
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from geohf.errors import DataError, warn_once
from geohf.vision.exif import exif_position
from geohf.vision.files import image_files

GPS = ExifTags.GPS


@pytest.fixture
def write(tmp_path):
    def write(tags, name="photo.jpg"):
        exif = Image.Exif()
        exif[ExifTags.Base.Make] = "camera"
        exif.get_ifd(ExifTags.IFD.GPSInfo).update({int(tag): value for tag, value in tags.items()})
        Image.new("RGB", (8, 8)).save(tmp_path / name, exif=exif)
        return tmp_path / name

    return write


def position(north="N", latitude=(47, 22, 37.56), east="E", longitude=(8, 32, 30.12), **more):
    tags = {
        GPS.GPSLatitudeRef: north,
        GPS.GPSLatitude: latitude,
        GPS.GPSLongitudeRef: east,
        GPS.GPSLongitude: longitude,
    }
    return tags | {getattr(GPS, name): value for name, value in more.items()}


@pytest.mark.case("use-O3")
@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.webp"])
@pytest.mark.parametrize(("north", "east"), [("N", "E"), ("S", "E"), ("N", "W"), ("S", "W")])
def test_degrees_minutes_seconds_take_the_sign_of_their_hemisphere(write, north, east, name):
    found = exif_position(write(position(north, east=east), name))
    assert found.latitude == pytest.approx((1 if north == "N" else -1) * 47.3771, abs=1e-6)
    assert found.longitude == pytest.approx((1 if east == "E" else -1) * 8.5417, abs=1e-6)
    assert math.isnan(found.heading)


@pytest.mark.case("use-O3")
def test_rational_minutes_and_headings_are_read(write):
    latitude = (IFDRational(52, 1), IFDRational(31, 1), IFDRational(1234, 100))
    for north in ("T", "M"):  # magnetic north is a few degrees off, which a heading of a telephone is, too
        tags = position(latitude=latitude, GPSImgDirection=IFDRational(27055, 100), GPSImgDirectionRef=north)
        found = exif_position(write(tags))
        assert found.latitude == pytest.approx(52 + 31 / 60 + 12.34 / 3600, abs=1e-9)
        assert found.heading == pytest.approx(270.55)


NONE = IFDRational(0, 0)


@pytest.mark.case("use-M9")
@pytest.mark.parametrize(
    ("latitude", "expected"),
    [
        ((47, IFDRational(2262600, 100000), NONE), 47.3771),
        ((47, 22, NONE), 47 + 22 / 60),
        ((IFDRational(473771, 10000), NONE, NONE), 47.3771),
    ],
    ids=["decimal minutes", "whole minutes", "decimal degrees"],
)
def test_parts_that_the_camera_does_not_have_count_as_zero(write, latitude, expected):
    assert exif_position(write(position("S", latitude))).latitude == pytest.approx(-expected, abs=1e-6)


@pytest.mark.case("files-A12", "use-M9")
@pytest.mark.parametrize("latitude", [(47, NONE, NONE), (NONE, 22, 37), (47, NONE, 37), (47, 99, 0)])
def test_a_place_known_to_a_degree_is_none(write, latitude):
    assert exif_position(write(position(latitude=latitude))) is None


@pytest.mark.parametrize(("north", "east"), [("s", "w"), ("South", "West"), ("S\0", "w ")])
def test_hemispheres_in_other_letters_count(write, north, east):
    found = exif_position(write(position(north, east=east)))
    assert (found.latitude, found.longitude) == pytest.approx((-47.3771, -8.5417), abs=1e-6)


def test_a_full_turn_is_north(write):
    assert exif_position(write(position(GPSImgDirection=360.0))).heading == 0


@pytest.mark.case("use-O1")
def test_an_unknown_heading_does_not_lose_the_position(write):
    found = exif_position(write(position(GPSImgDirection=IFDRational(0, 0))))
    assert found.latitude == pytest.approx(47.3771)
    assert math.isnan(found.heading)


@pytest.mark.case("use-O1")
@pytest.mark.parametrize(
    "tags",
    [
        {},
        {GPS.GPSLatitudeRef: "N", GPS.GPSLatitude: (47, 22, 37)},
        position(latitude=(IFDRational(0, 0),) * 3, longitude=(IFDRational(0, 0),) * 3),
        position(latitude=(0, 0, 0), longitude=(0, 0, 0)),
        position(latitude=(91, 0, 0)),
        position(longitude=(180, 1, 0)),
        position(latitude=(47, 22)),
        position(north=""),
        position(east="1"),
        {GPS.GPSLatitude: (47, 22, 37), GPS.GPSLongitude: (8, 32, 30)},
        {GPS.GPSAltitude: 430.0},
    ],
    ids=[
        *(
            "no tags",
            "half",
            "0/0",
            "zeros",
            "beyond the pole",
            "beyond 180",
            "two numbers",
            "empty hemisphere",
        ),
        *("no hemisphere", "neither hemisphere", "altitude alone"),
    ],
)
def test_what_is_no_position_is_none(write, tags):
    assert exif_position(write(tags)) is None


def test_zero_longitude_or_latitude_alone_is_a_position(write):
    assert exif_position(write(position(longitude=(0, 0, 0)))).longitude == 0
    assert exif_position(write(position(latitude=(0, 0, 0)))).latitude == 0


def test_files_that_are_no_photograph_have_no_position(tmp_path):
    (tmp_path / "a.jpg").write_text("text")
    Image.new("RGB", (4, 4)).save(tmp_path / "b.bmp")
    for name in ("a.jpg", "b.bmp", "absent.jpg"):
        assert exif_position(tmp_path / name) is None
    assert exif_position(tmp_path) is None


@pytest.mark.case("use-O2")
@pytest.mark.filterwarnings("ignore")
def test_damaged_tags_never_raise(write, tmp_path):
    whole = write(position(GPSImgDirection=90.0)).read_bytes()
    generator = random.Random(0)
    end = whole.index(b"\xff\xdb")  # the tables behind the EXIF segment
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(generator.choice([1, 3, 10])):
            damaged[generator.randrange(20, end)] = generator.randrange(256)
        (tmp_path / "damaged.jpg").write_bytes(damaged)
        found = exif_position(tmp_path / "damaged.jpg")
        assert found is None or (abs(found.latitude) <= 90 and abs(found.longitude) <= 180)


@pytest.mark.parametrize(
    ("place", "count", "latitude", "longitude"), [("berlin", 3, 52.5, 13.4), ("lund", 29, 55.7, 13.2)]
)
def test_real_photographs_lie_where_they_were_taken(shared_data, place, count, latitude, longitude):
    found = [exif_position(path) for path in image_files(shared_data("geotagged") / place)]
    assert len(found) == count
    assert all(abs(p.latitude - latitude) < 0.3 and abs(p.longitude - longitude) < 0.3 for p in found)
    assert all(math.isnan(p.heading) or 0 <= p.heading < 360 for p in found)


@pytest.mark.case("use-O3")
@pytest.mark.parametrize(
    "datum",
    [
        *("WGS-84", "WGS84", "wgs 84", "WGS-1984", "  ", "JGD2011", b"WGS-84\0", b"ASCII\0\0\0WGS-84"),
        *("World Geodetic System 1984", "SIRGAS2000", "unknown", "None", "0"),
    ],
)
def test_a_position_of_wgs_84_is_taken_however_the_datum_is_written(write, datum):
    assert exif_position(write(position(GPSMapDatum=datum))).latitude == pytest.approx(47.3771, abs=1e-6)


@pytest.mark.case("use-O3")
def test_a_position_of_another_datum_is_not_taken_for_wgs_84(write):
    with pytest.raises(DataError, match="datum 'TOKYO': write it in degrees of WGS 84"):
        exif_position(write(position(GPSMapDatum="TOKYO")))


@pytest.mark.case("use-O3")
def test_a_position_from_before_the_satellites_were_lost_is_taken_with_a_word(write, caplog):
    warn_once.cache_clear()
    assert exif_position(write(position(GPSStatus="A"))) is not None
    assert not caplog.records
    assert exif_position(write(position(GPSStatus="V"))).latitude == pytest.approx(47.3771, abs=1e-6)
    assert "such positions may be old" in caplog.text
