"""How alike two images are."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F


def psnr(predicted: torch.Tensor, truth: torch.Tensor, data_range: float = 255.0) -> float:
    """Peak signal-to-noise ratio in dB over all entries whose truth is known (not NaN).

    >>> psnr(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 25.5))
    20.0
    """
    known = truth.isfinite()
    error = ((predicted - truth)[known].double() ** 2).mean()
    return round(float(10 * torch.log10(data_range**2 / error)), 6) if error > 0 else math.inf


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
