"""Dividing places: fair to every class, the same again, and no training place near a held-out one."""

import random
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from geohf.data.samples import without_decoding
from geohf.data.splits import (
    calibration_blocks,
    count_shared,
    place_numbers,
    split_rows,
    warn_of_shared_places,
)
from geohf.errors import DataError
from geohf.geo import random_split
from geohf.geo.splits import block_numbers
from geohf.metrics.calibration import conformal_quantile
from geohf.street.data import split_places
from geohf.street.places import place_features


def places(points, states=None):
    n = len(points)
    columns = {
        "sample_id": [str(i) for i in range(n)],
        "views": [[{"path": f"{i}.jpg", "bytes": None}] for i in range(n)],
        "headings": [[0.0]] * n,
        "state": [None] * n if states is None else list(states),
        "state_idx": [None] * n,
        "latitude": [float(p[0]) for p in points],
        "longitude": [float(p[1]) for p in points],
    }
    return without_decoding(Dataset.from_dict(columns, features=place_features()))


def scattered(n, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.uniform(35, 45, n), rng.uniform(-110, -80, n)], 1)


def ids(splits):
    return {name: [int(i) for i in split["sample_id"][:]] for name, split in splits.items()}


@pytest.mark.parametrize("how", ["stratified", "random", "blocks"])
def test_splits_divide_all_places(how):
    points = scattered(400)
    states = [f"state {int(lon // 10)}" for _, lon in points]
    splits, dropped = split_places(places(points, states), how, 0.1, 0.2, seed=1)
    rows = ids(splits)
    assert sorted(rows) == ["test", "train", "validation"]
    everything = [row for chosen in rows.values() for row in chosen]
    assert len(everything) == len(set(everything)) == 400 - dropped
    if how == "blocks":
        assert dropped > 0
        assert len(rows["test"]) == pytest.approx(80, abs=10)
        assert len(rows["validation"]) == pytest.approx(40, abs=10)
    else:
        assert dropped == 0
        assert {name: len(chosen) for name, chosen in rows.items()} == {
            "train": 280,
            "test": 80,
            "validation": 40,
        }
    again, _ = split_places(places(points, states), how, 0.1, 0.2, seed=1)
    assert ids(again) == rows
    other, _ = split_places(places(points, states), how, 0.1, 0.2, seed=2)
    assert ids(other) != rows
    columns = splits["test"][:]
    assert columns["latitude"] == points[rows["test"], 0].tolist()
    assert columns["state"] == [states[i] for i in rows["test"]]


def test_a_stratified_split_trains_on_every_class_and_is_proportional():
    states = ["a"] * 100 + ["b"] * 40 + ["c"] * 2 + ["d"]
    order = random.Random(0).sample(range(len(states)), len(states))
    states = [states[i] for i in order]
    splits, _ = split_places(places(scattered(143), states), "stratified", 0.1, 0.2)
    counts = {name: {s: split["state"][:].count(s) for s in "abcd"} for name, split in splits.items()}
    assert counts["train"]["a"] == 70
    assert counts["test"]["a"] == 20
    assert counts["validation"]["b"] == 4
    assert min(counts["train"].values()) >= 1
    assert counts["train"]["d"] == 1


def test_without_states_the_stratified_split_goes_by_neighborhood():
    towns = np.repeat([[52.5, 13.4], [55.7, 13.2], [48.1, 11.6]], [40, 20, 10], 0)
    points = towns + np.random.default_rng(0).normal(0, 0.02, towns.shape)
    splits, _ = split_places(places(points), "stratified", 0.2, 0.0)
    rows = np.array(ids(splits)["validation"])
    assert np.bincount(np.repeat([0, 1, 2], [40, 20, 10])[rows]).tolist() == [8, 4, 2]


@pytest.mark.parametrize("how", ["stratified", "random", "blocks"])
@pytest.mark.parametrize("apart_m", [0.0, 0.7])
def test_photographs_of_one_place_stay_on_one_side(how, apart_m):
    spots = scattered(200, seed=3)
    step = (
        apart_m / 111_195 * np.arange(4)[:, None, None] * [1.0, 0.0]
    )  # 0.7 m to the next, 2.1 m to the last
    points = (spots + step).reshape(-1, 2)  # four rounds past all spots
    splits, _ = split_places(places(points), how, 0.1, 0.1, seed=1, block_km=100, buffer_km=0.0)
    spot = {name: set(np.array(rows) % 200) for name, rows in ids(splits).items()}
    assert sum(map(len, spot.values())) == 200
    assert len(spot["train"] & (spot["test"] | spot["validation"])) == 0
    if how != "blocks":
        assert [len(splits[name]) for name in ("train", "validation", "test")] == [640, 80, 80]
        torn, _ = split_places(places(points), how, 0.1, 0.1, seed=1, place_radius_m=0.0)
        assert (sum(len(set(np.array(rows) % 200)) for rows in ids(torn).values()) > 200) == bool(apart_m)


def test_places_are_numbered_by_their_first_rows_and_counted_where_two_tables_share_them():
    points = np.array([[50.0, 8.0], [10.0, 3.0], [50.0, 8.0], [np.nan, np.nan], [np.nan, np.nan]])
    assert place_numbers(points).tolist() == [0, 1, 0, 2, 3]
    assert place_numbers(points[:3] * 10, 410.0, "planar").tolist() == [0, 0, 0]
    assert place_numbers(points[3:]).tolist() == [0, 1]
    assert count_shared(points, points[[1, 3]]) == 1
    assert count_shared(points[[0, 2]], points) == 2


def test_a_split_of_ones_own_that_shares_places_is_told(caplog):
    train = Dataset.from_dict({"latitude": [1.0, 2.0, 3.0], "longitude": [1.0, 2.0, 3.0]})
    own = Dataset.from_dict({"latitude": [2.0, 2.0, 9.0], "longitude": [2.0, 2.0, None]})
    for rows in (None, {"a": own}, own.to_iterable_dataset(), train.select([]), own.select([2])):
        warn_of_shared_places(rows, train)
    warn_of_shared_places(own, None)
    assert not caplog.records
    warn_of_shared_places(own, train)
    assert "2 of the 3 rows to measure on show a place that training shows" in caplog.text


@pytest.mark.parametrize("points", [None, np.empty(0)])
def test_rows_without_positions_are_divided_one_by_one(points):
    rows, _ = split_rows(20, {"test": 0.2}, "random", points=points, seed=3)
    split = random_split(20, 0.2, 3)
    assert [rows["train"].tolist(), rows["test"].tolist()] == [
        split.train.tolist(),
        split.validation.tolist(),
    ]


def brute_force_km(a, b):
    a, b = np.radians(a)[:, None], np.radians(b)[None]
    h = np.sin((a[..., 0] - b[..., 0]) / 2) ** 2
    h = h + np.cos(a[..., 0]) * np.cos(b[..., 0]) * np.sin((a[..., 1] - b[..., 1]) / 2) ** 2
    return 2 * 6371.0088 * np.arcsin(np.sqrt(h))


def test_no_training_place_lies_near_a_held_out_one():
    points = scattered(1000)
    nearest = {}
    for buffer_km in (0.0, 10.0, 60.0):
        splits, dropped = split_places(places(points), "blocks", 0.1, 0.1, block_km=100, buffer_km=buffer_km)
        rows = ids(splits)
        held_out = points[rows["validation"] + rows["test"]]
        nearest[buffer_km] = brute_force_km(points[rows["train"]], held_out).min()
        assert dropped == 1000 - sum(map(len, rows.values()))
    assert nearest[0.0] < 10  # what the buffer is for
    assert nearest[10.0] > 10
    assert nearest[60.0] > 60


def test_a_share_of_nothing_is_no_split():
    splits, _ = split_places(places(scattered(20)), "random", 0.25, 0.0)
    assert {name: len(split) for name, split in splits.items()} == {"train": 15, "validation": 5}
    assert list(split_places(places(scattered(20)), "random", 0.0, 0.0)[0]) == ["train"]


@pytest.mark.parametrize(
    ("n", "how", "share", "reason"),
    [
        (1, "random", 0.1, "at least 2 rows"),
        (2, "random", 0.1, "at least 2 rows"),  # one for the test split, and one is no split
        (3, "stratified", 0.1, "single row"),
        (10, "random", 1.2, "--test_share must be between 0 and 1"),
        (10, "random", 0.5, "leave only 5"),  # half and half leave nothing to train on
        (10, "block", 0.1, "split must be one of stratified, random, blocks, got 'block'"),
    ],
)
def test_what_cannot_be_divided_is_refused(n, how, share, reason):
    states = [f"state {i}" for i in range(n)]
    with pytest.raises(DataError, match=reason):
        split_places(places(scattered(n), states), how, share, share)


def test_blocks_of_one_town_are_refused_with_advice():
    with pytest.raises(DataError, match="use a smaller --block_km"):
        split_places(places(50 + scattered(30) / 1e6), "blocks", 0.1, 0.1)


def test_a_radius_of_held_out_blocks_counts_each_block_once_or_is_not_promised():
    """Errors differ by block: places of blocks never seen are covered as often as promised, which places alone are not."""
    rng, covered = np.random.default_rng(0), {"blocks": [], "places": []}
    for _ in range(400):
        sizes = rng.integers(1, 40, 13)
        blocks = np.repeat(np.arange(13), sizes)
        errors = rng.lognormal(0, 1.2, 13)[blocks] * rng.uniform(0.8, 1.2, len(blocks))
        seen = blocks < 12
        for name, groups in (("blocks", blocks[seen]), ("places", None)):
            covered[name].append((errors[~seen] <= conformal_quantile(errors[seen], 0.9, groups)).mean())
    assert np.mean(covered["blocks"]) >= 0.89
    assert np.mean(covered["blocks"]) > np.mean(covered["places"])
    assert conformal_quantile(errors[seen][blocks[seen] < 8], 0.9, blocks[seen][blocks[seen] < 8]) is None
    one_each = rng.random(30)
    assert conformal_quantile(one_each, 0.9, np.arange(30)) == conformal_quantile(one_each, 0.9)


def test_only_held_out_blocks_tell_the_calibration_which_they_are():
    points = scattered(300)
    for how in ("random", "blocks"):
        splits, _ = split_places(places(points), how, 0.2, 0.1, block_km=200)
        validation = splits["validation"]
        where = points[ids(splits)["validation"]]
        blocks = calibration_blocks(validation.select(range(len(validation))), where)
        assert (blocks is None) == (how == "random")
    assert blocks.tolist() == block_numbers(where, 200_000).tolist()
    north = np.floor((where[:, 0] + 90) / 180 * round(np.pi * 6_371_008.8 / 200_000))
    assert len(set(zip(blocks, north, strict=True))) == len(set(blocks)) < len(where)


@pytest.mark.parametrize("views", [1, 2])
def test_a_photograph_under_two_names_is_on_one_side(tmp_path, views):
    """Uploaded twice, its position noted anew: places far apart, and one picture."""
    paths = [str(tmp_path / f"{i}.jpg") for i in range(80)]
    for i, path in enumerate(paths):
        Path(path).write_bytes(f"picture {i // 2:02}".encode())
    same = [[path, paths[0]][:views] for path in paths]  # one view that all share makes no copy
    data = places(scattered(80)).remove_columns("views")
    data = data.add_column("views", [[{"path": p, "bytes": None} for p in row] for row in same])
    splits, _ = split_places(data, "random", 0.2, 0.2, seed=3)
    pictures = {name: {row // 2 for row in rows} for name, rows in ids(splits).items()}
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [48, 16, 16]
    assert not pictures["train"] & (pictures["validation"] | pictures["test"])
    assert not pictures["validation"] & pictures["test"]
