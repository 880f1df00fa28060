"""Windows: what may be seen, what was known, and the baselines."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geohf import DataError, TileSequenceConfig
from geohf.tiles.cutting import build_cache
from geohf.tiles.dataset import TileSequences
from geohf.tiles.table import load_tiles
from geohf.tiles.windows import baselines, make_windows


def test_forecasts_never_see_the_targets_year(tiles):
    table, cache = tiles
    windows = make_windows(table, cache, "forecast", target_years=2)
    assert len(windows) == 16
    assert (windows.frames[windows.mask] < windows.steps[:, None].repeat(2, 1)[windows.mask]).all()
    year_2020 = windows.take(windows.steps == 1)
    assert year_2020.mask.tolist() == [[False, True]] * 8
    np.testing.assert_allclose(year_2020.last[:, 0], table.values[:, 0, 0])
    np.testing.assert_allclose(
        windows.take(windows.steps == 2).trend, table.values[:, 2]
    )  # it grows by 0.1 a year


@pytest.mark.parametrize(("task", "same"), [("forecast", True), ("estimate", False)])
def test_other_pixels_in_the_targets_year_change_estimates_only(world, tiff, tmp_path, task, same):
    config, batches = TileSequenceConfig(image_size=[10, 12]), []
    for _ in range(2):
        table = load_tiles(world.csv, world.images, world.labels)
        cache = build_cache(table, tmp_path / "cache", 1)
        windows = make_windows(table, cache, task, target_years=2)
        batches.append(TileSequences(cache, windows, config).__getitems__(list(range(8, 16))))
        for region in ("7", "8"):
            tiff(world.path("2021", region), 255 - world.pixels["2021", region], **world.geo)
    assert windows.steps[8:].tolist() == [2] * 8
    one, two = (batch["pixel_values"][batch["step_mask"]] for batch in batches)
    assert torch.equal(one, two) == same


def test_estimates_see_it_but_not_its_value(tiles):
    table, cache = tiles
    windows = make_windows(table, cache, "estimate")
    assert windows.frames.tolist() == [[0, 1, 2]] * 8
    np.testing.assert_allclose(windows.last, table.values[:, 1])


@pytest.mark.case("files-D17")
def test_a_masked_frame_is_zero_and_years_without_any_frame_are_left_out(world, tmp_path):
    for label in ("2019", "2020"):
        world.path(label, "7").unlink()
    table = load_tiles(world.csv, world.images, world.labels, max_missing=0.7)
    cache = build_cache(table, tmp_path, 1)
    assert make_windows(table, cache).rows.tolist() == [4, 5, 6, 7]
    windows = make_windows(table, cache, "estimate")
    assert windows.mask[0].tolist() == [False, False, True]
    batch = TileSequences(cache, windows, TileSequenceConfig(image_size=[8, 8])).__getitems__([0])
    assert not batch["pixel_values"][0, :2].any()
    assert batch["pixel_values"][0, 2].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_years": 3}, "target_years must lie between 1 and 2 for 3 labels, got 3"),
        ({"frames": -1}, "frames must be at least 1, got -1"),
        ({"task": "estimate", "image": True}, "an image that the model has seen needs no prediction"),
    ],
)
def test_windows_that_cannot_be(tiles, settings, message):
    with pytest.raises(DataError, match=message):
        make_windows(*tiles, **settings)


@pytest.mark.case("six-2", "files-A11", "files-D16")
@pytest.mark.parametrize(
    ("labels", "trend"),
    [
        # values 0.1, 0.5, then July 2016: 8 months brought 0.4, the next 4 bring 0.2
        (["201507", "201603", "201607"], 0.7),
        # 10 days brought 0.4, the next 5 bring 0.2
        (["2019-12-27", "2020-01-06", "2020-01-11"], 0.7),
        (["dry", "wet", "dry again"], 0.9),
    ],
)
def test_the_trend_goes_by_the_labels_times(world, tiff, tmp_path, labels, trend, caplog):
    values = dict(zip(world.labels, (0.1, 0.5, 0.6), strict=True))
    names = dict(zip(world.labels, labels, strict=True))
    for old, new in names.items():
        for region in ("7", "8"):
            tiff(world.path(new, region), world.pixels[old, region])
    frame = world.frame.assign(
        target=world.frame.label_id.map(values), label_id=world.frame.label_id.map(names)
    )
    table = load_tiles(frame, world.images, labels)
    windows = make_windows(table, build_cache(table, tmp_path, 1))
    np.testing.assert_allclose(windows.trend, np.full((8, 1), trend), atol=1e-3)
    assert ("equal steps apart" in caplog.text) == (labels[0] == "dry")


def test_baselines_by_hand():
    values = np.array(
        [[0.0, 1.0, 3.0, np.nan, 99.0], [5.0, np.nan, np.nan, np.nan, 99.0], [np.nan] * 4 + [99.0]]
    )
    last, trend = baselines(
        values[..., None], np.array([4, 4, 4]), np.array([2010.0, 2011, 2012, 2013, 2014])
    )
    # the line through (0, 0), (1, 1), (2, 3) is 1.5 t - 1/6: at 4 it is 5.8333
    np.testing.assert_allclose(last[:, 0], [3, 5, np.nan])
    np.testing.assert_allclose(trend[:, 0], [6 - 1 / 6, 5, np.nan])
