"""Drives from every source, what is kept of them, and what is said of rows that cannot be used."""

import re

import numpy as np
import pandas as pd
import pytest
from helpers.place_models import ORIGIN, along, write_csv, write_pictures
from PIL import Image as PillowImage

from geohf.data.tables import points_of
from geohf.errors import DataError
from geohf.geo import great_circle_m
from geohf.geo.utm import points_and_reasons, utm_from_points
from geohf.place.arguments import PlaceArguments
from geohf.place.data import load
from geohf.place.drives import files_of, headings_of, load_drives
from geohf.place.file_names import point_of_name

POSES = "camera_id,img_relpath,t_nsec,lat,lon,alt"
NAMES = [f"images/front/{i}.png" for i in range(4)]


@pytest.fixture
def folder(tmp_path):
    write_pictures(tmp_path, [*NAMES, "images/rear/9.png"])
    return tmp_path


def poses(folder, drive="monday", *extra):
    rows = [
        f"front,{name},164132120008030600{i},36.27479041{i},-115.0120629{i},597.4"
        for i, name in enumerate(NAMES)
    ]
    return write_csv(folder / drive / "poses.csv", POSES, *rows, *extra)


def test_poses_as_they_are(folder):
    rear = "rear,images/rear/9.png,1641321200080306009,36.3,-115.1,597.4"
    images, skipped = load_drives([poses(folder, "monday", rear), poses(folder, "friday")])
    assert files_of(images) == [str(folder / name) for name in [*NAMES, "images/rear/9.png", *NAMES]]
    assert points_of(images)[2].tolist() == [36.274790412, -115.01206292]  # every digit
    assert images["sequence"] == ["monday"] * 5 + ["friday"] * 4
    assert images["camera"][4] == "rear"
    assert images["time_ns"][3] == 1641321200080306003
    assert np.isnan(headings_of(images)).all()
    assert skipped.rows == []
    only, _ = load_drives(folder / "monday" / "poses.csv", camera_id="front")
    assert set(only["camera"]) == {"front"}
    assert len(only) == 4


@pytest.mark.case("files-D19")
def test_a_camera_that_does_not_occur(folder):
    with pytest.raises(DataError, match="no row has the camera_id 'left'; there are front"):
        load_drives(poses(folder), camera_id="left")
    table = write_csv(folder / "plain.csv", "image,lat,lon", f"{NAMES[0]},36,-115")
    with pytest.raises(DataError, match="'left'; its images have no camera_id"):
        load_drives(table, camera_id="left")
    with pytest.raises(DataError, match=f"{re.escape(str(table))}: no row has the camera_id 'front'"):
        load_drives([poses(folder), table], camera_id="front")


@pytest.mark.case("use-O5")
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_plain_tables(folder, kind):
    frame = pd.DataFrame(
        {"image": NAMES, "Lat": [1.5, 2, 3, 4], "Lon": [185.0, -175, 6, 7], "heading": [0, 90, None, 359.5]}
    )
    path = folder / f"table.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    images, _ = load_drives(path)
    np.testing.assert_allclose(points_of(images), [[1.5, -175], [2, -175], [3, 6], [4, 7]])
    np.testing.assert_allclose(headings_of(images), [0, 90, np.nan, 359.5])
    assert set(images["sequence"]) == {"table"}


def test_utm_columns_with_a_zone_in_the_table_or_beside_it(folder):
    points = along([0, 50, 100, 150])
    meters = utm_from_points(points, "11 north")
    rows = [f"{name},{e:.4f},{n:.4f}" for name, (e, n) in zip(NAMES, meters, strict=True)]
    bare = write_csv(folder / "bare.csv", "image,utm_east,utm_north", *rows)
    zoned = write_csv(
        folder / "zoned.csv", "image,easting,northing,utm_zone", *(f"{row},11S" for row in rows)
    )
    for images, _ in (load_drives(bare, utm="EPSG:32611"), load_drives(zoned)):
        assert great_circle_m(points_of(images), points).max() < 0.001
    with pytest.raises(
        DataError, match=r"bare\.csv: UTM coordinates need a zone: a column 'utm_zone', or --utm"
    ):
        load_drives(bare)
    with pytest.raises(DataError, match="needs a number and a hemisphere"):
        load_drives(bare, utm="11")


@pytest.mark.case("files-D2")
def test_a_drive_over_the_edge_of_two_zones(folder):
    """Zone 10 ends at 120 west: a zone a row, or all in the zone where the drive began."""
    points = np.array([[36.0, -120.0 + 0.001 * i] for i in (-2, -1, 1, 2)])
    zones = ["10 north", "10 north", "11 north", "11 north"]
    own = [utm_from_points([point], zone)[0] for point, zone in zip(points, zones, strict=True)]
    rows = [f"{n},{e},{m},{z}" for n, (e, m), z in zip(NAMES, own, zones, strict=True)]
    table = write_csv(folder / "own.csv", "image,easting,northing,utm_zone", *rows)
    forced = [f"{n},{e},{m}" for n, (e, m) in zip(NAMES, utm_from_points(points, "10 north"), strict=True)]
    one = write_csv(folder / "one.csv", "image,easting,northing", *forced)
    for images, _ in (load_drives(table), load_drives(one, utm="10 north")):
        assert great_circle_m(points_of(images), points).max() < 0.001


def test_drives_and_cameras_that_pandas_made_floats(folder):
    for i, drive in enumerate(("1", "1.0")):
        rows = [f"{name},36,-115,{drive},{drive}" for name in NAMES[2 * i : 2 * i + 2]]
        write_csv(folder / f"{i}.csv", "image,lat,lon,sequence,camera_id", *rows)
    images, _ = load_drives([folder / "0.csv", folder / "1.csv"], camera_id="1")
    assert images["sequence"] == images["camera"] == ["1"] * 4


@pytest.mark.case("files-D3")
def test_positions_padded_with_zeros(folder):
    rows = [f"{NAMES[0]},-037.81361,0144.92780", f"{NAMES[1]},-034.60371,-058.42374"]
    images, _ = load_drives(write_csv(folder / "t.csv", "image,lat,lon", *rows))
    assert points_of(images).tolist() == [[-37.81361, 144.9278], [-34.60371, -58.42374]]


@pytest.mark.case("files-D18")
def test_headings_of_any_turn_are_compass_headings(folder):
    rows = [f"{name},36,-115,{heading}" for name, heading in zip(NAMES, (-170, 350, 360, 725), strict=True)]
    images, _ = load_drives(write_csv(folder / "t.csv", "image,lat,lon,ca", *rows))
    assert (headings_of(images) % 360).tolist() == [190, 350, 0, 5]


def test_utm_agrees_with_the_national_geospatial_example():
    # CN Tower in Toronto
    points, reasons = points_and_reasons([[630084.0, 4833438.0]], "17 north")
    assert points[0] == pytest.approx((43.642567, -79.387139), abs=2e-5)
    assert not reasons


def test_positions_in_file_names(folder):
    east, north = utm_from_points([ORIGIN], "11 north")[0]
    names = [
        f"drive/@{east:.2f}@{north:.2f}@11@S@@@pano@@45@@@@2013@@.png",
        f"drive/@{east:.2f}@{north:.2f}@.png",
        f"drive/@0@0@@@{ORIGIN[0]}@{ORIGIN[1]}@@@@.png",
    ]
    write_pictures(folder, names)
    images, _ = load_drives(folder / "drive", utm="11 north")
    assert great_circle_m(points_of(images), ORIGIN).max() < 0.02
    assert sorted(headings_of(images).tolist(), key=np.isnan)[:1] == [45]
    with pytest.raises(DataError, match="has no UTM zone; say which with --utm"):
        load_drives(folder / "drive")
    with pytest.raises(DataError, match=r"'abc' in the name '@abc@1@\.png' is not a number"):
        point_of_name("@abc@1@.png")


@pytest.mark.case("files-D18")
def test_mapillary_tables_with_keys_and_sequences(folder):
    write_pictures(folder, [f"city/query/images/{key}.jpg" for key in ("aQ-1", "b_2", "c3")])
    rows = [
        "0,aQ-1,37.6,55.7,270.5,2017-01-01,False",
        "1,b_2,37.7,55.8,12,2017-01-01,False",
        "2,c3,37.8,55.9,13,2018-01-01,False",
    ]
    raw = write_csv(folder / "city" / "query" / "raw.csv", ",key,lon,lat,ca,captured_at,pano", *rows)
    plain, _ = load_drives(raw)
    assert plain["sequence"] == ["raw"] * 3
    write_csv(
        folder / "city" / "query" / "seq_info.csv",
        ",key,sequence_key,frame_number",
        "0,c3,S2,0",
        "1,aQ-1,S1,4",
        "2,b_2,S1,5",
    )
    images, _ = load_drives(raw)
    assert [file.rpartition("/")[2] for file in files_of(images)] == ["aQ-1.jpg", "b_2.jpg", "c3.jpg"]
    assert points_of(images).tolist() == [[55.7, 37.6], [55.8, 37.7], [55.9, 37.8]]
    assert headings_of(images).tolist() == [270.5, 12, 13]
    assert images["sequence"] == ["S1", "S1", "S2"]


def test_photographs_with_positions_in_their_exif(shared_data):
    images, _ = load_drives([shared_data("geotagged") / "berlin", shared_data("geotagged") / "lund"])
    assert set(images["sequence"]) == {"berlin", "lund"}
    centers = {"berlin": (52.5, 13.4), "lund": (55.7, 13.2)}
    for row, point in zip(images["sequence"], points_of(images), strict=True):
        assert great_circle_m(point, centers[row]) < 30_000


BAD = {
    "missing image": ("front,images/front/none.png,1,36.2,-115.0,0", r"row 6: .*none\.png: cannot be read"),
    "swapped": ("front,images/front/0.png,1,-115.0,36.2,0", r"row 6: .*swapped"),
    "no position": ("front,images/front/0.png,1,,,0", r"row 6: .*latitude"),
    "way out": ("front,../../secret.png,1,36.2,-115.0,0", r"row 6: the path .* leads out of the folder"),
    "no image": ("front,,1,36.2,-115.0,0", r"row 6: the file name is empty"),
}


@pytest.mark.case("files-D19")
@pytest.mark.parametrize("kind", BAD)
def test_rows_that_cannot_be_used_are_named_or_skipped(folder, kind):
    row, message = BAD[kind]
    path = poses(folder, "monday", row)
    with pytest.raises(DataError, match=message):
        load_drives(path)
    images, skipped = load_drives(path, on_error="skip")
    assert len(images) == 4
    assert [(r["source"], r["row"]) for r in skipped.rows] == [(str(path), 6)]


def test_a_broken_image_is_named(folder):
    (folder / NAMES[2]).write_bytes((folder / NAMES[2]).read_bytes()[:40])
    with pytest.raises(DataError, match=r"row 4: .*2\.png"):
        load_drives(poses(folder))


def test_utm_in_degrees_and_degrees_in_another_zone(folder):
    table = write_csv(
        folder / "t.csv",
        "image,utm_east,utm_north",
        f"{NAMES[0]},36.27,-115.01",
        f"{NAMES[1]},668000,4016000",
    )
    with pytest.raises(DataError, match=r"row 2: \(36\.27, -115\.01\) is no UTM easting and northing"):
        load_drives(table, utm="11 north")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "image,x,y",
            "needs the columns 'lat' and 'lon', or 'utm_east' and 'utm_north'; the columns are: image, x, y",
        ),
        ("photo,lat,lon", "needs a column 'image' or"),
        ("image,lat,lon", "'abc', which is not a number"),
    ],
)
def test_tables_without_what_is_needed(folder, header, message):
    value = "1" if header.startswith("photo") else "abc"
    with pytest.raises(DataError, match=message):
        load_drives(write_csv(folder / "t.csv", header, f"{NAMES[0]},{value},1"))


def test_sources_with_nothing(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_drives(tmp_path / "none.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        load_drives(tmp_path / "empty")
    write_pictures(tmp_path, ["untagged/1.png"])
    with pytest.raises(DataError, match="its name and its EXIF carry no position"):
        load_drives(tmp_path / "untagged")


# ---- who is trained on, searched in, and asked


def test_held_out_blocks_keep_clear_of_training(drives):
    options = PlaceArguments(
        train_csv=drives, block_m=150, negative_m=25, positive_m=10, validation_share=0.2, test_share=0.2
    )
    data = load(options)
    assert set(data.database["sequence"]) == {"noon"}
    assert len(data.database) == 240
    assert set(data.test["sequence"]) == set(data.validation["sequence"]) == {"dusk"}
    for held_out in (data.test, data.validation):
        away = great_circle_m(points_of(held_out)[:, None], points_of(data.train)[None])
        assert away.min() > 25


def test_given_tables_are_used_as_they_are(drives):
    data = load(PlaceArguments(train_csv=drives[:1], test_csv=drives[1:], validation_share=0))
    noon, dusk = (files_of(load_drives(drive)[0]) for drive in drives)
    assert files_of(data.train) == noon
    assert data.database is data.train
    assert data.validation is None
    assert files_of(data.test) == dusk
    own = load(PlaceArguments(train_csv=drives[:1], test_csv=drives[1:], database_csv=drives[:1]))
    assert files_of(own.database) == noon
    with pytest.raises(DataError, match="is a single drive; a second one has to ask, or give --test_csv"):
        load(PlaceArguments(train_csv=drives[:1]))


def test_the_sample_is_the_same_by_its_seed(sample, tmp_path):
    from geohf.place.sample import CAMERA, write_sample

    again = write_sample(tmp_path / "again", seed=0, size=40)
    twice = write_sample(tmp_path / "twice", seed=0, size=40)
    other = write_sample(tmp_path / "other", seed=1, size=40)
    files = sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert len(files) == 40 * 2 + 2 + 1
    assert all((again / file).read_bytes() == (twice / file).read_bytes() for file in files)
    assert (again / "noon/poses.csv").read_bytes() != (other / "noon/poses.csv").read_bytes()
    assert (sample / "noon" / "poses.csv").read_text().splitlines()[0] == POSES
    images, _ = load_drives([sample / name / "poses.csv" for name in ("noon", "dusk")], camera_id=CAMERA)
    noon, dusk = np.split(points_of(images), 2)
    step = great_circle_m(noon[1:], noon[:-1])
    assert 4 < np.median(step) < 6.5
    assert great_circle_m(noon, dusk).max() < 15  # one loop, driven twice
    light = [np.asarray(PillowImage.open(file)).mean() for file in files_of(images)]
    assert np.mean(light[:240]) > np.mean(light[240:]) + 30
    with pytest.raises(DataError, match="at least 40 pictures a drive, got 3"):
        write_sample(tmp_path / "few", size=3)


def test_a_position_far_from_its_zone_leaves_the_others_alone():
    """PROJ refuses all that it gets with one that is a quarter of the earth away."""
    found = utm_from_points([[50.0, 15.0], [0.0, 105.0], [np.nan, 15.0], [50.0, 15.0]], "33 north")
    assert found[0] == pytest.approx(found[3])
    assert found[0, 0] == pytest.approx(500_000)
    assert np.isnan(found[1:3]).all()
