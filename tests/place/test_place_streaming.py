"""Drives from streams: the rows of the loader, whatever says where an image was taken."""

import numpy as np
import pytest
import torch
from helpers.place_models import along, build_model, parse, write_csv, write_pictures

from geohf.errors import DataError
from geohf.geo.utm import utm_from_points
from geohf.place.data import load
from geohf.place.drives import load_drives
from geohf.place.phase import PlacePhaseTrainer
from geohf.place.streaming import stream_drives

NAMES = [f"images/{i}.png" for i in range(6)]


def same(source, **options):
    expected = load_drives(source, **options)[0].to_list()
    np.testing.assert_equal(list(stream_drives(source, **options)), expected)
    return expected


@pytest.fixture
def folder(tmp_path):
    write_pictures(tmp_path, NAMES)
    return tmp_path


def test_poses_of_several_drives(drives):
    rows = same(drives)
    assert {row["sequence"] for row in rows} == {"noon", "dusk"}


def test_one_camera(folder):
    second = 1641321200  # the unit is told by the digits
    rows = [
        f"{'front' if i % 2 else 'rear'},{name},{second + i},36.2,-115.0,597" for i, name in enumerate(NAMES)
    ]
    table = write_csv(folder / "monday" / "poses.csv", "camera_id,img_relpath,t_nsec,lat,lon,alt", *rows)
    times = [row["time_ns"] for row in same(table, camera_id="front")]
    assert times == [(second + i) * 10**9 for i in (1, 3, 5)]
    plain = write_csv(folder / "plain.csv", "image,lat,lon", f"{NAMES[0]},36.2,-115")
    words = ("--streaming", "true", "--max_steps", 1, "--methods", "ours", "--camera_id", "front")
    with pytest.raises(DataError, match=r"plain\.csv: no row has the camera_id 'front'"):
        load(*parse(*words, "--train_csv", table, plain, "--test_csv", table, "--output_dir", folder))


def test_utm_and_keys(folder):
    points = along(10 * np.arange(6))
    meters = utm_from_points(points, "11 north")
    rows = [f"{name},{east:.3f},{north:.3f},90" for name, (east, north) in zip(NAMES, meters, strict=True)]
    same(write_csv(folder / "utm.csv", "image,utm_east,utm_north,heading", *rows), utm="11 north")
    write_csv(folder / "seq_info.csv", "key,sequence_key", *[f"{i},s{i % 2}" for i in range(6)])
    for name in NAMES:
        (folder / name).rename((folder / name).with_suffix(".jpg"))
    rows = same(write_csv(folder / "raw.csv", "key,lon,lat,ca", *[f"{i},-115,36.{i},{i}" for i in range(6)]))
    assert [row["sequence"] for row in rows] == ["s0", "s1"] * 3


def test_a_row_that_cannot_be_used_is_named(folder):
    rows = [f"{name},{point[0]},{point[1]}" for name, point in zip(NAMES, along(range(6)), strict=True)]
    rows[3] = "images/none.png,36,-115"
    rows[4] = "images/4.png,91,-115"
    table = write_csv(folder / "t.csv", "image,lat,lon", *rows)
    with pytest.raises(DataError, match=r"(?s)2 rows cannot be used.*row 5: .*none\.png"):
        list(stream_drives(table))
    kept = list(stream_drives(table, on_error="skip"))
    np.testing.assert_equal(kept, load_drives(table, on_error="skip")[0].to_list())


def test_the_zone_of_utm_must_hold_in_every_chunk(folder):
    rows = [f"{name},1,2" for name in NAMES]
    table = write_csv(folder / "utm.csv", "image,utm_east,utm_north", *rows)
    with pytest.raises(DataError, match=r"row 2: \(1, 2\) is no UTM easting"):
        list(stream_drives(table, utm="11 north"))


def test_a_model_trains_on_a_stream_as_on_the_dataset(drives, tmp_path):
    """Rows in order of time: a batch holds neighbors, and reaches far enough for strangers."""
    words = ("--output_dir", tmp_path, "--max_steps", 3, "--per_device_train_batch_size", 64)
    words += ("--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false")
    _, args = parse("--train_csv", drives[0], *words, "--train_sampling_strategy", "sequential")
    weights = []
    for source in (stream_drives(drives[0]), load_drives(drives[0])[0]):
        model = build_model(dropout=0.0)
        trainer = PlacePhaseTrainer(model, args, train_dataset=source)
        trainer.train()
        assert trainer.state.log_history[-1]["train_loss"] > 0
        weights.append(model.state_dict())
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name
