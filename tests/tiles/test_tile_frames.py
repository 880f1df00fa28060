"""From native pixels to what a model sees: resizing, holes, statistics, augmentation."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from geohf import DataError, TileSequenceConfig
from geohf.tiles.augmentation import turned
from geohf.tiles.dataset import TileSequences
from geohf.tiles.frames import fill_holes, prepare_frames, resize_frames
from geohf.tiles.scales import _statistics, band_statistics, target_scales
from geohf.tiles.windows import make_windows


def test_frames_that_the_model_gets_are_the_files(tiles, world):
    table, cache = tiles
    config = TileSequenceConfig(image_size=[10, 12], band_mean=[1.0, 2.0, 3.0], band_std=[2.0, 2.0, 4.0])
    batch = TileSequences(cache, make_windows(table, cache), config).__getitems__([6, 0])
    wanted = (world.crop(6, "2020") - np.array([1, 2, 3])) / [2, 2, 4]
    np.testing.assert_allclose(batch["pixel_values"][0, 1].movedim(0, -1), wanted, rtol=1e-6)
    assert batch["labels"].flatten().tolist() == pytest.approx([0.27, 0.2])


def test_resizing_is_pillows_to_one_gray_level():
    noise = np.random.default_rng(0).integers(0, 255, (3, 40, 45, 3), np.uint8)
    # Pillow rounds and clips between the passes over rows and columns, in an order of its own
    smooth = (
        (127 + 100 * np.sin(np.mgrid[:40, :45].sum(0) / 4))[None, ..., None].astype(np.uint8).repeat(3, -1)
    )
    for frames, size in ((noise, (64, 64)), (smooth, (20, 70))):
        ours = resize_frames(frames, size).numpy()
        theirs = [np.asarray(Image.fromarray(f).resize(size[::-1], Image.Resampling.BICUBIC)) for f in frames]
        assert np.abs(ours - np.stack(theirs)).max() <= 1


def test_pixels_without_data_take_the_mean_of_the_others():
    frame = np.array([[[10], [30]], [[0], [20]]], np.uint8)[None]
    filled = fill_holes(frame.copy(), (frame == 0)[..., 0])
    assert filled[0, 1, 0, 0] == 20
    ready = prepare_frames(frame.copy(), (2, 2), [10.0], [10.0], (frame == 0)[..., 0])
    assert ready[0, 0].tolist() == [[0, 2], [1, 1]]


@pytest.mark.parametrize("dtype", [np.uint8, bool])
def test_pixels_without_data_of_a_band_of_ones_and_zeros_take_the_more_frequent_one(dtype):
    frame = np.ones((1, 4, 4, 2), dtype)
    frame[0, 0, 0], frame[0, 1:, 0, 1] = (0, 0), 0  # zeros: one of twelve, four of twelve
    holes = np.zeros((1, 4, 4), bool)
    holes[0, :, 3] = True
    assert np.unique(fill_holes(frame, holes)[0, :, 3], axis=0).tolist() == [[1, 1]]
    frame[0, 1:, :3, 0] = 0  # nine of twelve
    assert np.unique(fill_holes(frame, holes)[0, :, 3], axis=0).tolist() == [[0, 1]]


def test_bands_and_targets_in_small_units_are_standardized_and_constant_ones_are_not():
    rng = np.random.default_rng(0)
    bands = np.stack([rng.normal(3e-9, 5e-10, 500), rng.normal(280, 9, 500), np.full(500, 0.1)], 1)
    mean, std = _statistics([bands[:200], bands[200:]])
    np.testing.assert_allclose(mean, bands.mean(0))
    np.testing.assert_allclose(std, [*bands.std(0)[:2], 1.0], rtol=1e-6)
    with pytest.raises(DataError, match=r"the same in every band \(0.1\)"):
        _statistics([bands[:, 2:]])
    last = rng.normal(1e-13, 2e-14, (50, 1))
    truth = 0.5 * last + rng.normal(0, 1e-15, (50, 1))
    scales = target_scales(SimpleNamespace(truth=truth, last=last), [], True)
    assert scales["last_slope"][0] == pytest.approx(0.5, abs=0.05)
    np.testing.assert_allclose((scales["level_std"][0], scales["change_std"][0]), (1e-14, 1e-15), rtol=0.3)


def test_statistics_are_the_training_pixels(tiles, world):
    table, cache = tiles
    windows = make_windows(table, cache).take(np.array([0, 5]))
    pixels = [world.crop(row, label).reshape(-1, 3) for row in (0, 5) for label in ("2019", "2020")]
    mean, std = band_statistics(cache, windows)
    np.testing.assert_allclose(mean, np.concatenate(pixels).mean(0))
    np.testing.assert_allclose(std, np.concatenate(pixels).std(0))


@pytest.mark.parametrize("shape", [(6, 6), (4, 6)])
def test_augmentation_acts_alike_on_every_frame_and_the_target(shape):
    torch.manual_seed(0)
    one = torch.rand(64, 1, 2, *shape)
    batch = turned({"pixel_values": one.repeat(1, 3, 1, 1, 1), "labels": one[:, 0]}, image=True)
    frames = batch["pixel_values"]
    assert torch.equal(frames[:, 0], frames[:, 2])
    assert torch.equal(frames[:, 0], batch["labels"])
    kinds = {
        next(k for k, way in enumerate(_ways(x)) if way.shape == y.shape and torch.equal(way, y))
        for x, y in zip(one[:, 0], batch["labels"], strict=True)
    }
    assert len(kinds) == (8 if shape[0] == shape[1] else 4)


def _ways(x):
    return [way for y in (x, x.transpose(-1, -2)) for way in (y, y.flip(-1), y.flip(-2), y.flip(-1, -2))]
