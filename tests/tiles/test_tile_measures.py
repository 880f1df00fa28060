"""Metrics, losses and image metrics: numbers that a hand can check, and references written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from geohf.tiles.configuration import TileSequenceConfig
from geohf.tiles.image_metrics import image_measures, image_statistics, psnr, ssim
from geohf.tiles.losses import regression_loss
from geohf.tiles.metrics import all_targets, coverage, number_measures, tile_metrics
from geohf.tiles.windows import TileWindows


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


def test_a_prediction_that_is_no_number_is_left_out_of_no_error():
    config = TileSequenceConfig(answers="level", level_mean=[0.0], level_std=[2.0])
    truth, none = np.array([[1.0], [2.0], [np.nan]]), np.zeros((3, 1))
    windows = TileWindows(none, none, none, none, truth, none * np.nan, none * np.nan)
    values = torch.tensor([[[1.0]], [[3.0]], [[9.0]]])
    assert number_measures(config, values, windows)["nrmse"] == pytest.approx((0.5**2 / 2) ** 0.5)
    values[1] = torch.nan
    metrics = number_measures(config, values, windows)
    assert np.isnan([metrics["mae"], metrics["nrmse"]]).all()


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
    # a prediction that is no number is not a perfect one, nor is one that nothing is known of
    assert np.isnan(psnr(image.masked_fill(image > 200, torch.nan), image))
    assert np.isnan(psnr(image, torch.full_like(image, torch.nan)))


def test_ssim_is_the_usual_one_with_gaussian_weights():
    """Wang et al. 2004 written out with scipy's filter, a 5 pixel rim left out."""
    rng = np.random.default_rng(0)
    truth = gaussian_filter(rng.random((40, 33)), 2) * 200
    predicted = truth + rng.normal(0, 5, truth.shape)

    def mean(x):
        return gaussian_filter(x, 1.5, radius=5)

    mx, my, c1, c2 = mean(predicted), mean(truth), (0.01 * 255) ** 2, (0.03 * 255) ** 2
    vx, vy = mean(predicted**2) - mx**2, mean(truth**2) - my**2
    covariance = mean(predicted * truth) - mx * my
    index = (2 * mx * my + c1) * (2 * covariance + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    ours = ssim(*(torch.from_numpy(x)[None, None] for x in (predicted, truth)))
    assert ours == pytest.approx(index[5:-5, 5:-5].mean(), abs=1e-6)
    assert 0.2 < ours < 0.95


def test_drawn_images_measure_as_if_they_were_all():
    config = TileSequenceConfig(head="image", band_mean=[100.0, 50.0], band_std=[20.0, 10.0])
    generator = torch.Generator().manual_seed(0)
    values, labels = (torch.randn(6, 2, 12, 12, generator=generator) for _ in range(2))
    labels[1, :, :4] = torch.nan
    measure = image_statistics(values, labels, config)
    whole = image_measures(values, labels, config)
    assert measure(np.arange(6)) == pytest.approx({name: whole[name] for name in ("psnr", "mae")}, rel=1e-5)
    rows = [0, 1, 1, 4]
    drawn = image_measures(values[rows], labels[rows], config)
    assert measure(np.array(rows))["mae"] == pytest.approx(drawn["mae"], rel=1e-5)
