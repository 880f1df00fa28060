import csv
import hashlib

import numpy as np
import pytest
from PIL import Image

from geohf.errors import DataError
from geohf.geo import great_circle_m
from geohf.region.sample import LANDMARKS, REGIONS, paint_view, write_sample


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def digests(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def points(rows):
    return np.array([[float(row["latitude"]), float(row["longitude"])] for row in rows])


@pytest.mark.parametrize("frame", ["wgs84", "planar"])
def test_the_layout_is_the_seeds(samples, frame):
    folder = samples(frame)
    for table, images, count in (("train", "images_train", 120), ("val", "images_val", 30)):
        rows = read(folder / f"labels_{table}.csv")
        assert list(rows[0]) == ["filename", "timestamp", "angle", "latitude", "longitude", "Region_ID"]
        assert len(rows) == count
        assert {row["filename"] for row in rows} == {
            path.name for path in (folder / images / images).iterdir()
        }
        assert {row["Region_ID"] for row in rows} == set(REGIONS)
    assert len((folder / "exclude.txt").read_text().split()) == 7


def test_the_frames_are_those_that_they_say(samples):
    assert (points(read(samples("planar") / "labels_val.csv")) > 180_000).all()
    degrees = points(read(samples("wgs84") / "labels_val.csv"))
    assert great_circle_m(degrees, degrees.mean(0)).max() < 2000


def test_both_frames_hold_the_same_places(samples):
    plane, degrees = (points(read(samples(frame) / "labels_val.csv")) for frame in ("planar", "wgs84"))
    between = np.linalg.norm(plane[:, None] - plane, axis=-1)
    on_the_globe = great_circle_m(degrees[:, None], degrees[None])
    np.testing.assert_allclose(on_the_globe, between, atol=0.2)


def test_the_same_arguments_give_the_same_bytes(tmp_path):
    first, second, other = (
        write_sample(tmp_path / str(i), seed=seed, size=4) for i, seed in enumerate((3, 3, 4))
    )
    assert digests(first) == digests(second) != digests(other)
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    write_sample(first, seed=3, size=4)
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before


def test_a_sample_of_other_arguments_or_a_broken_one_is_written_anew(tmp_path):
    expected = digests(write_sample(tmp_path / "expected", seed=3, size=4))
    folder = write_sample(tmp_path / "folder", seed=3, size=4, frame="planar")
    (folder / ".geohf_sample.json").write_text("{}")
    assert digests(write_sample(folder, seed=3, size=4)) == expected


def test_other_peoples_data_are_left_alone(tmp_path):
    (tmp_path / "labels_train.csv").write_text("mine")
    with pytest.raises(DataError, match="holds data that is not a sample"):
        write_sample(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["labels_train.csv"]
    with pytest.raises(DataError, match="frame must be one of wgs84, planar"):
        write_sample(tmp_path / "new", frame="utm")
    with pytest.raises(ValueError, match="at least 4"):
        write_sample(tmp_path / "new", size=3)


# --- the rules ---


def view(region="3", east=0.5, north=0.5, seed=0):
    return np.asarray(paint_view(region, east, north, 72, np.random.default_rng(seed)), float)


def mean(look, **changes):
    return np.mean([look(view(**changes, seed=seed)) for seed in range(25)], axis=0)


def test_the_sky_follows_latitude():
    def blue_over_red(image):
        return image[:8, :, 2].mean() - image[:8, :, 0].mean()

    south, middle, north = (mean(blue_over_red, north=value) for value in (0, 0.5, 1))
    assert south > middle + 20
    assert middle > north + 20


def test_the_ground_follows_longitude():
    def red_over_green(image):
        return image[50:, :, 0].mean() - image[50:, :, 1].mean()

    west, middle, east = (mean(red_over_green, east=value) for value in (0, 0.5, 1))
    assert west > middle + 10
    assert middle > east + 10


def test_the_landmark_stands_where_its_bearing_says():
    def column(image):
        """Where blue stands out most over red and green: the head of region 3's landmark."""
        blue = np.clip(image[:36, :, 2] - image[:36, :, :2].max(-1) - 60, 0, None).sum(0)
        return (blue * np.arange(72)).sum() / max(blue.sum(), 1e-9)

    west, east = (mean(column, east=value, north=1.0) for value in (0, 1))
    assert west > east + 15


def test_the_landmark_tells_the_region():
    heads = {}
    for region in LANDMARKS:
        images = np.stack([view(region, 0.5, 1.0, seed) for seed in range(15)])
        heads[region] = np.median(images, 0)[5:28, 30:42].mean((0, 1))
    for a in heads:
        for b in heads:
            assert a == b or np.abs(heads[a] - heads[b]).max() > 20


def test_pictures_are_small_and_different(samples):
    folder = samples("wgs84") / "images_train/images_train"
    files = sorted(folder.iterdir())
    assert {Image.open(path).size for path in files[:10]} == {(72, 72)}
    assert len({path.read_bytes() for path in files}) == len(files)
