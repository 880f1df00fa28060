"""Splits: sizes, fairness to classes, and no training row near a validation row."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geohf.errors import DataError
from geohf.geo import (
    EARTH_RADIUS_M,
    block_split,
    distance_matrix_m,
    great_circle_m,
    matches_within_m,
    random_split,
    stratified_split,
)


def check_partition(split, n):
    assert all(part.dtype == np.int64 for part in split)
    assert all((np.diff(part) > 0).all() for part in split)
    assert np.array_equal(np.sort(np.concatenate(split)), np.arange(n))


@pytest.mark.parametrize(
    ("n", "fraction", "held_out"), [(100, 0.15, 15), (10, 0.01, 1), (10, 0.99, 9), (7, 0.5, 4)]
)
def test_random_split(n, fraction, held_out):
    split = random_split(n, fraction, seed=3)
    check_partition(split, n)
    assert len(split.validation) == held_out
    assert len(split.buffer) == 0


def test_seeds():
    labels = np.repeat(np.arange(10), 30)
    points = np.random.default_rng(0).uniform(0, 1, (300, 2))
    for draw in (
        lambda seed: random_split(300, 0.2, seed),
        lambda seed: stratified_split(labels, 0.2, seed),
        lambda seed: block_split(points, 0.2, 5000, 1000, seed),
    ):
        assert all(np.array_equal(a, b) for a, b in zip(draw(1), draw(1), strict=True))
        assert not np.array_equal(draw(1).validation, draw(2).validation)


def test_random_split_is_uniform():
    hits = np.zeros(20)
    for seed in range(2000):
        hits[random_split(20, 0.25, seed).validation] += 1
    assert abs(hits / 2000 - 0.25).max() < 0.045  # 4.6 standard deviations


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=2, max_size=120), st.floats(0.02, 0.98), st.integers(0, 5))
def test_stratified_split(labels, fraction, seed):
    labels = np.array(labels)
    classes, sizes = np.unique(labels, return_counts=True)
    if sizes.max() < 2:
        with pytest.raises(ValueError, match="single row"):
            stratified_split(labels, fraction, seed)
        return
    split = stratified_split(labels, fraction, seed)
    check_partition(split, len(labels))
    for label, size in zip(classes, sizes, strict=True):
        held_out = int((labels[split.validation] == label).sum())
        assert held_out <= size - 1  # one row is left to train on, also of a class of one row
        # The share of every class, up to one row either way.
        assert held_out <= math.floor(size * fraction + 1e-9) + 1
        assert held_out >= min(math.floor(size * fraction + 1e-9), size - 1)
    wanted = min(max(round(len(labels) * fraction), 1), len(labels) - 1)
    assert len(split.validation) <= wanted or len(split.validation) == 1
    if (sizes * (1 - fraction) >= 1).all():  # where no class is held back, the total is met
        assert len(split.validation) == wanted


def test_stratified_split_by_hand():
    labels = np.array(["b"] * 100 + ["a"] * 10 + ["c"])
    split = stratified_split(labels, 0.2)
    held_out = labels[split.validation]
    assert [(held_out == name).sum() for name in "abc"] == [2, 20, 0]
    assert 110 in split.train


def test_stratified_draw_within_a_class_is_uniform():
    labels = np.repeat([0, 1], [5, 15])
    hits = np.zeros(20)
    for seed in range(2000):
        hits[stratified_split(labels, 0.2, seed).validation] += 1
    assert abs(hits / 2000 - 0.2).max() < 0.045


@pytest.mark.case("files-D7")
@pytest.mark.parametrize("where", ["city", "antimeridian", "pole", "world"])
def test_block_split_keeps_its_distance(where):
    rng = np.random.default_rng(1)
    offset = rng.uniform(-0.05, 0.05, (3000, 2))
    block_m, buffer_m = 1500.0, 300.0
    if where == "city":
        points = np.array([36.35, 127.4]) + offset
    elif where == "antimeridian":
        points = np.array([-17.0, 0]) + offset
        points[:, 1] = points[:, 1] % 360 - 180
    elif where == "pole":
        points = np.stack([90 - np.abs(offset[:, 0]), rng.uniform(-180, 180, 3000)], 1)
    else:
        points = np.stack([np.degrees(np.arcsin(rng.uniform(-1, 1, 3000))), rng.uniform(-180, 180, 3000)], 1)
        block_m, buffer_m = 1e6, 2e5
    split = block_split(points, 0.2, block_m, buffer_m, seed=4)
    check_partition(split, len(points))
    assert len(split.validation) == pytest.approx(600, abs=60)
    nearest = distance_matrix_m(points, points[split.validation]).min(1)
    assert nearest[split.train].min() > buffer_m
    assert nearest[split.buffer].max() <= buffer_m + 1e-6
    assert 0 < len(split.buffer) < 1500
    # Without a buffer the same rows are held out and the buffered ones are trained on.
    open_split = block_split(points, 0.2, block_m, 0, seed=4)
    assert np.array_equal(open_split.validation, split.validation)
    assert len(open_split.buffer) == 0
    assert len(matches_within_m(points[split.train], points[split.validation], buffer_m)[1]) == 0


def test_blocks_are_about_as_wide_as_high():
    # Along a parallel the held-out rows come in runs about a block long, at every latitude.
    for latitude in (0.0, 60.0, -80.0):
        step = math.degrees(10 / EARTH_RADIUS_M) / math.cos(math.radians(latitude))
        points = np.stack([np.full(4000, latitude), np.arange(4000) * step], 1)
        split = block_split(points, 0.3, 1000.0, seed=0)
        held_out = np.zeros(4000, bool)
        held_out[split.validation] = True
        edges = np.flatnonzero(np.diff(held_out.astype(int)))
        # Between two changes of side lie whole blocks.
        lengths = great_circle_m(points[edges[1:]], points[edges[:-1]])
        blocks = lengths / 1000.0
        assert len(blocks) > 3
        assert np.abs(blocks - blocks.round()).max() < 0.2
        assert blocks.round().min() >= 1


def test_block_split_in_the_plane():
    rng = np.random.default_rng(2)
    points = rng.uniform(180_000, 190_000, (2000, 2))
    split = block_split(points, 0.25, block_m=1000, buffer_m=100, seed=0, frame="planar")
    check_partition(split, 2000)
    gap = np.linalg.norm(points[:, None] - points[split.validation][None], axis=-1).min(1)
    assert gap[split.train].min() > 100
    assert gap[split.buffer].max() <= 100 + 1e-6
    blocks = {tuple(block) for block in np.floor(points[split.validation] / 1000)}
    others = {tuple(block) for block in np.floor(points[np.r_[split.train, split.buffer]] / 1000)}
    assert not blocks & others


def test_block_split_takes_the_smallest_block_when_all_are_large():
    points = np.repeat([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]], [50, 30, 40], axis=0)
    split = block_split(points, 0.05, block_m=1000)
    assert split.validation.tolist() == list(range(50, 80))


def test_errors():
    near = np.array([36.35, 127.4]) + np.random.default_rng(3).uniform(0, 1e-5, (50, 2))
    with pytest.raises(ValueError, match="all 50 rows lie in one block"):
        block_split(near, 0.2, 1e5)
    with pytest.raises(ValueError, match=r"no training rows are left.*use a smaller buffer_m"):
        block_split([[0, 0], [0, 1], [0, 2]], 0.3, 1000, buffer_m=1e6)
    with pytest.raises(ValueError, match="block_m must be finite and above zero"):
        block_split(near, 0.2, 0)
    with pytest.raises(ValueError, match="buffer_m must be finite and at least zero"):
        block_split(near, 0.2, 10, -1)
    with pytest.raises(DataError, match="row 0"):
        block_split([[math.nan, 0], [1, 1]], 0.2, 10)
    with pytest.raises(DataError, match="row 0"):
        block_split([[math.inf, 0], [1, 1]], 0.2, 10, frame="planar")
    for fraction in (0, 1, -0.1, math.nan):
        with pytest.raises(ValueError, match="fraction must be between"):
            random_split(10, fraction)
        with pytest.raises(ValueError, match="fraction must be between"):
            stratified_split([0, 0, 1], fraction)
    with pytest.raises(ValueError, match="at least 2 rows"):
        random_split(1, 0.5)
    with pytest.raises(ValueError, match=r"shape \(n,\)"):
        stratified_split([[0], [1]], 0.5)
