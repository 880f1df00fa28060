"""How alike two images are."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from geohf.tiles.configuration import TileSequenceConfig


def psnr(predicted: torch.Tensor, truth: torch.Tensor, data_range: float = 255.0) -> float:
    """Peak signal-to-noise ratio in dB over all entries whose truth is known (not NaN); NaN where none is.

    >>> psnr(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 25.5))
    20.0
    """
    known = truth.isfinite()
    error = ((predicted - truth)[known].double() ** 2).mean()
    return math.inf if error == 0 else round(float(10 * torch.log10(data_range**2 / error)), 6)


def ssim(predicted: torch.Tensor, truth: torch.Tensor, data_range: float = 255.0) -> float:
    """Structural similarity (Wang et al. 2004): Gaussian window of 11 pixels, sigma 1.5, each band by itself.

    Args:
        predicted, truth: (n, bands, height, width), sides of at least 11; windows that hold an unknown truth
            (NaN) do not count.
        data_range: of the values, 255 for uint8.

    Returns:
        The mean over all windows, at most 1; NaN where no window counts.
    """
    if min(truth.shape[-2:]) < 11:
        raise ValueError(f"SSIM needs images of at least 11 x 11 pixels, got {tuple(truth.shape[-2:])}")
    bands = truth.shape[1]
    apart = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-(apart**2) / (2 * 1.5**2))
    window = (window / window.sum())[:, None] * (window / window.sum())
    window = window.expand(bands, 1, 11, 11)

    def mean(x):
        return F.conv2d(x, window, groups=bands)

    unknown = ~truth.isfinite()
    counts = mean(unknown.double()) == 0
    x, y = predicted.double().masked_fill(unknown, 0), truth.double().masked_fill(unknown, 0)
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    index = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return float(index[counts].mean()) if bool(counts.any()) else math.nan


def image_measures(
    values: torch.Tensor, labels: torch.Tensor, config: TileSequenceConfig
) -> dict[str, float]:
    """PSNR, SSIM and MAE of images in their own unit, with the truth's range as the data range.

    Args:
        values, labels: (n, bands, height, width) standardized, or (n, prediction_length, ...); NaN where the truth is not
            known.

    Returns:
        `psnr`, `mae`, `nrmse` (in spreads of the training pixels), and `ssim` where the images are large enough; of several
        frames these over all, and as `lead_1_psnr` those of each that has a truth.
    """
    mean, std = (torch.tensor(x)[:, None, None] for x in (config.band_mean, config.band_std))
    span = _span(labels * std + mean)
    if labels.ndim == 4:
        return _measures(values, labels, mean, std, span)
    metrics = _measures(values.flatten(0, 1), labels.flatten(0, 1), mean, std, span)
    for lead in range(labels.shape[1]):
        if bool(labels[:, lead].isfinite().any()):
            measures = _measures(values[:, lead], labels[:, lead], mean, std, span)
            metrics |= {f"lead_{lead + 1}_{name}": value for name, value in measures.items()}
    return metrics


def _span(truth: torch.Tensor) -> float:
    known = truth[truth.isfinite()]
    return float(known.max() - known.min()) or 1.0


def _measures(
    values: torch.Tensor, labels: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, span: float
) -> dict[str, float]:
    predicted, truth = values * std + mean, labels * std + mean
    known = labels.isfinite()
    metrics = {
        "psnr": psnr(predicted, truth, span),
        "mae": float((predicted - truth)[known].abs().mean()),
        "nrmse": float((values - labels)[known].square().mean().sqrt()),
    }
    return metrics | ({"ssim": ssim(predicted, truth, span)} if min(truth.shape[-2:]) >= 11 else {})


def image_statistics(
    values: torch.Tensor, labels: torch.Tensor, config: TileSequenceConfig
) -> Callable[[np.ndarray], dict[str, float]]:
    """From row numbers to the PSNR and MAE of those images, quickly, for intervals; see `image_measures`."""
    mean, std = (torch.tensor(part)[:, None, None] for part in (config.band_mean, config.band_std))
    truth, known = labels * std + mean, labels.isfinite()
    span = _span(truth)
    error = torch.where(known, (values - labels) * std, 0.0).double()
    squared, absolute, count = (part.flatten(1).sum(1).numpy() for part in (error**2, error.abs(), known))

    def measure(rows: np.ndarray) -> dict[str, float]:
        n = count[rows].sum()
        psnr = 10 * np.log10(span**2 * n / max(squared[rows].sum(), 1e-300))
        return {"psnr": psnr, "mae": absolute[rows].sum() / n}

    return measure
