"""What may be seen, what was known, splits, losses, metrics: on numbers that a hand can check."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from geohf import DataError, TileSequenceConfig
from geohf.tiles.cache import build_cache
from geohf.tiles.dataset import TileSequences, band_statistics, turned
from geohf.tiles.derive import colour_share, ndvi_fall
from geohf.tiles.frames import fill_holes, prepare_frames, resize_frames
from geohf.tiles.image_metrics import psnr, ssim
from geohf.tiles.losses import regression_loss
from geohf.tiles.metrics import all_targets, coverage, tile_metrics
from geohf.tiles.samples import baselines, make_samples
from geohf.tiles.splits import split_tiles
from geohf.tiles.table import load_tiles


@pytest.fixture
def tiles(world, tmp_path):
    table = load_tiles(world.csv, world.images, world.labels)
    return table, build_cache(table, tmp_path / "cache", 1)


def test_forecasts_never_see_the_targets_year(tiles):
    table, cache = tiles
    samples = make_samples(table, cache, "forecast", target_years=2)
    assert len(samples) == 16
    assert (samples.window[samples.mask] < samples.steps[:, None].repeat(2, 1)[samples.mask]).all()
    year_2020 = samples.take(samples.steps == 1)
    assert year_2020.mask.tolist() == [[False, True]] * 8
    np.testing.assert_allclose(year_2020.last[:, 0], table.values[:, 0, 0])
    np.testing.assert_allclose(
        samples.take(samples.steps == 2).trend, table.values[:, 2]
    )  # it grows by 0.1 a year


def test_estimates_see_it_but_not_its_value(tiles):
    table, cache = tiles
    samples = make_samples(table, cache, "estimate")
    assert samples.window.tolist() == [[0, 1, 2]] * 8
    np.testing.assert_allclose(samples.last, table.values[:, 1])


def test_frames_that_the_model_gets_are_the_files(tiles, world):
    table, cache = tiles
    config = TileSequenceConfig(image_size=[10, 12], band_mean=[1.0, 2.0, 3.0], band_std=[2.0, 2.0, 4.0])
    batch = TileSequences(cache, table.sizes, make_samples(table, cache), config).__getitems__([6, 0])
    wanted = (world.crop(6, "2020") - np.array([1, 2, 3])) / [2, 2, 4]
    np.testing.assert_allclose(batch["pixel_values"][0, 1].movedim(0, -1), wanted, rtol=1e-6)
    assert batch["labels"].flatten().tolist() == pytest.approx([0.27, 0.2])


def test_a_masked_frame_is_zero_and_years_without_any_frame_are_left_out(world, tmp_path):
    for label in ("2019", "2020"):
        world.path(label, "7").unlink()
    table = load_tiles(world.csv, world.images, world.labels, max_missing=0.7)
    cache = build_cache(table, tmp_path, 1)
    assert make_samples(table, cache).rows.tolist() == [4, 5, 6, 7]
    samples = make_samples(table, cache, "estimate")
    assert samples.mask[0].tolist() == [False, False, True]
    batch = TileSequences(cache, table.sizes, samples, TileSequenceConfig(image_size=[8, 8])).__getitems__(
        [0]
    )
    assert not batch["pixel_values"][0, :2].any()
    assert batch["pixel_values"][0, 2].any()


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


def test_metrics_by_hand():
    metrics = tile_metrics([1.0, 3.0, 9.0], [2.0, 3.0, np.nan], last=[0.0, 4.0, 0.0], trend=[2.0, 1.0, 0.0])
    # errors -1, 0; persistence errs by 2 and 1 (MSE 2.5), the trend by 0 and 2 (MSE 2); rates 2 and -1 (variance 2.25)
    assert metrics == pytest.approx(
        {
            "mae": 0.5,
            "rmse": 0.5**0.5,
            "r2": 1 - 1 / 0.5,
            "skill_persistence": 0.8,
            "skill_trend": 0.75,
            "r2_rate": 1 - 1 / 4.5,
        }
    )
    two = np.array([[1.0, 10.0], [3.0, 30.0]])
    both = all_targets(["a", "b"], two, two + np.array([[1, 10], [0, 0]]), two - 1, two - 1)
    assert both["a_mae"] == 0.5
    assert both["b_mae"] == 5
    assert coverage([0, 0, 0], [1, 1, 1], [0.5, 2, np.nan]) == 0.5


def test_losses_by_hand():
    predicted, truth = torch.tensor([[0.0], [0.0], [0.0]]), torch.tensor([[2.0], [-1.0], [torch.nan]])
    assert regression_loss("mse", predicted, truth).item() == pytest.approx(2.5)
    assert regression_loss("mae", predicted, truth).item() == pytest.approx(1.5)
    assert regression_loss("huber", predicted, truth).item() == pytest.approx((1.5 + 0.5) / 2)
    # short by 2 and long by 1 at the quantile 0.9: 1.8 and 0.1; at 0.5: 1 and 0.5
    quantiles = regression_loss("quantile", predicted[..., None].repeat(1, 1, 2), truth, [0.5, 0.9])
    assert quantiles.item() == pytest.approx(((1 + 1.8) / 2 + (0.5 + 0.1) / 2) / 2)
    assert regression_loss("mse", predicted, truth, items=torch.tensor(10.0)).item() == pytest.approx(0.5)
    assert regression_loss("mse", predicted, truth * torch.nan).item() == 0


def test_quantile_loss_finds_the_quantile():
    draws = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    answer = torch.zeros(1, 2, requires_grad=True)
    optimizer = torch.optim.Adam([answer], 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        regression_loss("quantile", answer.expand(4000, 1, 2), draws, [0.1, 0.8]).backward()
        optimizer.step()
    shares = [(draws < value).float().mean().item() for value in answer[0]]
    assert shares == pytest.approx([0.1, 0.8], abs=0.01)


def test_ssim_and_psnr():
    image = torch.rand(1, 2, 32, 32, generator=torch.Generator().manual_seed(0)) * 255
    assert ssim(image, image) == pytest.approx(1)
    assert psnr(image + 25.5, image) == pytest.approx(20, abs=1e-4)
    flat = torch.full((1, 1, 16, 16), 100.0)
    # two flat images differ in luminance only: (2 * 100 * 150 + c1) / (100^2 + 150^2 + c1)
    c1 = (0.01 * 255) ** 2
    assert ssim(flat + 50, flat) == pytest.approx((30000 + c1) / (32500 + c1))
    holed = image.clone()
    holed[..., :4, :4] = torch.nan
    assert ssim(image.index_fill(2, torch.tensor([0, 1]), 0), holed) < 1
    assert psnr(image, holed) == np.inf


def test_resizing_is_pillows_to_one_grey_level():
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
    ready, shares = prepare_frames(frame.copy(), (2, 2), [10.0], [10.0], nodata=0)
    assert ready[0, 0].tolist() == [[0, 2], [1, 1]]
    assert shares.tolist() == [0.25]


def test_statistics_are_the_training_pixels(tiles, world):
    table, cache = tiles
    samples = make_samples(table, cache).take(np.array([0, 5]))
    pixels = [world.crop(row, label).reshape(-1, 3) for row in (0, 5) for label in ("2019", "2020")]
    mean, std = band_statistics(cache, table.sizes, samples)
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


def test_derived_targets_by_hand(world, tiff, tmp_path):
    frames = {
        "2019": np.array([[[10, 30], [10, 10]], [[5, 5], [0, 0]]], np.uint8),
        "2020": np.array([[[10, 20], [10, 20]], [[5, 5], [9, 1]]], np.uint8),
    }
    for label, pixels in frames.items():
        tiff(world.images / label / "7.tif", pixels, nodata=0)
    frame = world.frame.iloc[[0, 1]].assign(region_coordinates="(0, 0, 2, 2)", label_id=["2019", "2020"])
    table = load_tiles(frame, world.images, ["2019", "2020"])
    cache = build_cache(table, tmp_path, 1)
    fall = ndvi_fall(cache, table, nir=2, red=1)
    # the first pixel falls, the second rises, the third stays, the fourth was not measured in 2019
    np.testing.assert_allclose(fall, [[np.nan, 1 / 3]])
    np.testing.assert_allclose(colour_share(cache, table, (10, 20)), [[0, 0.5]])
    with pytest.raises(DataError, match="there is no band 4, the images have 2"):
        ndvi_fall(cache, table, nir=4, red=1)


def grid(tmp_path, tiff, regions=1, side=96):
    import pandas as pd

    rows = []
    for region in range(regions):
        for label in ("1", "2"):
            tiff(tmp_path / "Images" / label / f"{region}.tif", np.ones((side, side, 1), np.uint8))
        rows += [
            {"region_id": region, "target": 0.0, "region_coordinates": (x, y, x + 8, y + 8)}
            for y in range(0, side, 8)
            for x in range(0, side, 8)
        ]
    frame = pd.DataFrame(rows).assign(tile_id=range(len(rows)))
    return load_tiles(frame, tmp_path / "Images", ["1", "2"])


def test_blocks_keep_training_tiles_away(tmp_path, tiff):
    table = grid(tmp_path, tiff, regions=2)
    splits, buffer = split_tiles(table, "blocks", 0.15, 0.15, block_px=32, buffer_px=4)
    assert buffer > 0
    assert sum(map(len, splits.values())) + buffer == len(table)
    train = splits["train"]
    for name in ("validation", "test"):
        for row in splits[name].tolist():
            near = train[table.region[train] == table.region[row]]
            low, high = table.boxes[near, :2], table.boxes[near, 2:]
            gaps = np.maximum(low - table.boxes[row, 2:], table.boxes[row, :2] - high).clip(0)
            assert np.hypot(*gaps.T).min() >= 4


def test_regions_are_held_out_whole(tmp_path, tiff):
    table = grid(tmp_path, tiff, regions=6, side=16)
    splits, _ = split_tiles(table)
    held = [set(table.region[rows].tolist()) for rows in splits.values()]
    assert sum(map(len, held)) == 6
    assert not held[0] & held[1]


def test_a_random_split_needs_a_flag_and_warns(tmp_path, tiff, caplog):
    table = grid(tmp_path, tiff)
    with pytest.raises(DataError, match="--allow_leaks"):
        split_tiles(table, "random")
    splits, _ = split_tiles(table, "random", allow_leaks=True)
    assert len(splits["test"]) == round(0.15 * len(table))
    assert "the numbers will flatter" in caplog.text
