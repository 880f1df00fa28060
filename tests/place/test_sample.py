"""The built-in sample: the same bytes for the same seed, the layout of poses.csv, and two drives that differ."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from geohf.errors import DataError
from geohf.geo import great_circle_m, matches_within_m
from geohf.place.data import load_drives
from geohf.place.sample import write_sample
from geohf.tables import points_of


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.md5(path.read_bytes()).hexdigest() for path in files}


def test_a_seed_gives_the_same_bytes_and_another_one_another_town(tmp_path):
    first, again, other = (
        write_sample(tmp_path / name, seed=seed, size=40) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert digest(first) == digest(again)
    assert digest(first) != digest(other)
    before = (first / "noon" / "poses.csv").stat().st_mtime_ns
    write_sample(first, seed=3, size=40)
    assert (first / "noon" / "poses.csv").stat().st_mtime_ns == before


def test_the_layout_and_the_loop(drives):
    header, first, *_ = (drives / "noon" / "poses.csv").read_text().splitlines()
    assert header == "camera_id,img_relpath,t_nsec,lat,lon,alt"
    assert first.startswith(
        "front_left_center,images/front_left_center/1641321200080306000.png,1641321200080306000,36."
    )
    images, _ = load_drives([drives / "noon" / "poses.csv", drives / "dusk" / "poses.csv"])
    points, noon = points_of(images), np.array(images["sequence"]) == "noon"
    assert (noon.sum(), (~noon).sum()) == (200, 200)
    steps = great_circle_m(points[noon][1:], points[noon][:-1])
    assert np.median(steps) == pytest.approx(5, abs=1.5)
    assert great_circle_m(points[noon][0], points[noon][-1]) < 15  # it is closed
    offsets, _ = matches_within_m(points[noon], points[~noon], 25)
    assert (np.diff(offsets) > 0).all()  # every picture at dusk has one at noon


def test_dusk_is_darker_and_warmer(drives):
    images, _ = load_drives([drives / "noon" / "poses.csv", drives / "dusk" / "poses.csv"])
    means = {"noon": [], "dusk": []}
    for row in list(images)[::20]:
        means[row["sequence"]].append(np.asarray(Image.open(row["image"]["path"])).mean((0, 1)))
    noon, dusk = (np.mean(means[name], 0) for name in ("noon", "dusk"))
    assert dusk.mean() < 0.75 * noon.mean()
    assert dusk[0] / dusk[2] > 1.2 > noon[0] / noon[2]


def test_somebodys_data_is_left_alone(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="holds data that is not a sample"):
        write_sample(tmp_path, size=40)
    with pytest.raises(ValueError, match="at least 40 pictures"):
        write_sample(tmp_path / "new", size=3)
