"""Tables, file names and folders of drives: what is read, and what is refused with which words."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geohf.errors import DataError
from geohf.geo import great_circle_m
from geohf.geo.utm import utm_from_points
from geohf.place.data import files_of, headings_of, load_drives
from geohf.tables import points_of

HEADER = "camera_id,img_relpath,t_nsec,lat,lon,alt"


@pytest.fixture
def drive(tmp_path, photos):
    """A drive of six pictures by two cameras, in the layout of poses.csv."""

    def write(name="noon", lat=36.27, header=HEADER, change=lambda rows: rows):
        rows = []
        for i in range(6):
            camera = ("front_left_center", "rear")[i % 2]
            image = tmp_path / "images" / camera / f"{name}{i}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(photos[i].read_bytes())
            rows.append(
                f"{camera},{image.relative_to(tmp_path)},{1641321200080306000 + i},{lat + i * 1e-4:.9f},-115.012062955,597.4"
            )
        path = tmp_path / name / "poses.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join([header, *change(rows)]) + "\n")
        return path

    return write


def test_poses_one_and_many_by_camera(drive):
    images, errors = load_drives([drive("noon"), drive("dusk", lat=36.3)], camera_id="front_left_center")
    assert errors.rows == []
    assert images["sequence"] == ["noon"] * 3 + ["dusk"] * 3
    assert set(images["camera"]) == {"front_left_center"}
    assert images["time_ns"][:2] == [1641321200080306000, 1641321200080306002]  # every nanosecond
    assert points_of(images)[1].tolist() == [36.2702, -115.012062955]
    assert all(Path(file).is_file() for file in files_of(images))
    assert len(load_drives(drive("noon"))[0]) == 6


def test_a_camera_that_does_not_occur(drive):
    with pytest.raises(DataError, match="camera_id 'front'; there are front_left_center, rear"):
        load_drives(drive(), camera_id="front")


def test_a_plain_table_with_headings(tmp_path, photos):
    path = photos[0].parent / "table.csv"
    path.write_text(f"image,lat,lon,heading\n{photos[0].name},48.1,11.5,90\n{photos[1].name},48.2,191,\n")
    images, _ = load_drives(path)
    assert headings_of(images)[0] == 90
    assert math.isnan(headings_of(images)[1])
    assert points_of(images)[1].tolist() == [48.2, -169.0]
    assert images["sequence"] == ["table", "table"]
    with pytest.raises(DataError, match="the tables have no camera_id"):
        load_drives(path, camera_id="front")


@pytest.mark.parametrize("column", [True, False])
def test_utm_columns(photos, column):
    points = np.array([[36.3, 127.4], [36.3001, 127.4002]])
    metres = utm_from_points(points, "52 north")
    path = photos[0].parent / f"utm{column}.csv"
    zone = ",52S" if column else ""
    rows = [f"{photos[i].name},{metres[i, 0]:.4f},{metres[i, 1]:.4f}{zone}" for i in range(2)]
    path.write_text("\n".join([f"image,utm_east,utm_north{',utm_zone' if column else ''}", *rows]))
    images, _ = load_drives(path, utm=None if column else "52 north")
    assert great_circle_m(points_of(images), points).max() < 1e-3


def test_utm_without_or_outside_its_zone(photos):
    path = photos[0].parent / "utm_bad.csv"
    path.write_text(f"image,utm_east,utm_north\n{photos[0].name},36.3,127.4\n")
    with pytest.raises(DataError, match="need a zone: a column 'utm_zone'"):
        load_drives(path)
    with pytest.raises(
        DataError, match=r"utm_bad.csv, row 2: \(36.3, 127.4\) is no UTM easting and northing"
    ):
        load_drives(path, utm="52 north")
    path.write_text(f"image,utm_east,utm_north,utm_zone\n{photos[0].name},356000,4018000,99Q\n")
    with pytest.raises(DataError, match="row 2: there is no UTM zone 99"):
        load_drives(path)


def test_file_names_with_coordinates(tmp_path, photos):
    east, north = utm_from_points([[35.68, 139.76]], "54 north")[0]
    names = [
        f"@{east:010.2f}@{north:010.2f}@54@S@@@pano1@@30.0@@@@201309@@.png",
        f"@{east:.2f}@{north:.2f}@54@S@35.70000@139.70000@pano2@@@@@@@@.png",
        f"@{east:.2f}@{north:.2f}@.png",
    ]
    for name, photo in zip(names, photos, strict=False):
        (tmp_path / name).write_bytes(photo.read_bytes())
    images, _ = load_drives(tmp_path, utm="54 north")
    found = {Path(file).name: point for file, point in zip(files_of(images), points_of(images), strict=True)}
    assert great_circle_m(found[names[0]], [35.68, 139.76]) < 0.02
    assert found[names[1]].tolist() == [35.7, 139.7]
    assert great_circle_m(found[names[2]], [35.68, 139.76]) < 0.02
    assert 30.0 in headings_of(images)
    with pytest.raises(DataError, match="has no UTM zone; say which with --utm"):
        load_drives(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "@a@b@54@S@.png")
    with pytest.raises(DataError, match=r"'a' in the name '@a@b@54@S@\.png' is not a number"):
        load_drives(tmp_path, utm="54 north")


def test_photographs_with_positions_in_their_exif(shared_data):
    images, _ = load_drives(shared_data("geotagged"))
    points = points_of(images)
    assert len(images) == 32
    assert ((points[:, 0] > 52) & (points[:, 0] < 56)).all()  # Berlin and Lund


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda row: row.replace("/noon2.png", "/gone.png"), "gone.png: cannot be read"),
        (
            lambda row: row.replace("images/front_left_center/noon2.png", "../../etc/passwd"),
            "leads out of the folder",
        ),
        (lambda row: row.replace("36.270200000", ""), "latitude nan is not finite"),
        (
            lambda row: row.replace("36.270200000,-115.012062955", "-115.012062955,36.270200000"),
            "look swapped",
        ),
        (lambda row: row.replace("1641321200080306002", "soon"), "no whole number of nanoseconds"),
    ],
)
def test_a_bad_row_is_named_and_can_be_skipped(drive, spoil, reason):
    path = drive(change=lambda rows: [spoil(row) for row in rows])
    with pytest.raises(DataError, match=rf"poses.csv, row 4: .*{reason}"):
        load_drives(path)
    images, errors = load_drives(path, on_error="skip")
    assert len(images) == 5
    assert [row["row"] for row in errors.rows] == [4]


def test_a_whole_table_with_swapped_columns(drive):
    path = drive(header="camera_id,img_relpath,t_nsec,lon,lat,alt")
    with pytest.raises(
        DataError, match=r"latitude -115.01\d+ is outside -90..90; latitude and longitude look swapped"
    ):
        load_drives(path)


def test_missing_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("image,latitude\na.png,3\n")
    with pytest.raises(DataError, match="needs the columns 'lat' and 'lon', or 'utm_east' and 'utm_north'"):
        load_drives(path)
    path.write_text("picture,lat,lon\na.png,3,4\n")
    with pytest.raises(DataError, match="needs a column 'image'"):
        load_drives(path)


def test_broken_pictures_are_named(drive, tmp_path):
    path = drive()
    (tmp_path / "images" / "rear" / "noon1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"row 3: .*noon1.png: the file is empty"):
        load_drives(path)
