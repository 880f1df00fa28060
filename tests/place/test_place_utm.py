"""UTM as people write it: letters, codes, whole countries in one zone, and what contradicts itself."""

import re

import numpy as np
import pytest
from PIL import Image
from rasterio.warp import transform

from geohf.data.tables import points_of
from geohf.errors import DataError
from geohf.geo.utm import points_and_reasons, utm_zone
from geohf.place.drives import load_drives
from geohf.place.file_names import point_of_name
from geohf.place.streaming import stream_drives

SYDNEY, RIO, TOKYO = (334000.0, 6252000.0), (683466.0, 7460687.0), (381722.33, 3945827.1)


def by_proj(epsg, east, north):
    longitude, latitude = transform(f"EPSG:{epsg}", "EPSG:4326", [east], [north])
    return latitude[0], longitude[0]


def drive(folder, header, *rows):
    for i in range(len(rows)):
        Image.new("RGB", (8, 6), (i, 0, 0)).save(folder / f"{i}.png")
    path = folder / "drive.csv"
    path.write_text("\n".join([f"image,{header}", *(f"{i}.png,{row}" for i, row in enumerate(rows)), ""]))
    return path


def both(path, **options):
    """(n, 2) degrees that a table gives, after the stream of it was found to give the same."""
    points = points_of(load_drives(path, **options)[0])
    streamed = [(row["latitude"], row["longitude"]) for row in stream_drives(path, **options)]
    assert np.array_equal(points, streamed)
    return points


# Letters


@pytest.mark.case("files-A4")
@pytest.mark.parametrize(
    ("point", "zone", "epsg"),
    [
        *[(SYDNEY, "56S", 32756), (SYDNEY, "56H", 32756), (RIO, "23S", 32723), (RIO, "23K", 32723)],
        *[(TOKYO, "54S", 32654), (TOKYO, "54 N", 32654), (TOKYO, "54N", 32654)],
    ],
)
def test_the_northing_says_what_a_letter_means(tmp_path, point, zone, epsg):
    expected = by_proj(epsg, *point)
    assert points_and_reasons([point], zone)[0][0] == pytest.approx(expected, abs=1e-8)
    path = drive(tmp_path, "utm_east,utm_north,utm_zone", f"{point[0]},{point[1]},{zone}")
    assert both(path)[0] == pytest.approx(expected, abs=1e-8)
    path = drive(tmp_path, "utm_east,utm_north", f"{point[0]},{point[1]}")
    assert both(path, utm=zone)[0] == pytest.approx(expected, abs=1e-8)
    name = f"@{point[0]}@{point[1]}@{zone[:2]}@{zone[2:].strip()}@@@@@.jpg"
    assert point_of_name(name)[:2] == pytest.approx(expected, abs=1e-8)


@pytest.mark.case("files-A4")
@pytest.mark.parametrize(
    ("point", "zone", "said"),
    [
        (TOKYO, "54M", "latitude band M, 8 to 0 degrees south; write '54 north' or '54 south'"),
        (SYDNEY, "56T", "latitude band T, 40 to 48 degrees north"),
        (
            (322000.0, 4300000.0),
            "18S",
            "18S of .* can be the band S of the north, or south",
        ),  # Virginia, Chile
        ((48.85, 2.35), "31U", "looks like degrees"),
        ((448.2518, 5411.9327), "31U", "looks like degrees or kilometers"),
        ((5411932.0, 448251.0), "31U", "no UTM easting and northing"),
        ((448251.0, 54119320.0), "31U", "no UTM easting and northing"),
    ],
)
def test_a_letter_that_contradicts_the_northing_is_refused(tmp_path, point, zone, said):
    points, reasons = points_and_reasons([point], zone)
    assert np.isnan(points).all()
    assert re.search(said, reasons[0])
    path = drive(
        tmp_path, "utm_east,utm_north,utm_zone", f"{point[0]},{point[1]},{zone}", "448251,5411932,31U"
    )
    with pytest.raises(DataError, match=f"row 2: .*{said}"):
        load_drives(path)
    with pytest.raises(DataError, match=f"row 2: .*{said}"):
        list(stream_drives(path))
    assert len(load_drives(path, on_error="skip")[1].rows) == 1
    with pytest.raises(DataError, match=said):
        point_of_name(f"@{point[0]}@{point[1]}@{zone[:2]}@{zone[2:]}@@@@@.jpg")


@pytest.mark.case("files-C3")
def test_the_name_of_a_crs_counts_on_datums_near_wgs_84_alone():
    for datum in ("WGS 84", "WGS84", "ETRS89", "NAD83(CSRS)", "GDA2020", "SIRGAS 2000"):
        assert utm_zone(f"{datum} / UTM zone 23S") == (23, False)
    for datum in ("NAD27", "ED50", "Tokyo", "PSAD56", "WGS 72"):  # hundreds of meters away, but for the last
        with pytest.raises(
            DataError, match=f"{datum} / UTM zone 18N. is no UTM zone on WGS 84 or a datum within two"
        ):
            utm_zone(f"{datum} / UTM zone 18N")


@pytest.mark.case("files-D2")
def test_a_drive_may_carry_the_letter_of_the_band_where_it_began():
    points, reasons = points_and_reasons([[500000.0, 5316000.0], [500000.0, 5330000.0]], "32T")  # 48 north
    assert not reasons
    assert points[:, 0] == pytest.approx([47.9973, 48.1233], abs=1e-3)


# Limits


@pytest.mark.case("files-C1")
@pytest.mark.parametrize("zone", ["55 south", "55 north", "55H", "EPSG:32755", "EPSG:32655"])
def test_northings_below_zero_count_from_the_equator(tmp_path, zone):
    path = drive(tmp_path, "easting,northing", "328942.7,-4206036.7")
    assert both(path, utm=zone)[0] == pytest.approx(by_proj(32655, 328942.7, -4206036.7), abs=1e-8)


@pytest.mark.case("files-C2")
@pytest.mark.parametrize(("east", "north"), [(-32417.0, 6730000.0), (1120000.0, 7860000.0)])  # Bergen, Vardø
def test_a_whole_country_may_lie_in_one_zone(tmp_path, east, north):
    path = drive(tmp_path, "easting,northing", f"{east},{north}")
    assert both(path, utm="33 north")[0] == pytest.approx(by_proj(25833, east, north), abs=1e-8)


@pytest.mark.case("files-C3")
@pytest.mark.parametrize(
    ("text", "zone"),
    [
        *[("EPSG:25832", (32, True)), ("25833", (33, True)), ("EPSG:26918", (18, True))],
        *[("EPSG:28355", (55, False)), ("EPSG:7855", (55, False)), ("EPSG:31983", (23, False))],
        *[("UTM 33N", (33, True)), ("32N", (32, True)), ("utm zone 33N", (33, True))],
        *[("urn:ogc:def:crs:EPSG::32633", (33, True)), ("urn:ogc:def:crs:EPSG:9.8.1:32733", (33, False))],
        ("http://www.opengis.net/def/crs/EPSG/0/25832", (32, True)),
        *[("WGS 84 / UTM zone 33S", (33, False)), ("ETRS89 / UTM zone 32N", (32, True))],
    ],
)
def test_zones_by_their_other_names(text, zone):
    assert utm_zone(text) == zone


@pytest.mark.case("files-C3")
@pytest.mark.parametrize("text", ["EPSG:32233", "EPSG:23032", "EPSG:4326", "EPSG:31466", "EPSG:25827"])
def test_other_datums_and_projections_are_refused(text):
    with pytest.raises(DataError, match="no UTM zone on WGS 84"):
        utm_zone(text)


# Columns and names of GSV-Cities


@pytest.mark.case("files-C4")
@pytest.mark.parametrize(
    ("header", "row", "utm"),
    [
        ("UTM1,UTM2,UTMzone,category", "328942.7,5793963.3,55H,Melbourne", None),
        ("utm_east,utm_north,utm_zone,utm_band", "328942.7,5793963.3,55,H", None),
        ("utm_east,utm_north,utm_zone,zone_letter", "328942.7,5793963.3,55.0,H", None),
        ("utm_east,utm_north,utm_zone,hemisphere", "328942.7,5793963.3,55,S", None),
        ("UTM1,UTM2,UTMzone", "328942.7,5793963.3,55", "55 south"),
        ("UTM1,UTM2,UTMzone", "328942.7,5793963.3,55", "south"),
        ("UTM1,UTM2,UTMzone", "328942.7,5793963.3,55", "54H"),  # the hemisphere alone: each row has its zone
    ],
)
def test_a_zone_without_a_letter_takes_that_of_a_column_or_of_the_option(tmp_path, header, row, utm):
    path = drive(tmp_path, header, row)
    assert both(path, utm=utm)[0] == pytest.approx(by_proj(32755, 328942.7, 5793963.3), abs=1e-8)


@pytest.mark.case("files-C4")
def test_a_zone_without_any_hemisphere_is_refused(tmp_path):
    with pytest.raises(DataError, match="row 2: the UTM zone '55' needs a number and a hemisphere"):
        load_drives(drive(tmp_path, "UTM1,UTM2,UTMzone", "328942.7,5793963.3,55"))


@pytest.mark.case("files-C5", "files-D3")
def test_names_of_gsv_cities_carry_the_position(tmp_path):
    names = {
        "Melbourne_0000001_2015_02_120_-37.81361_0144.96305_CAoSLEFG_M-VF.JPG": (-37.81361, 144.96305, 120),
        "BuenosAires_0000730_2018_07_-90_-34.60371_-058.42374_xV.JPG": (-34.60371, -58.42374, 270),
    }
    for name in names:
        Image.new("RGB", (8, 6), (len(name), 0, 0)).save(tmp_path / name, "JPEG")
    rows = list(load_drives(tmp_path)[0])
    found = {(row["latitude"], row["longitude"], row["heading"]) for row in rows}
    assert found == set(names.values())


# 0, 0 and panoramas


@pytest.mark.case("files-A12")
def test_no_fix_is_left_out_and_counted(tmp_path):
    path = drive(tmp_path, "lat,lon", "48.85,2.35", "0,0", "48.86,2.36", "-0.0,0.000")
    with pytest.raises(DataError, match=r"2 rows cannot be used.*\n.*row 3: \(0, 0\) stands for a position"):
        load_drives(path)
    kept, errors = load_drives(path, on_error="skip")
    assert len(kept) == 2
    assert [row["row"] for row in errors.rows] == [3, 5]
    assert len(list(stream_drives(path, on_error="skip"))) == 2
    Image.new("RGB", (8, 6)).save(tmp_path / "@@@@@0.0@0.0@.jpg")
    with pytest.raises(DataError, match="stands for a position"):
        load_drives(tmp_path)


@pytest.mark.case("files-A22")
@pytest.mark.parametrize("true", ["True", "true", "1"])
def test_panoramas_of_msls_are_left_out_and_counted(tmp_path, caplog, true):
    path = drive(tmp_path, "lat,lon,pano", f"48.85,2.35,{true}", "48.86,2.36,False", f"48.87,2.37,{true}")
    assert both(path).tolist() == [[48.86, 2.36]]
    assert f"{path}: left out 2 panoramas" in caplog.text
